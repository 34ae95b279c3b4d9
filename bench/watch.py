"""Counts the replicas of a server and adds up its memory, from a process of its own: `python -m bench.watch PID FILE`.

A line for each sample: monotonic seconds, replica processes, bytes (PSS) of them and of the whole tree. Ends with its
parent, or with that server. Must not know who reads it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, Self

from bench import measure

INTERVAL_S = 0.2


class Sample(NamedTuple):
    """One moment: seconds, replica processes, bytes (PSS) of them, and of all processes of the server."""

    at: float
    replicas: int
    held: int
    whole: int


class Watch:
    """Watches while the context lasts; `samples` are there once it has ended."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._file = folder / f"watch-{pid}"
        self._command = [sys.executable, "-m", "bench.watch", str(pid), str(self._file)]
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
        assert self._process.stdin is not None
        self._process.stdin.close()
        for line in self._file.read_text().splitlines():
            at, *counts = line.split()
            self.samples.append(Sample(float(at), *map(int, counts)))

    def replica_seconds(self, begin: float, end: float) -> float:
        """What was paid for between two moments: replicas from start to end, those that load or leave included."""
        total, before = 0.0, begin
        for sample in self.samples:
            if before < sample.at:
                total += sample.replicas * (min(sample.at, end) - before)
                before = min(sample.at, end)
        return total


def sample(pid: int) -> Sample | None:
    """The tree as it is now; None once the server is gone."""
    tree = measure.descendants(pid)
    replicas = {process.pid for process in tree[1:] if "replica" in process.command}
    held = whole = 0
    for process in tree:
        with contextlib.suppress(OSError):  # it ended meanwhile
            pss = measure.memory(process.pid).pss
            whole += pss
            held += pss if process.pid in replicas else 0
    return Sample(time.monotonic(), len(replicas), held, whole) if tree else None


def main(pid: int, file: Path) -> None:
    """Until told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    parent = os.getppid()
    with file.open("w") as out:
        while os.getppid() == parent and (seen := sample(pid)) is not None:
            out.write(" ".join(map(str, seen)) + "\n")
            out.flush()
            time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
