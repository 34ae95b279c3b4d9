"""Whether the kernel killed something for lack of memory just now. Reads counters; must not know processes.

A SIGKILL does not say who sent it. If we did not, and the
cgroup's count of OOM kills has just risen, it was the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_FRESH_S = 2.0  # one shortage may kill several processes, reaped one after the other


def counter_files(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Files with a line `oom_kill N` that concern this process, the most specific first."""
    return [path for path in _candidates(proc, cgroups) if _read(path) is not None]


class OomWitness:
    """Remembers the counter of the first readable file of `files`."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files[:1]
        self._count = self._total()
        self._rose_at = float("-inf")

    def saw_kill(self, now: float) -> bool:
        """True if the counter rose in the last two seconds. To be asked at every death, so that old rises are old."""
        count = self._total()
        if count > self._count:
            self._rose_at = now
        self._count = count
        return now - self._rose_at <= _FRESH_S

    def _total(self) -> int:
        return sum(_read(path) or 0 for path in self._files)


def _candidates(proc: Path, cgroups: Path) -> Iterator[Path]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield cgroups / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            # inside a container the host's path is not there, but its own group is mounted at the top
            yield cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
            yield cgroups / "memory" / "memory.oom_control"
    yield cgroups / "memory.events"
    yield proc / "vmstat"


def _read(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return None
