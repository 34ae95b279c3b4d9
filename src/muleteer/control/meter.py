"""What replicas use, looked at as often as it is cheap. Must not know what is decided by it.

Reading the memory of a large process takes the kernel milliseconds, and its lock; its resident size costs
microseconds. So the first is read again when the second has moved, else rarely.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection

import msgspec

from muleteer.base.limits import METER_S, METER_SHARE
from muleteer.control.proc import Usage, cpu, family, memory, resident_bytes

_RESTED_MAX = 8
"""Rested processes whose memory is read in one look: the controller does nothing else meanwhile."""
_MOVED_SHARE = 0.02
_MOVED_BYTES = 1024 * 1024


class _Reading(msgspec.Struct):
    """The last look at one process."""

    usage: Usage
    cores: float
    pids: tuple[int, ...]
    resident: int
    cpu_at: float
    memory_at: float


class Meter:
    """Remembers the last reading of every process. `children`: what a process started counts as its own."""

    def __init__(self, *, children: bool = True) -> None:
        self._family = family if children else _alone
        self._readings: dict[int, _Reading] = {}
        self._pause_s = METER_S

    def look(self, now: float, pids: Collection[int]) -> dict[int, Usage]:
        """Usage by pid, with its children; one that is gone is left out. To be called every tick, with all pids.

        Memory that grew is seen at once; CPU, and children, once in METER_S; memory that did not seem to move as often
        as METER_SHARE of one core allows.
        """
        began = time.thread_time()
        looked = rested = 0
        self._readings = {pid: reading for pid, reading in self._readings.items() if pid in pids}
        for pid in sorted(pids, key=self._read_at):
            resident = resident_bytes(pid)
            if resident is None:
                self._readings.pop(pid, None)
                continue
            moved, read = self._read(now, pid, resident, rest=rested < _RESTED_MAX)
            looked += read
            rested += read and not moved
        if looked:
            cost_s = (time.thread_time() - began) / looked * len(pids)
            self._pause_s = max(METER_S, 100 * cost_s / METER_SHARE)
        return {pid: reading.usage for pid, reading in self._readings.items()}

    def cores(self, pid: int) -> float:
        """Cores that it kept busy between the last two looks at its CPU time."""
        reading = self._readings.get(pid)
        return 0.0 if reading is None else reading.cores

    def _read_at(self, pid: int) -> float:
        return self._readings[pid].memory_at if pid in self._readings else -math.inf

    def _read(self, now: float, pid: int, resident: int, *, rest: bool) -> tuple[bool, bool]:
        """Whether memory moved, and whether it was read; `rest`: it may also be read if it did not."""
        reading = self._readings.get(pid)
        if reading is None:
            pids = self._family(pid)
            reading = self._readings[pid] = _Reading(Usage(0, 0, *cpu(pids)), 0.0, pids, 0, now, now)
        elif now - reading.cpu_at >= METER_S:
            seconds, reading.cpu_at, reading.pids = now - reading.cpu_at, now, self._family(pid)
            before, used = reading.usage, cpu(reading.pids)
            reading.usage = Usage(before.pss_bytes, before.rss_bytes, *used)
            reading.cores = max(0.0, used[0] - before.cpu_s) / seconds
        resident += sum(resident_bytes(child) or 0 for child in reading.pids[1:])
        moved = abs(resident - reading.resident) > max(_MOVED_BYTES, _MOVED_SHARE * reading.resident)
        if not moved and (not rest or now - reading.memory_at < self._pause_s):
            return False, False
        pss, rss = memory(reading.pids)
        reading.resident, reading.memory_at = resident, now
        reading.usage = Usage(pss, rss, reading.usage.cpu_s, reading.usage.cpu_wait_s)
        return moved, True


def _alone(pid: int) -> tuple[int, ...]:
    return (pid,)
