"""Values of settings as nodes of a document, in the forms that `muleteer.yaml` has. Must not know which setting belongs
where.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from muleteer.spec.checks import Checks, join, shown
from muleteer.spec.document import Mapping, Node, Problem, Scalar, Sequence
from muleteer.spec.fit import Misfit
from muleteer.spec.forms import make_range, make_slo
from muleteer.spec.load import UNSET, read_value
from muleteer.spec.ray_options import parse_ray
from muleteer.spec.setting import Setting

_MAPPINGS = {"replicas": ("min", "max"), "slo": ("p99",)}
"""Kinds of settings that may, or must, be mappings, and their keys."""


class Values(Checks):
    """Reads settings; what is wrong with one is noted, and it is left out."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self._lines: dict[str, int] = {}  # path of a setting → where it stands

    def settings(self, given: dict[str, tuple[int, Node]], known: dict[str, Setting], path: str) -> dict[str, Any]:
        """The values of those keys of `given` that are known settings."""
        values = {}
        for key, (_, node) in given.items():
            if key not in known:
                continue
            setting, at = known[key], join(path, key)
            self._lines[at] = node.line
            if isinstance(node, Mapping) and setting.kind == "ray":
                text = msgspec.json.encode(_plain(node)).decode()
                found = self.attempt(node.line, at, lambda: [parse_ray(text)])  # noqa: B023  called at once
            elif isinstance(node, Mapping) and setting.kind in _MAPPINGS:
                found = self._structure(setting, node, at)
            else:
                found = self.attempt(node.line, at, lambda: [_scalar(setting, node)])  # noqa: B023  called at once
            if found is not None:
                values[key] = found[0]
        return values

    def note_misfits(self, found: Iterable[Misfit], line: int) -> None:
        """What does not go together, at its own line if it has one, else at `line`."""
        for misfit in found:
            self.note(self._lines.get(misfit.path, line), misfit.path, misfit.message)

    def _structure(self, setting: Setting, node: Mapping, path: str) -> list[Any] | None:
        """In a list, as None is a value."""
        keys = _MAPPINGS[setting.kind]
        before = len(self.problems)
        given = self.mapping(node, path, keys)
        if not given and len(self.problems) == before:  # else it was mistyped
            self.note(node.line, path, f"needs {' or '.join(f'`{key}`' for key in keys)}")
        if len(self.problems) > before:
            return None
        if setting.kind == "slo":
            time = self._time(given["p99"][1], f"{path}.p99")
            slo = self.attempt(node.line, f"{path}.p99", lambda: make_slo(time)) if time else None
            return [slo] if slo is not None else None
        most = int(setting.bounds["le"])
        low, high = (
            self._count(given[key][1], f"{path}.{key}", most) if key in given else left_out
            for key, left_out in (("min", 1), ("max", most))
        )
        if low is None or high is None:
            return None
        range_ = self.attempt(node.line, path, lambda: make_range(low, high))
        return [range_] if range_ is not None else None

    def _time(self, node: Node, path: str) -> str:
        if isinstance(node, Scalar) and isinstance(node.value, str | int | float) and not isinstance(node.value, bool):
            return node.text
        self.expected(node, path, "a time such as 500ms or 10s")
        return ""

    def _count(self, node: Node, path: str, most: float) -> int | None:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        self.expected(node, path, f"a whole number from 0 to {most:g}")
        return None


def _plain(node: Node) -> Any:
    match node:
        case Mapping():
            return {key: _plain(value) for key, (_, value) in node.entries.items()}
        case Sequence():
            return [_plain(item) for item in node.items]
    return node.value


def describe_type(setting: Setting) -> str:
    """What may be written, e.g. `a time such as 500ms or 10s`."""
    by_kind = {
        "seconds": "a time such as 500ms or 10s",
        "bytes": "a size such as 64MiB",
        "replicas": "a whole number or {min: 1, max: 8}",
        "slo": "{p99: TIME}, such as {p99: 100ms}",
        "devices": "numbers of GPUs such as 0,1",
        "ray": "a mapping such as {placement: pack}",
    }
    by_type = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if setting.kind in by_kind:
        return by_kind[setting.kind]
    words = ", ".join(setting.choices)
    if not words:
        return by_type[setting.type]
    return f"one of {words}" if setting.type is str else f"{by_type[setting.type]} or {words}"


def _scalar(setting: Setting, node: Node) -> Any:
    """The value of one setting. Raises ValueError."""
    value = node.value if isinstance(node, Scalar) else None
    wrong = ValueError(f"expected {describe_type(setting)}, not {shown(node)}")
    if not isinstance(node, Scalar) or (value is None and not setting.optional):
        raise wrong
    if value is None:
        return None
    if setting.optional and value in UNSET[setting.unset]:
        return None
    if value in setting.choices:
        return value
    if setting.kind == "slo" or isinstance(value, bool) is not (setting.type is bool):
        raise wrong
    if not isinstance(value, _WRITTEN_AS.get(setting.kind) or _TYPES[setting.type]):
        raise wrong
    return read_value(setting, node.text)


_WRITTEN_AS: dict[str, tuple[type, ...]] = {
    "seconds": (str, int, float),
    "bytes": (str, int, float),
    "devices": (str, int),
}
_TYPES: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
