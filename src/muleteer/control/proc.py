"""What /proc tells of a process, without psutil (70 ms to import). Must not know whose process it is."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NS_PER_S = 1e9
CPU_STEP_S = 1 / _TICKS_PER_S


class Usage(msgspec.Struct, frozen=True):
    """What a process and its children use.

    Attributes:
        pss_bytes: memory, what is shared with others divided by how many share it; RSS where that may not be read.
        rss_bytes: resident memory, shared or not.
        cpu_s: CPU seconds since they started, of children that ended too: those in steps of CPU_STEP_S, and all where
            the system keeps no finer account for others to read (gVisor).
        cpu_wait_s: seconds that their threads of now were runnable without a core. Falls when a thread ends.
    """

    pss_bytes: int
    rss_bytes: int
    cpu_s: float
    cpu_wait_s: float


def usage(pid: int) -> Usage | None:
    """Everything at once; None if there is no such process. About 0.1 ms, and a millisecond for each GB of it."""
    if resident_bytes(pid) is None:
        return None
    pids = family(pid)
    pss, rss = memory(pids)
    cpu_s, wait_s = cpu(pids)
    return Usage(pss, rss, cpu_s, wait_s)


def family(pid: int) -> tuple[int, ...]:
    """The process and all below it. Of those it started, one whose parent ended is not found."""
    found = [pid]
    for each in found:
        for task in _tasks(each):
            found += map(int, _words(f"/proc/{each}/task/{task}/children"))
    return tuple(found)


def memory(pids: tuple[int, ...]) -> tuple[int, int]:
    """PSS and RSS in bytes, added up."""
    pss = rss = 0
    for pid in pids:
        resident = resident_bytes(pid) or 0
        rss += resident
        pss += _proportional_bytes(pid, resident)
    return pss, rss


def cpu(pids: tuple[int, ...]) -> tuple[float, float]:
    """CPU seconds, and seconds of waiting for a core, added up."""
    used_s, wait_ns = 0.0, 0
    for pid in pids:
        ticks = [int(word) for word in _stat(pid)[11:15]]  # utime, stime, cutime, cstime
        own_s = _clock_s(pid)
        used_s += sum(ticks) * CPU_STEP_S if own_s is None else own_s + sum(ticks[2:]) * CPU_STEP_S
        for task in _tasks(pid):
            words = _words(f"/proc/{pid}/task/{task}/schedstat")  # time on a core, time waiting for one, slices
            wait_ns += int(words[1]) if len(words) > 1 else 0
    return used_s, wait_ns / _NS_PER_S


def resident_bytes(pid: int) -> int | None:
    """Resident memory (the second field of /proc/PID/statm, in pages); None if there is no such process."""
    fields = _words(f"/proc/{pid}/statm")
    return int(fields[1]) * _PAGE_BYTES if fields else None


def age_s(pid: int) -> float | None:
    """Seconds since the process started; None if there is no such process. Not touched by jumps of the clock."""
    stat, uptime = _stat(pid), _words("/proc/uptime")
    return max(0.0, float(uptime[0]) - int(stat[19]) / _TICKS_PER_S) if stat and uptime else None


def _clock_s(pid: int) -> float | None:
    """CPU seconds by the clock of the process (clock_getcpuclockid(3), which Python has for threads only), to the
    nanosecond; None if it may not be read.
    """
    with suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of posix-timers.h
    return None


def _proportional_bytes(pid: int, otherwise: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
    except OSError:  # another user's, or forbidden: some containers do
        return otherwise
    for line in lines:
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return otherwise


def _stat(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the third on: the second, the name, may hold spaces and brackets."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return []


def _tasks(pid: int) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  names, not paths: this is read once a second
    return []


def _words(path: str) -> list[bytes]:
    with suppress(OSError):
        return Path(path).read_bytes().split()
    return []
