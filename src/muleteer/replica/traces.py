"""Tracebacks as the user should see them: their own frames, printable. Must not know calls or links."""

from __future__ import annotations

import sys
from pathlib import Path

_OURS = str(Path(__file__).resolve().parent.parent) + "/"
_MACHINERY = ("<frozen importlib", "/asyncio/", "/concurrent/futures/", "/importlib/")
_TEXT_CHARS_MAX = 2000
_TRACE_CHARS_MAX = 16_000
_FRAMES_MAX = 2000  # with a user's `sys.setrecursionlimit` a million frames would keep the replica busy for 20 s


def say(error: BaseException) -> str:
    """`TypeName: text` in at most 2,000 characters, encodable as UTF-8 whatever the user put into it."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's __str__
        text = "(its text cannot be shown)"
    kind = type(error).__name__
    return _clean(f"{kind}: {text}" if text else kind, _TEXT_CHARS_MAX)


def own_traceback(error: BaseException) -> str:
    """The traceback without the frames of muleteer, asyncio and importlib, causes included."""
    from traceback import TracebackException

    shown = TracebackException.from_exception(error, limit=-_FRAMES_MAX, compact=True)
    current: TracebackException | None = shown
    while current is not None:
        for index in range(len(current.stack) - 1, -1, -1):
            file = current.stack[index].filename
            if file.startswith(_OURS) or any(part in file for part in _MACHINERY):
                del current.stack[index]
        current = current.__cause__ or current.__context__
    lines = list(shown.format())
    if not shown.stack:
        lines = [line for line in lines if not line.startswith("Traceback (most recent call last)")]
    return _clean("".join(lines).rstrip(), _TRACE_CHARS_MAX)


def write(text: str) -> None:
    """`text` to stderr, each line behind a bar and without control characters: nobody can forge a log line with it."""
    lines = ("    | " + _printable(line) for line in text.split("\n"))
    try:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # the pipe is gone: the supervisor is ending us
        pass


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _clean(text: str, chars_max: int) -> str:
    if len(text) > chars_max:  # the end says what happened, the start where
        text = text[: chars_max // 2] + "\n…\n" + text[-chars_max // 2 :]
    return text.encode("utf-8", "backslashreplace").decode()
