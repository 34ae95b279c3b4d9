"""How many calls may be run again at once: re-execution must not become a retry storm. Pure; must not know why."""

from __future__ import annotations

from muleteer.base.limits import RETRY_MIN, RETRY_SHARE


class RetryPlace:
    """Held by one call, or by all calls of a batch that are run again: what was one piece of work remains one.
    `calls`: of those that hold it.
    """

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class RetryBudget:
    """At most `RETRY_SHARE` percent of the active calls, and always `RETRY_MIN`. `spent`: places held now."""

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0

    def take(self, place: RetryPlace, active: int) -> bool:
        """Hold `place` for one call more, if somebody holds it already or there is one. `active`: calls queued or
        running, the one asking included.
        """
        if not place.calls:
            if self.spent >= max(RETRY_MIN, active * RETRY_SHARE // 100):
                return False
            self.spent += 1
        place.calls += 1
        return True

    def give_back(self, place: RetryPlace) -> None:
        """A call that holds it has its outcome."""
        assert place.calls > 0
        place.calls -= 1
        if not place.calls:
            self.spent -= 1
