"""When a process that ended is started again. Pure: chance is passed in, and it must not know clocks or processes.

A death after ready never counts as a failed start: the process proved that it can work, so it is started at once.
Only if it dies again and again just after it became ready, a small pause keeps that from eating the machine. A failed
start doubles the pause, with half of it left to chance so that many processes do not start in step.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from muleteer.base.limits import (
    BACKOFF_ESSENTIAL_MAX_S,
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    RESTART_PAUSE_MAX_S,
    RESTART_QUICK_S,
    STARVED_PAUSE_S,
)
from muleteer.supervise.states import Event

_RESTART_PAUSE_FIRST_S = RESTART_PAUSE_MAX_S / 16
_DOUBLINGS_MAX = 16  # beyond this every pause is at its cap; keeps 2**n small


class Verdict(msgspec.Struct, frozen=True):
    """What follows an end: AGAIN, PAUSE (for `pause_s` seconds) or GIVE_UP."""

    event: Event
    pause_s: float = 0.0


class RestartPolicy:
    """The memory of one process's ends.

    Args:
        starts_max: failed starts in a row until GIVE_UP; None never gives up, and pauses less.
        random: uniform in [0, 1), e.g. `random.random`.
    """

    def __init__(self, starts_max: int | None, random: Callable[[], float]) -> None:
        self._starts_max = starts_max
        self._random = random
        self.failed_starts = 0
        self._quick_deaths = 0

    def died_ready(self, ready_s: float) -> Verdict:
        """It ended `ready_s` seconds after it had become ready."""
        self.failed_starts = 0
        self._quick_deaths = self._quick_deaths + 1 if ready_s < RESTART_QUICK_S else 0
        if self._quick_deaths < 2:
            return Verdict(Event.AGAIN)
        doublings = min(self._quick_deaths - 2, _DOUBLINGS_MAX)
        return Verdict(Event.PAUSE, min(RESTART_PAUSE_MAX_S, _RESTART_PAUSE_FIRST_S * 2**doublings))

    def start_failed(self) -> Verdict:
        """It ended before it was ready. The n-th time in a row: a pause between 2^(n-2) and 2^(n-1) seconds."""
        self.failed_starts += 1
        if self._starts_max is not None and self.failed_starts >= self._starts_max:
            return Verdict(Event.GIVE_UP)
        cap = BACKOFF_ESSENTIAL_MAX_S if self._starts_max is None else BACKOFF_MAX_S
        ceiling = min(cap, 2 * BACKOFF_FIRST_S * 2 ** min(self.failed_starts - 1, _DOUBLINGS_MAX))
        return Verdict(Event.PAUSE, ceiling / 2 * (1 + self._random()))

    def starved(self) -> Verdict:
        """The machine had no process, memory or descriptor left: not the program's failure, so it is not counted."""
        return Verdict(Event.PAUSE, STARVED_PAUSE_S)

    def forgive(self) -> None:
        """Start counting afresh (`retry`)."""
        self.failed_starts = self._quick_deaths = 0
