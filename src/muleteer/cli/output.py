"""What verbs print: tables, colour on a terminal only, text of strangers made harmless. Must not know what it means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

_COLOUR_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36, "dim": 2, "bold": 1}


class Paint:
    """Colours text if `stream` is a terminal and the person has not asked for none (NO_COLOR)."""

    def __init__(self, stream: TextIO) -> None:
        self.on = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, colour: str) -> str:
        """`text`, coloured or not."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self.on else text


def harmless(text: str) -> str:
    """`text` on one line, without the control characters by which a model's output could forge or hide lines."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), _COLOUR_SEQUENCE.sub("", text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, two spaces apart; no trailing blanks."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)


def say(text: str = "", *, to: TextIO | None = None) -> None:
    """Print and flush: what happens is seen when it happens, also through a pipe."""
    print(text, file=to or sys.stdout, flush=True)
