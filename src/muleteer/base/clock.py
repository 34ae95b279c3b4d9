"""The clock port. Pure code takes `now` as an argument; loops read it from here, so tests can drive time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds. Never wall time: a jump of the system clock must not time anything out."""

    def now(self) -> float:
        """Seconds since an arbitrary point, never going back."""
        ...


class MonotonicClock:
    """The clock of real processes."""

    def now(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()
