"""What a TARGET names, checked as far as that is possible without running the user's code.

`path/file.py:Name` or `package.module:Name`. The file is found, parsed and searched for the name; importing it is
the replica's business. Must not know processes, settings or routes.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

import msgspec

from muleteer.base.errors import TargetError
from muleteer.spec.names import is_utf8
from muleteer.spec.nearest import did_you_mean


class Target(msgspec.Struct, frozen=True):
    """A TARGET taken apart. `place` is the file's path as written, or the dotted module."""

    kind: Literal["file", "module"]
    place: str
    name: str


def parse_target(text: str) -> Target:
    """Take `text` apart. Raises TargetError that says how a TARGET is written."""
    place, colon, name = text.rpartition(":")
    if not colon:
        place, name = text, ""
    is_file = place.endswith(".py")
    if not name:
        raise TargetError(f"target {text!r} names no class or function: write {place or 'file.py'}:NAME")
    if not name.isidentifier():
        raise TargetError(f"target {text!r}: {name!r} is not the name of a class or function")
    if not is_file and not all(part.isidentifier() for part in place.split(".")):
        raise TargetError(f"target {text!r}: {place!r} is neither a .py file nor a module")
    return Target("file" if is_file else "module", place, name)


def check_target(text: str, base_dir: Path) -> Target:
    """`parse_target`, and the file or module exists, parses, and seems to hold the name. Raises TargetError."""
    try:
        target = parse_target(text)
    except TargetError as error:
        raise _with_candidates(text, base_dir, error) from None
    if not is_utf8(f"{base_dir}/{text}"):
        raise TargetError(f"target {text!r}: {base_dir / target.place} is not UTF-8: rename it")
    path = _file_of(target, text, base_dir) if target.kind == "file" else _module_of(target, text, base_dir)
    if path is not None:
        names = _names_in(path, text)
        if names is not None and target.name not in names:
            models = [name for name, is_model in names.items() if is_model]
            hint = did_you_mean(target.name, models) or (f"; it defines {', '.join(models[:5])}" if models else "")
            raise TargetError(f"target {text!r}: {_shown(path, base_dir)} defines no {target.name!r}{hint}")
    return target


def _with_candidates(text: str, base_dir: Path, error: TargetError) -> TargetError:
    """`error`, or for a file without `:NAME` one that offers its first class."""
    place = text.rstrip(":")
    if not place.endswith(".py") or not (base_dir / place).is_file():
        return error
    models = [name for name, is_model in (_names_in(base_dir / place, text) or {}).items() if is_model]
    if not models:
        return error
    return TargetError(f"target {text!r} names no class or function: write {place}:{models[0]}")


def _file_of(target: Target, text: str, base_dir: Path) -> Path:
    path = base_dir / target.place
    if path.is_file():
        return path
    if path.is_dir():
        raise TargetError(f"target {text!r}: {target.place} is a directory, not a .py file")
    parent = path.parent
    if not parent.is_dir():
        raise TargetError(f"target {text!r}: there is no directory {_shown(parent, base_dir)}")
    siblings = [entry.name for entry in parent.glob("*.py")]
    raise TargetError(f"target {text!r}: there is no file {target.place}{did_you_mean(path.name, siblings)}")


def _module_of(target: Target, text: str, base_dir: Path) -> Path | None:
    """The module's source file, or None where it has none (a C extension, a namespace). Imports nothing."""
    search: list[str] | None = [str(base_dir), *sys.path]
    path, found = None, ""
    for part in target.place.split("."):
        found = f"{found}.{part}" if found else part
        spec = PathFinder.find_spec(found, search) if search is not None else None
        if spec is None and found in sys.builtin_module_names:
            return None
        if spec is None:
            raise TargetError(f"target {text!r}: there is no module {found!r} on the path")
        search = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None
        path = Path(spec.origin) if spec.origin is not None else None
    return path if path is not None and path.suffix == ".py" else None


def _names_in(path: Path, text: str) -> dict[str, bool] | None:
    """Top-level names → whether each is a class or function; None where only running the file could tell."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise TargetError(f"target {text!r}: {path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:  # null bytes
        raise TargetError(f"target {text!r}: {path}: {error}") from None
    except OSError as error:
        raise TargetError(f"target {text!r}: cannot read {path}: {error.strerror}") from None
    names: dict[str, bool] = {}
    for node in _statements(tree.body):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if name == "__getattr__":
                    return None
                names[name] = True
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    if alias.name == "*":
                        return None
                    names.setdefault((alias.asname or alias.name).split(".")[0], False)
            case _:
                for child in ast.walk(node):
                    if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                        names.setdefault(child.id, False)
    return names


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Top-level statements, with those inside `if`, `try`, `with`, `for` and `while`."""
    found: list[ast.stmt] = []
    for node in body:
        found.append(node)
        if isinstance(node, ast.If | ast.Try | ast.TryStar | ast.With | ast.For | ast.While):
            for field in ("body", "orelse", "finalbody"):
                found += _statements(getattr(node, field, []))
            for caught in getattr(node, "handlers", []):
                found += _statements(caught.body)
    return found


def _shown(path: Path, base_dir: Path) -> str:
    try:
        return str(path.relative_to(base_dir))
    except ValueError:
        return str(path)
