"""Where errors stop, and which clock is read."""

import ast

from tests.tidy.tree import modules

# `file:function` → why everything may be caught there. Anywhere else an unknown error must travel.
CATCHES_ALL = {}
WIDE = {"Exception", "BaseException"}
# Wall time jumps; a deadline must not. Only what a person reads may use it.
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "date.today"}
WALL_CLOCK_ALLOWED = {}


def names_caught(node):
    if node.type is None:
        return {"BaseException"}
    types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return {ast.unparse(kind) for kind in types}


def wide_catches(tree, path):
    """`path:function` of every place that catches everything, `contextlib.suppress` included."""
    found = set()

    def walk(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.ExceptHandler) and names_caught(node) & WIDE:
            found.add(f"{path}:{function}")
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and {ast.unparse(argument) for argument in node.args} & WIDE
        ):
            found.add(f"{path}:{function}")
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(tree, "module")
    return found


def test_everything_is_caught_at_named_boundaries_only():
    found = set().union(*(wide_catches(m.tree, m.path.removeprefix("src/muleteer/")) for m in modules()))
    assert found - set(CATCHES_ALL) == set(), "give a reason in CATCHES_ALL, or catch less"
    assert set(CATCHES_ALL) - found == set(), "these no longer catch everything"


def test_wide_catches_are_found():
    code = """
def a():
    try: pass
    except Exception: pass
def b():
    try: pass
    except (OSError, BaseException): pass
async def c():
    try: pass
    except: pass
def d():
    with contextlib.suppress(Exception): pass
def e():
    try: pass
    except OSError: pass
"""
    assert wide_catches(ast.parse(code), "x") == {"x:a", "x:b", "x:c", "x:d"}


def test_nothing_that_times_out_reads_the_wall_clock():
    found = {
        f"{module.path.removeprefix('src/muleteer/')}:{node.lineno} {ast.unparse(node.func)}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in WALL_CLOCKS
        and module.path.removeprefix("src/muleteer/") not in WALL_CLOCK_ALLOWED
    }
    assert found == set()


def test_wall_time_is_not_imported_by_name():
    wrong = [
        module.path
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "time"
        and {alias.name for alias in node.names} & {"time", "time_ns"}
    ]
    assert wrong == []
