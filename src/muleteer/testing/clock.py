"""A clock that stands still until it is told to go on."""

from __future__ import annotations


class FakeClock:
    """A `base.clock.Clock` for tests.

    Args:
        start_s: what `now()` says at first.
    """

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now = start_s

    def now(self) -> float:
        """Seconds, as last told."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Go on by `seconds` ≥ 0. Returns the new time."""
        assert seconds >= 0, "a monotonic clock never goes back"
        self._now += seconds
        return self._now
