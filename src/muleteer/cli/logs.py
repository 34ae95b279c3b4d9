"""`muleteer logs`: what the processes wrote, from `run/logs`. Reads files only: works after a server has ended, too."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from muleteer.base.errors import NotRunningError, UsageError
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import Paint, harmless, say
from muleteer.spec.nearest import did_you_mean
from muleteer.spec.run_dir import find_run_dir

FOLLOW_POLL_S = 0.1
_READ_BYTES = 1024 * 1024


def run(arguments: Sequence[str]) -> int:
    """Print the last lines of each log, or of one process; `-f` goes on with what is written."""
    parser = Parser("logs", "Show what the processes wrote to stdout and stderr.")
    parser.add_argument("process", nargs="?", metavar="REPLICA", help="e.g. FancyModel-1, gateway-0, controller")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written from now on")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="lines of each log (default: 100)")
    add_run_dir(parser)
    found = parser.parse(arguments)
    if found.lines < 0:
        raise UsageError("--lines must not be negative")
    directory = Path(find_run_dir(found.run_dir, os.environ)) / "logs"
    if not directory.is_dir():
        raise NotRunningError(f"there are no logs in {directory}: no muleteer ran there")
    names = log_names(directory)
    if found.process is not None and found.process not in names:
        hint = did_you_mean(found.process, names) or (f"; there are {', '.join(names)}" if names else "")
        raise UsageError(f"no process called {found.process} has a log{hint}")
    tails = {name: Tail(directory / f"{name}.log") for name in ([found.process] if found.process else names)}
    printer = _Printer()
    for name, tail in tails.items():
        for line in tail.last(found.lines):
            printer.line(name, line)
        if not found.follow and (rest := tail.rest()):
            printer.line(name, rest)
    if found.follow:
        _follow(directory, tails, printer, every=found.process is None)
    return 0


def log_names(directory: Path) -> list[str]:
    """Ids of all processes that have a log, sorted."""
    return sorted(path.name.removesuffix(".log") for path in directory.glob("*.log"))


def _follow(directory: Path, tails: dict[str, Tail], printer: _Printer, *, every: bool) -> None:
    while True:
        for name in log_names(directory) if every else ():
            if name not in tails:
                tails[name] = Tail(directory / f"{name}.log")
        for name, tail in tails.items():
            for line in tail.more():
                printer.line(name, line)
        time.sleep(FOLLOW_POLL_S)


class _Printer:
    def __init__(self) -> None:
        self._paint = Paint(sys.stdout)

    def line(self, name: str, text: str) -> None:
        say(f"{self._paint(name, 'cyan')} | {harmless(text)}")


class Tail:
    """One log file, read line by line across its rotation (`ID.log` is moved to `ID.log.1` when full)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._partial = b""

    def last(self, lines: int) -> list[str]:
        """The last `lines` lines that are complete now; `more` goes on behind them."""
        kept: list[str] = []
        for line in self.more():
            kept.append(line)
            del kept[: max(0, len(kept) - lines)]
        return kept

    def more(self) -> Iterator[str]:
        """The lines that were completed since the last call, also those before a rotation."""
        while True:
            if self._file is None and not self._open():
                return
            yield from self._read()
            if not self._rotated():
                return
            yield from self._read()  # what came between the read above and the rotation
            self.close()

    def rest(self) -> str:
        """The last line, if it has no end: the process died in it, or is still writing."""
        return self._partial.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file; a line without an end is lost."""
        if self._file is not None:
            self._file.close()
        self._file, self._partial = None, b""

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb")
        except OSError:
            return False
        return True

    def _read(self) -> Iterator[str]:
        assert self._file is not None
        while data := self._file.read(_READ_BYTES):
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")

    def _rotated(self) -> bool:
        assert self._file is not None
        try:
            now = self._path.stat()
        except OSError:
            return False  # between the two moves of a rotation: next time
        return now.st_ino != os.fstat(self._file.fileno()).st_ino
