"""How many calls may be run again at once: re-execution must not become a retry storm. Pure; must not know why."""

from __future__ import annotations

from muleteer.base.limits import RETRY_MIN, RETRY_SHARE


class RetryBudget:
    """At most `RETRY_SHARE` percent of the active calls, and always `RETRY_MIN`. `spent`: places held now."""

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0

    def take(self, active: int) -> bool:
        """Hold one place if there is one. `active`: calls queued or running, the one asking included."""
        if self.spent >= max(RETRY_MIN, active * RETRY_SHARE // 100):
            return False
        self.spent += 1
        return True

    def give_back(self) -> None:
        """The call has its outcome."""
        assert self.spent > 0
        self.spent -= 1
