"""YAML text → a tree of values that know their lines. Must not know what the values mean.

Built from the parser's events, so that every bound holds before anything grows: text, depth, aliases. Plain scalars are
read by the core schema of YAML 1.2 (§10.3.2): `no` is text, `12:30` is text. Tags, duplicate keys and a second
document are refused; an alias is the same node again and is never expanded into a copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from muleteer.base.errors import SpecError
from muleteer.base.limits import YAML_ALIASES_MAX, YAML_BYTES_MAX, YAML_DEPTH_MAX

Plain = str | int | float | bool | None


class Scalar(msgspec.Struct, frozen=True):
    """One value. `text` is what was written."""

    line: int
    value: Plain
    text: str


class Sequence(msgspec.Struct, frozen=True):
    """A list of nodes."""

    line: int
    items: list[Node]


class Mapping(msgspec.Struct, frozen=True):
    """Key → (the key's line, node), in the order written. Keys are text as written: `1:` is the key "1"."""

    line: int
    entries: dict[str, tuple[int, Node]]


Node = Scalar | Sequence | Mapping


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong. `path` is e.g. `backends."lr:v1".replicas`, or empty for the whole file."""

    line: int
    path: str
    message: str


_NULL = ("", "~", "null", "Null", "NULL")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], Plain]], ...] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)


def resolve_plain(text: str) -> Plain:
    """What an unquoted scalar stands for."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) < 64 and text[0] in "+-.0123456789":  # longer is no number anybody means
        for pattern, read in _NUMBERS:
            if pattern.fullmatch(text):
                return read(text)
    return text


def read_document(text: str) -> tuple[Node, list[Problem]]:
    """The only document in `text`, and the duplicate keys, tags and odd keys found on the way.

    Raises:
        Unreadable: nothing sensible can be said about the rest.
    """
    if len(text) > YAML_BYTES_MAX:
        raise Unreadable(1, f"over {YAML_BYTES_MAX} characters")
    from ruamel.yaml import YAML  # 150 ms
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _Builder().build(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(mark.line + 1 if mark else 1, _sentence(error.problem or error.context)) from None
    except YAMLError as error:  # characters that YAML does not allow
        raise Unreadable(1, _sentence(str(error))) from None


class Unreadable(SpecError):
    """The text is not YAML that we read. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _sentence(text: str | None) -> str:
    return " ".join((text or "not YAML").split())[:200]


class _Builder:
    """Events in, nodes out. The stack holds open collections; a mapping's pending key waits beside it."""

    def __init__(self) -> None:
        self._stack: list[Sequence | Mapping] = []
        self._keys: list[tuple[int, str] | None] = []
        self._anchors: dict[str, Node] = {}
        self._aliases = 0
        self._root: Node | None = None
        self._problems: list[Problem] = []

    def build(self, events: Iterator[Any]) -> tuple[Node, list[Problem]]:
        for event in events:
            self._feed(event, type(event).__name__, event.start_mark.line + 1)
        return self._root or Mapping(1, {}), self._problems

    def _feed(self, event: Any, kind: str, line: int) -> None:
        if kind == "ScalarEvent":
            plain = event.implicit[0]  # neither quoted nor tagged
            self._add(event, Scalar(line, resolve_plain(event.value) if plain else event.value, event.value))
        elif kind == "AliasEvent":
            self._alias(event.anchor, line)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            node = Mapping(line, {}) if kind == "MappingStartEvent" else Sequence(line, [])
            self._add(event, node)
            self._stack.append(node)
            self._keys.append(None)
            if len(self._stack) > YAML_DEPTH_MAX:
                raise Unreadable(line, f"nested deeper than {YAML_DEPTH_MAX} levels")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._stack.pop()
            self._keys.pop()
        elif kind == "DocumentStartEvent" and self._root is not None:
            raise Unreadable(line, "a second document: one file declares one server")

    def _alias(self, anchor: str, line: int) -> None:
        self._aliases += 1
        if self._aliases > YAML_ALIASES_MAX:
            raise Unreadable(line, f"more than {YAML_ALIASES_MAX} aliases")
        node = self._anchors.get(anchor)
        if node is None:
            raise Unreadable(line, f"alias *{anchor} stands for nothing")
        if any(node is open_ for open_ in self._stack):
            raise Unreadable(line, f"alias *{anchor} contains itself")
        self._place(node, line)

    def _add(self, event: Any, node: Node) -> None:
        if event.tag is not None:
            self._problems.append(Problem(node.line, "", f"the tag {event.tag!r} is not allowed: write plain values"))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._place(node, node.line)

    def _place(self, node: Node, line: int) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif (pending := self._keys[-1]) is None:
            self._keys[-1] = (line, self._key(node, line, parent))
        else:
            self._keys[-1] = None
            parent.entries[pending[1]] = (pending[0], node)

    def _key(self, node: Node, line: int, parent: Mapping) -> str:
        if not isinstance(node, Scalar):
            raise Unreadable(line, "a list or mapping cannot be a key")
        if node.text in parent.entries:
            first = parent.entries[node.text][0]
            self._problems.append(Problem(line, "", f"the key {node.text!r} stands here twice, first in line {first}"))
        return node.text
