"""Sizes, names and words: what a reader may rely on in every file of src, and what never gets committed."""

import ast
import re

from tests.tidy.tree import ROOT, modules, repository_files, text_of

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
FORBIDDEN_WORDS = {"worker", "manager", "handler", "helper", "util", "common"}
TODO_MARKS = ("TO" + "DO", "FIX" + "ME", "X" * 3)
CONFLICT = re.compile(r"(?:<{7}|>{7}|[|]{7}) \S|={7}$")
# Written in pieces, so that this file does not find itself.
FORBIDDEN_TEXT = {
    "a path of one machine": re.compile(r"(?<![\w.})\]-])/(?:ro" + r"ot|ho" + r"me|wo" + r"rk)/[\w.]"),
    "a package registry": re.compile(
        r"(?:pypi|pythonh" + r"osted|npm" + r"js|crates)\.(?:org|com|io)\b|--ind" + r"ex-url"
    ),
}


def functions(module):
    return [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def defined_names(module):
    """Names that this module chooses itself, with their line; not those it only uses."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def words_of(name):
    """`ReplicaManager_x` → {replica, manager, x}; a plural counts as its singular."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    return {part.lower() for part in parts} | {part.lower().rstrip("s") for part in parts}


def test_files_are_small():
    long = {m.path: lines for m in modules() if (lines := m.text.count("\n")) > FILE_LINES_MAX}
    assert long == {}


def test_functions_fit_a_screen():
    long = {
        f"{module.path}:{function.lineno} {function.name}": lines
        for module in modules()
        for function in functions(module)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_every_module_says_what_it_is():
    silent = [m.path for m in modules() if not (ast.get_docstring(m.tree) or "").strip()]
    assert silent == []


def test_words_of():
    assert words_of("ReplicaManager") >= {"replica", "manager"}
    assert words_of("http_utils") >= {"util"}
    assert words_of("HTTPHandler") >= {"http", "handler"}


def test_forbidden_words_are_no_names():
    wrong = [
        f"{module.path}:{line} {name}"
        for module in modules()
        for name, line in defined_names(module)
        if words_of(name) & FORBIDDEN_WORDS
    ]
    wrong += [
        str(file.relative_to(ROOT))
        for file in repository_files()
        if words_of(file.stem) & FORBIDDEN_WORDS and "results" not in file.parts
    ]
    assert wrong == []


def test_nothing_is_left_to_do():
    wrong = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in repository_files()
        for number, line in enumerate(text_of(file).splitlines(), 1)
        if any(re.search(rf"\b{mark}\b", line) for mark in TODO_MARKS)
    ]
    assert wrong == []


def test_no_merge_is_half_done():
    wrong = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in repository_files()
        for number, line in enumerate(text_of(file).splitlines(), 1)
        if CONFLICT.match(line)
    ]
    assert wrong == []


def test_no_committed_file_names_this_machine_or_a_registry():
    wrong = [
        f"{file.relative_to(ROOT)}:{number} holds {what}: {line.strip()[:80]}"
        for file in repository_files()
        for number, line in enumerate(text_of(file).splitlines(), 1)
        for what, pattern in FORBIDDEN_TEXT.items()
        if pattern.search(line)
    ]
    assert wrong == []


def test_the_patterns_find_what_they_should():
    machine, registry = FORBIDDEN_TEXT.values()
    assert machine.search("see /ro" + "ot/x")
    assert machine.search('"/ho' + 'me/ann/model.py"')
    assert not machine.search("sandwich/wo" + "rk/x")
    assert registry.search("https://py" + "pi.org/simple")


def test_every_folder_of_tests_holds_tests():
    folders = {file.parent for file in repository_files() if file.suffix == ".py" and (ROOT / "tests") in file.parents}
    rooms = {ROOT / "tests" / folder.relative_to(ROOT / "tests").parts[0] for folder in folders - {ROOT / "tests"}}
    assert [room.name for room in rooms if not list(room.rglob("test_*.py"))] == []
