"""Checks of nodes of a document: each returns a value, or notes what is wrong and where, so that reading goes on.
Must not know what is declared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from muleteer.base.errors import SpecError
from muleteer.spec.document import Mapping, Node, Problem, Scalar
from muleteer.spec.nearest import did_you_mean

T = TypeVar("T")


def join(path: str, key: str) -> str:
    """The path of `key` under `path`: quoted unless it is a plain word."""
    shown_key = key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", key) else json.dumps(key, ensure_ascii=False)
    return f"{path}.{shown_key}" if path else shown_key


def shown(node: Node) -> str:
    """`node` in a message, briefly."""
    if isinstance(node, Scalar):
        return "nothing" if node.value is None else repr(node.text)[:60]
    return "a mapping" if isinstance(node, Mapping) else "a list"


class Checks:
    """`problems` grows by what is wrong; the order does not matter, they are sorted when shown."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def mapping(
        self, node: Node, path: str, known: Iterable[str], refused: dict[str, str] | None = None
    ) -> dict[str, tuple[int, Node]]:
        """The known keys of `node`; the others are noted."""
        if not isinstance(node, Mapping):
            self.expected(node, path, "a mapping")
            return {}
        known = list(known)
        for key, (line, _) in node.entries.items():
            if key not in known:
                hint = (refused or {}).get(key) or f"unknown key{did_you_mean(key, known)}"
                self.note(line, join(path, key), hint)
        return {key: entry for key, entry in node.entries.items() if key in known}

    def checked(self, given: dict[str, tuple[int, Node]], key: str, path: str, check: Callable[[str], str]) -> str:
        """The text under `key` if `check` passes it, else nothing."""
        if key not in given:
            return ""
        node = given[key][1]
        text = self.text(node, f"{path}.{key}")
        return self.attempt(node.line, f"{path}.{key}", lambda: check(text)) or "" if text else ""

    def text(self, node: Node, path: str) -> str | None:
        """The text, if it is some; else None, noted."""
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value:
            return node.value
        self.expected(node, path, "text")
        return None

    def flag(self, node: Node, path: str) -> bool:
        """True or false; false, noted, if it is neither."""
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        self.expected(node, path, "true or false")
        return False

    def number(self, node: Node, path: str, low: float, high: float) -> float | None:
        """The number, if it lies in [low, high]; else None, noted."""
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        self.expected(node, path, f"a number from {low:g} to {high:g}")
        return None

    def note(self, line: int, path: str, message: str) -> None:
        """Something is wrong."""
        self.problems.append(Problem(line, path, message))

    def expected(self, node: Node, path: str, what: str) -> None:
        """Something else should stand there."""
        self.note(node.line, path, f"expected {what}, not {shown(node)}")

    def attempt(self, line: int, path: str, read: Callable[[], T]) -> T | None:
        """What `read` returns, or None with its ValueError or SpecError noted."""
        try:
            return read()
        except (ValueError, SpecError) as error:
            self.note(line, path, str(error))
            return None
