"""What a process is worth to the kernel beside others: its time when cores are short, its turn when memory runs out.
Must not know what it does.

Its nice level is set between fork and exec. Where the kernel groups processes by session (autogroup), that level only
counts within the session, and the session has one of its own, to be set from outside and not at any moment. Unlike that
of a process it may be lowered again without privileges: so who starts gives way to those who serve, where cores are
short, and to nobody else.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_OOM_SCORE_MAX = 1000
NICE_MAX = 19
"""The kernel's: the least time when cores are short."""
_STARTING = 5  # levels: a third of the time


def oom_score(more: int) -> bytes:
    """What to write to /proc/self/oom_score_adj of a child, so that it is taken by `more` sooner than we are."""
    try:
        ours = int(Path("/proc/self/oom_score_adj").read_bytes())
    except (OSError, ValueError):
        ours = 0
    return str(min(_OOM_SCORE_MAX, ours + more)).encode()


def give_way(nice: int, score: bytes) -> None:
    """In the child, between fork and exec. Both only ever ask for less, which is always granted."""
    if nice:
        with suppress(OSError):
            os.nice(nice)
    with suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, score)
        os.close(descriptor)


def starting_nice(nice: int) -> int:
    """The level of a session until its process is ready, and `nice` after."""
    return min(NICE_MAX, nice + _STARTING)


def session_gives_way(pid: int, nice: int) -> bool:
    """The same for the child's session. False: the kernel is not ready for another change, try again."""
    try:
        descriptor = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY)
    except OSError:
        return True  # no such groups here
    try:
        os.write(descriptor, str(nice).encode())
    except OSError as error:
        return error.errno != errno.EAGAIN
    finally:
        os.close(descriptor)
    return True
