"""Imports point downwards only, never in a circle; deferred imports count like any other."""

import sys
import textwrap
import tomllib

import pytest

from tests.tidy.tree import ROOT, imported_names, modules, parse

# What each room may import of muleteer besides itself. Order and picture: ARCHITECTURE.md.
BASE = {"base"}
LOW = {"base", "spec", "wire", "telemetry"}
LAYERS = {
    "base": set(),
    "spec": BASE,
    "wire": BASE,
    "telemetry": BASE,
    "replica": LOW,
    "supervise": LOW,
    "gateway": LOW,
    "engine": LOW | {"supervise"},
    "control": LOW | {"supervise", "engine"},
    "trial": LOW | {"supervise", "engine", "control"},
    "client": {"base", "spec"},
    "testing": LOW | {"supervise", "engine"},
    "cli": LOW | {"supervise", "engine", "control", "client", "replica", "trial"},
    "": {"base", "client", "cli"},
}
# Third-party packages that only some rooms may know: the promise that the rest starts fast and stays ignorant.
ONLY_IN = {
    "ray": {"engine/ray"},
    "uvloop": {"gateway", "replica"},
    "httptools": {"gateway"},
    "starlette": {"control"},
    "uvicorn": {"control"},
    "ruamel": {"spec"},
    "pydantic": {"replica"},
    "numpy": {"replica"},
    "sqlite3": {"control"},
}
NO_IO = {"asyncio", "socket", "selectors", "ssl", "subprocess", "threading", "signal", "multiprocessing"}
SANS_IO = {"base", "wire", "spec"}
SETS_OPTIONS = {  # of what others open, read and write
    ("src/muleteer/wire/tcp.py", "socket"),
    ("src/muleteer/wire/tls.py", "ssl"),
}
NEVER = {"pickle", "marshal", "shelve", "pytest", "hypothesis", "mock", "unittest", "tests", "cloudpickle", "dill"}


def upward(checked):
    """Each import that the table does not allow, as `file:line imports name`."""
    names = {module.name for module in checked}
    wrong = []
    for module in checked:
        for name, line in imported_names(module):
            if name.split(".")[0] != "muleteer":
                continue
            parts = name.split(".")
            is_room = len(parts) > 1 and (f"muleteer.{parts[1]}" in names) and parts[1] in LAYERS
            target = parts[1] if is_room else ""
            if target not in {module.room, *LAYERS[module.room], *({""} if parts[1:] == ["__version__"] else ())}:
                wrong.append(f"{module.path}:{line} ({module.room or 'top'}) imports {name}")
    return wrong


def cycles(checked):
    """Circles of modules that import one another, each as a list of names."""
    names = {module.name for module in checked}
    arrows = {}
    for module in checked:
        targets = set()
        for name, _ in imported_names(module):
            while name and name not in names:
                name = name.rpartition(".")[0]
            if name:
                targets.add(name)
        arrows[module.name] = targets - {module.name}
    done, found = set(), []

    def walk(name, path):
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(arrows[name]):
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(arrows):
        walk(name, [])
    return found


def test_every_room_has_a_row_in_the_table():
    assert {module.room for module in modules()} <= set(LAYERS)


def test_imports_point_downwards():
    assert upward(modules()) == []


def test_no_cycles():
    assert cycles(modules()) == []


def test_replica_supervise_and_gateway_never_import_one_another():
    three = {"replica", "supervise", "gateway"}
    assert all(not LAYERS[room] & three for room in three)


def test_the_table_itself_has_no_circle():
    order = []
    while len(order) < len(LAYERS):
        ready = [room for room in LAYERS if room not in order and LAYERS[room] <= set(order)]
        assert ready, "rooms that import one another"
        order += ready


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_package_is_known_in_its_rooms_only(package):
    wrong = [
        f"{module.path}:{line}"
        for module in modules()
        for name, line in imported_names(module)
        if name.split(".")[0] == package
        and not any(module.path.startswith(f"src/muleteer/{room}") for room in ONLY_IN[package])
    ]
    assert wrong == []


def test_sans_io_rooms_import_no_io():
    wrong = [
        f"{module.path}:{line} imports {name}"
        for module in modules()
        for name, line in imported_names(module)
        if module.room in SANS_IO and name.split(".")[0] in NO_IO and (module.path, name) not in SETS_OPTIONS
    ]
    assert wrong == []


def test_nothing_is_pickled_and_no_test_code_is_imported():
    wrong = [
        f"{module.path}:{line} imports {name}"
        for module in modules()
        for name, line in imported_names(module)
        if name.split(".")[0] in NEVER
    ]
    assert wrong == []


def test_what_src_imports_is_declared():
    """A package that is only there by chance is missing on the next machine."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = declared["dependencies"] + [
        d for extra in declared.get("optional-dependencies", {}).values() for d in extra
    ]
    known = {entry.split(">")[0].split("=")[0].split("<")[0].strip().replace("-", "_") for entry in listed}
    optional = {"numpy", "pydantic", "ruamel"}  # used where the user's model has them installed, or in an extra
    wrong = {
        f"{module.path}:{line} imports {name}"
        for module in modules()
        for name, line in imported_names(module)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names
        and top not in {"muleteer", "__future__"} | known | optional
    }
    assert wrong == set()


def planted(tmp_path, files):
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        package = file.parent / "__init__.py"
        if not package.exists():
            package.write_text("")
    return [parse(file, tmp_path) for file in sorted(tmp_path.rglob("*.py"))]


def test_an_upward_import_is_found_also_when_deferred(tmp_path):
    checked = planted(
        tmp_path,
        {
            "muleteer/gateway/app.py": "X = 1",
            "muleteer/wire/bad.py": "def f():\n    from muleteer.gateway.app import X\n    return X",
            "muleteer/wire/relative.py": "from ..gateway import app",
            "muleteer/wire/dynamic.py": "import importlib\nimportlib.import_module('muleteer.gateway.app')",
        },
    )
    assert [entry.split(":")[0].rpartition("/")[2] for entry in upward(checked)] == [
        "bad.py",
        "dynamic.py",
        "relative.py",
    ]


def test_a_cycle_is_found(tmp_path):
    checked = planted(
        tmp_path,
        {
            "muleteer/wire/one.py": "from muleteer.wire import two",
            "muleteer/wire/two.py": "def f():\n    import muleteer.wire.one",
        },
    )
    assert cycles(checked) == [["muleteer.wire.one", "muleteer.wire.two", "muleteer.wire.one"]]
