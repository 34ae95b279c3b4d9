"""The shape of `muleteer.yaml` as JSON, by the same reader: what the admin API takes and gives. Must not know HTTP.

A mistake is named by its key alone: JSON that a program wrote has no lines worth naming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from muleteer.base.errors import SpecError
from muleteer.base.limits import YAML_DEPTH_MAX, YAML_PROBLEMS_MAX
from muleteer.spec import dump
from muleteer.spec.document import Mapping, Node, Problem, Scalar, Sequence
from muleteer.spec.file import Reader
from muleteer.spec.names import check_name
from muleteer.spec.settings import BackendSpec, Declared, EndpointSpec

T = TypeVar("T")


class ShapeError(SpecError):
    """`problems`: one sentence for each mistake, beginning with its key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_declared(value: Any, *, base_dir: str) -> Declared:
    """What a whole FILE declares. Raises ShapeError with all its mistakes, as do all functions here."""
    return _read(base_dir, (), lambda reader: reader.read(_node(value)))


def read_backend(name: str, value: Any, *, base_dir: str, check_files: bool = True) -> BackendSpec:
    """One backend, given as what stands under its name."""

    def read(reader: Reader) -> BackendSpec:
        reader.attempt(0, "", lambda: check_name(name, "backend name"))
        return reader.backend(name, 0, _node(value))

    return _read(base_dir, (), read, check_files=check_files)


def read_endpoint(name: str, value: Any, *, backends: Iterable[str]) -> EndpointSpec:
    """One endpoint, given as what stands under its name. `backends`: those it may name."""

    def read(reader: Reader) -> EndpointSpec:
        reader.attempt(0, "", lambda: check_name(name, "endpoint name"))
        return reader.endpoint(name, 0, _node(value))

    return _read("/", backends, read)


def write_declared(declared: Declared) -> dict[str, Any]:
    """The FILE that declares the same; `read_declared` gives it back. Defaults and secrets are left out."""
    found: dict[str, Any] = _plain(dump.shape(declared))
    return found


def write_backend(backend: BackendSpec) -> dict[str, Any]:
    """What stands under a backend's name, `base_dir` included."""
    found: dict[str, Any] = _plain(dump.backend_shape(backend))
    return found


def write_endpoint(endpoint: EndpointSpec) -> dict[str, Any]:
    """What stands under an endpoint's name."""
    found: dict[str, Any] = _plain(dump.endpoint_shape(endpoint))
    return found


def _read(base_dir: str, backends: Iterable[str], read: Callable[[Reader], T], *, check_files: bool = True) -> T:
    if not base_dir.startswith("/") or "\0" in base_dir:
        raise ShapeError([f"base_dir: {base_dir!r} must be an absolute path"])
    problems: list[Problem] = []
    found = read(Reader(problems, Path(base_dir), check_files=check_files, backends=backends))
    if problems:
        shown = [f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems]
        more = [f"and {len(shown) - YAML_PROBLEMS_MAX} more"] if len(shown) > YAML_PROBLEMS_MAX else []
        raise ShapeError(shown[:YAML_PROBLEMS_MAX] + more)
    return found


def _node(value: Any, depth: int = 0) -> Node:
    """JSON → the tree that the reader reads."""
    if depth > YAML_DEPTH_MAX:
        raise ShapeError([f"nested deeper than {YAML_DEPTH_MAX} levels"])
    if isinstance(value, dict):
        return Mapping(0, {key: (0, _node(part, depth + 1)) for key, part in value.items()})
    if isinstance(value, list):
        return Sequence(0, [_node(part, depth + 1) for part in value])
    return Scalar(0, value, _text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")  # without an exponent, which times do not have
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Decimals as floats: their digits came from one."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, Decimal) else value
