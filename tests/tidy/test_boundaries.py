"""Where errors stop, and which clock is read."""

import ast

from tests.tidy.tree import modules

# `file:function` → why everything may be caught there. Anywhere else an unknown error must travel.
CATCHES_ALL = {
    "cli/detach.py:_serve": "the detached server has no terminal: the log is the last place that can tell",
    "control/controller.py:_guarded": "the control step: a fault in one part becomes a problem in status",
    "engine/ray/cluster.py:_guarded": "the boundary to Ray: whatever its many parts raise becomes a state with a sentence",
    "gateway/http/protocol.py:_begin": "the HTTP boundary: a fault of ours is a 500 and a log line, not a dead gateway",
    "gateway/http/protocol.py:_run": "the HTTP boundary: a fault of ours is a 500 and a log line, not a dead gateway",
    "gateway/http/turn.py:abandon": "the HTTP boundary: the connection must be closed whatever the application does",
    "replica/__main__.py:_serve_sync": "the user's close() must not turn a clean stop into a crash",
    "replica/__main__.py:live": "the user's close() must not turn a clean stop into a crash",
    "replica/answer.py:answer": "the user's predict: whatever it raises is the answer",
    "replica/answer.py:answer_async": "the user's predict: whatever it raises is the answer",
    "replica/batch.py:_run": "the user's predict_batch: whatever it raises is the answer",
    "replica/batch.py:_run_async": "the user's predict_batch: whatever it raises is the answer",
    "replica/batch.py:_work": "the user's types: their validators run in here",
    "replica/encode.py:_explain": "the user's types, looked into for a message",
    "replica/encode.py:_fault": "the user's types, looked into for a message",
    "replica/encode.py:encode": "the user's types: their properties and serialisers run in here",
    "replica/load.py:_construct": "the user's constructor: whatever it raises is the reason told",
    "replica/load.py:_import_file": "the user's module: whatever it raises is the reason told",
    "replica/load.py:_import_package": "the user's module: whatever it raises is the reason told",
    "replica/load.py:load": "the user's properties and __getattr__, looked at for predict, example and close",
    "replica/signature.py:resolved_hints": "the user's annotations are expressions that may raise anything",
    "replica/traces.py:say": "the user's __str__",
}
WIDE = {"Exception", "BaseException"}
# Wall time jumps; a deadline must not. Only what a person reads may use it.
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "date.today"}
WALL_CLOCK_ALLOWED = {
    "gateway/http/server.py": "the Date header",
    "replica/source.py": "how long ago a file was edited; a jump costs the time to compile it, or brings Python's own rule",
    "supervise/rundir.py": "the time of the start, for a person who reads the lock",
}


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
