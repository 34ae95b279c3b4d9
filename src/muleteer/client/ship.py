"""A class or function → a TARGET that a replica can import. Nothing is pickled: what has no importable module goes as
source, or not at all. Must not know HTTP.

A module of its own is named by its file, a module of a package by its dotted name. A class from `__main__` (a script, a
notebook, the interactive interpreter) is written into a module that holds its source, and with it, transitively, the
imports and the top-level functions, classes and literals that it refers to. Each of them must still have the value that
its statement gave it; a name that was computed is refused, because a replica would compute another value, or none.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.util
import inspect
import linecache
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from muleteer.client.errors import CannotShip
from muleteer.client.source import Binding, Source, annotated, class_names, needed

_CELL = re.compile(r"<ipython-input-|<python-input-|[/\\]ipykernel_\d+[/\\]")
"""Names under which notebooks and interactive interpreters keep the source of what was typed."""
_MOVE = "move {} into a module of its own and import it"


class Named(NamedTuple):
    """What a replica can import as it is. A relative file TARGET starts from `base_dir`."""

    target: str
    base_dir: str


class Shipped(NamedTuple):
    """A module to be written. `name`: of the class in it."""

    name: str
    source: str

    def write(self, folder: Path) -> Named:
        """Write it under a name made from its content; the same source is the same file. Raises OSError."""
        digest = hashlib.blake2b(self.source.encode(), digest_size=8).hexdigest()
        path = folder / f"{self.name}_{digest}.py"
        if not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside = folder / f".{path.name}.{os.getpid()}"
            aside.write_text(self.source, encoding="utf-8")
            aside.replace(path)
        return Named(f"{path}:{self.name}", str(folder))


def locate(model: object) -> Named | Shipped:
    """Where `model` can be imported from. A text is taken as a TARGET. Raises CannotShip."""
    if isinstance(model, str):
        return Named(model, str(Path.cwd()))
    if not isinstance(model, type | FunctionType):
        kind = type(model).__name__
        raise CannotShip(f"expected a class, a function or a TARGET, not a {kind} object: each replica makes its own")
    name = model.__qualname__
    if "<lambda>" in name:
        raise CannotShip("a lambda has no name that a replica could import: write it as a function")
    if "." in name:
        outer = name.removesuffix(f".{model.__name__}").removesuffix(".<locals>")
        raise CannotShip(f"{model.__name__} is defined inside {outer}: a replica imports only what is at the top level")
    module = sys.modules.get(model.__module__)
    found: object = getattr(module, name, None)
    if module is None or found is not model:
        raise CannotShip(f"{model.__module__}.{name} is another object than this one: there is nothing to import")
    if module.__name__ == "__main__":
        return _Shipment(model, module).pack()
    return _named(module, name)


def _named(module: ModuleType, name: str) -> Named:
    file = getattr(module, "__file__", None)
    if not module.__package__ and file is not None and file.endswith(".py"):
        path = Path(file).resolve()
        return Named(f"{path}:{name}", str(path.parent))
    top = sys.modules[module.__name__.partition(".")[0]]
    places = list(getattr(top, "__path__", ())) or [getattr(top, "__file__", None) or "."]
    return Named(f"{module.__name__}:{name}", str(Path(places[0]).resolve().parent))


class _Shipment:
    """The source of one class or function of `__main__`, and all that it needs."""

    def __init__(self, model: type | FunctionType, main: ModuleType) -> None:
        self._model = model
        self._name = model.__name__
        self._main = main
        self._values = vars(main)
        self._sources = self._read()
        self._bindings = [binding for source in self._sources for binding in source.bindings()]
        self._taken: dict[int, Binding] = {}  # position among the bindings → it

    def pack(self) -> Shipped:
        """Everything, in the order of the source. Raises CannotShip."""
        self._take(self._name, self._name)
        futures = sorted(set().union(*(source.futures() for source in self._sources)))
        lines = [f'"""{self._name}, as {self._where()} defined it; written by muleteer, to be edited there."""', ""]
        lines += [f"from __future__ import {', '.join(futures)}", ""] if futures else []
        lines += self._path_lines()
        written = set()
        for _, binding in sorted(self._taken.items()):
            if binding.text not in written:  # one import statement may bind several names
                written.add(binding.text)
                lines += ["", "", self._text(binding)] if binding.kind == "def" else [self._text(binding)]
        return Shipped(self._name, "\n".join(lines) + "\n")

    def _take(self, name: str, user: str) -> None:
        """Take the binding of `name` along, and what it needs in turn."""
        position = self._find(name, user)
        if position in self._taken:
            return
        binding = self._taken[position] = self._bindings[position]
        if binding.kind == "import":
            return
        text = binding.text
        names, in_annotations = needed(text), annotated(text)
        for used in sorted(names - {name}):
            self._take_used(used, name, optional=used in in_annotations)
        value = self._values[name]
        if isinstance(value, type):
            _refuse_changed_class(value, binding)

    def _take_used(self, used: str, user: str, *, optional: bool) -> None:
        if used in self._values and not (used.startswith("__") and used.endswith("__")):
            self._take(used, user)
        elif used == "__file__":
            raise self._refusal(user, "__file__, which would name another file there")
        elif not hasattr(builtins, used) and not optional:
            raise self._refusal(user, f"{used}, which is not defined")

    def _find(self, name: str, user: str) -> int:
        """Position of the statement that gave `name` its value. Raises CannotShip."""
        found = [(at, binding) for at, binding in enumerate(self._bindings) if binding.name == name]
        value = self._values[name]
        for at, binding in reversed(found):
            if _HOLDS[binding.kind](binding, value, self._main):
                return at
        raise self._unshippable(name, user, [binding for _, binding in found])

    def _unshippable(self, name: str, user: str, found: list[Binding]) -> CannotShip:
        if name == self._name and not found:
            return CannotShip(f"cannot ship {name}: its source is not to be found: write it into a file and import it")
        if not found:
            stars = [module for source in self._sources for module in source.stars()]
            why = f"; from {stars[0]} import {name} would do" if stars else ""
            return self._refusal(user, f"{name}, which no statement at the top level sets{why}")
        last = found[-1]
        at = f"{Path(last.file).name}:{last.line}"
        if last.kind == "expression":
            first = last.text.split("\n")[0]
            return self._refusal(user, f"{name}, which is computed ({at}: {first}): compute it in __init__, or")
        if last.kind == "other":
            return self._refusal(user, f"{name}, which is not set by a simple statement ({at}):")
        return self._refusal(user, f"{name}, which has changed since {at}:")

    def _refusal(self, user: str, what: str) -> CannotShip:
        who = "it" if user == self._name else user
        joint = " " if what.endswith((":", "or")) else "; "
        return CannotShip(f"cannot ship {self._name}: {who} uses {what}{joint}{_MOVE.format(self._name)}")

    # the source

    def _read(self) -> list[Source]:
        file = getattr(self._main, "__file__", None)
        names = [file] if file is not None else [name for name in linecache.cache if _CELL.search(name)]
        sources = []
        for name in names:
            text = "".join(linecache.getlines(name))
            try:
                sources.append(Source(name, text))
            except (SyntaxError, ValueError):  # a cell that never ran
                continue
        return sources

    def _where(self) -> str:
        file = getattr(self._main, "__file__", None)
        return str(Path(file).resolve()) if file is not None else "a notebook"

    def _text(self, binding: Binding) -> str:
        """Its source; what is imported from beside the script, by its full name."""
        node = binding.node
        if isinstance(node, ast.ImportFrom) and node.level:
            return ast.unparse(ast.ImportFrom(_absolute(node, self._main), node.names, 0))
        return binding.text

    def _path_lines(self) -> list[str]:
        """The script's folder on the path, if something is imported from it."""
        file = getattr(self._main, "__file__", None)
        folder = Path(file).resolve().parent if file is not None else Path.cwd()
        for binding in self._taken.values():
            if binding.kind == "import" and any(_lies_in(folder, top) for top in _modules_of(binding.node)):
                return ["import sys", "", f"sys.path.append({str(folder)!r})", ""]
        return []


def _modules_of(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [node.module.partition(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


def _lies_in(folder: Path, module: str) -> bool:
    found = sys.modules.get(module)
    places = [getattr(found, "__file__", None), *getattr(found, "__path__", ())]
    paths = [Path(place).resolve() for place in places if place]
    return any(path.is_relative_to(folder) and "site-packages" not in path.parts for path in paths)


def _refuse_changed_class(kind: type, binding: Binding) -> None:
    """What was hung onto a class later is not in its source."""
    node = binding.node
    if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords or type(kind) is not type:
        return  # a decorator or a metaclass may add what it likes
    later = sorted(
        name
        for name in set(vars(kind)) - class_names(binding.text)
        if not (name.startswith("__") and name.endswith("__"))
    )
    if later:
        raise CannotShip(
            f"cannot ship {kind.__name__}: its {later[0]} was set after the class was defined: set it in the body"
        )


# Does the statement still give the name the value that it has?


def _holds_import(binding: Binding, value: Any, main: ModuleType) -> bool:
    match binding.node:
        case ast.Import(names=names):
            modules = {alias.asname or alias.name.partition(".")[0]: alias for alias in names}
            alias = modules[binding.name]
            return sys.modules.get(alias.name if alias.asname else binding.name) is value
        case ast.ImportFrom(names=names) as node:
            alias = {alias.asname or alias.name: alias for alias in names}[binding.name]
            origin = _absolute(node, main)
            submodule = sys.modules.get(f"{origin}.{alias.name}")
            return submodule is value or getattr(sys.modules.get(origin), alias.name, None) is value
        case _:
            return False


def _absolute(node: ast.ImportFrom, main: ModuleType) -> str:
    """The full name of the module imported from."""
    if not node.level:
        return node.module or ""
    return importlib.util.resolve_name("." * node.level + (node.module or ""), main.__package__ or "")


def _holds_def(binding: Binding, value: Any, main: ModuleType) -> bool:
    """By file and line of the code; what has none (a class without methods, an odd decorator) is believed."""
    own = [value] if not isinstance(value, type) else list(vars(value).values())
    codes = [inspect.unwrap(each).__code__ for each in own if isinstance(inspect.unwrap(each), FunctionType)]
    if isinstance(value, type) and value.__module__ != main.__name__:
        return False
    end = binding.node.end_lineno or binding.line
    # by the last part of the path: that of a script's code stays relative
    mine = [code for code in codes if Path(code.co_filename).name == Path(binding.file).name]
    return not mine or any(binding.line <= code.co_firstlineno <= end for code in mine)


def _holds_literal(binding: Binding, value: Any, _main: ModuleType) -> bool:
    if not isinstance(binding.node, ast.Assign | ast.AnnAssign) or binding.node.value is None:
        return False
    literal = ast.literal_eval(binding.node.value)
    return type(literal) is type(value) and bool(literal == value)


def _holds_expression(_binding: Binding, value: Any, _main: ModuleType) -> bool:
    """Only a name for a type (`Rows = list[float]`): the same everywhere."""
    return typing.get_origin(value) is not None


def _holds_never(_binding: Binding, _value: Any, _main: ModuleType) -> bool:
    return False


_HOLDS: dict[str, Callable[[Binding, Any, ModuleType], bool]] = {
    "import": _holds_import,
    "def": _holds_def,
    "literal": _holds_literal,
    "expression": _holds_expression,
    "other": _holds_never,
}
