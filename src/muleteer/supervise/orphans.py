"""Processes that became ours because their parent died. Linux only; must not know whose they were."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_ROUNDS_MAX = 100
_ROUND_S = 0.02


def children_of(pid: int) -> set[int]:
    """All processes whose parent is `pid`, dead ones included."""
    found = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with suppress(OSError):
                # the name in brackets may hold anything, so count from its end: state, parent, …
                if int((directory / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                    found.add(int(directory.name))
    return found


def kill_orphans(spared: set[int]) -> None:
    """SIGKILL and reap every child of this process but `spared`, and theirs as they become ours. At most about 2 s."""
    for _ in range(_ROUNDS_MAX):
        orphans = children_of(os.getpid()) - spared
        if not orphans:
            return
        for pid in orphans:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_ROUND_S)
