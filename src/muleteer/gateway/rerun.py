"""Which calls are run again when their replica died, and which bodies kill. Must not know links or how calls wait."""

from __future__ import annotations

from muleteer.base.limits import ATTEMPTS_MAX
from muleteer.gateway.budget import RetryBudget
from muleteer.gateway.call import Call
from muleteer.gateway.gate import Gate
from muleteer.gateway.link import SENT_AHEAD
from muleteer.gateway.quarantine import Quarantine


class Reruns:
    """Those of one backend."""

    __slots__ = ("_gate", "budget", "quarantine")

    def __init__(self, gate: Gate) -> None:
        self.budget = RetryBudget()
        self.quarantine = Quarantine()
        self._gate = gate

    def refusal(self, call: Call, active: int, now: float) -> str | None:
        """Why `call`, whose replica died, is not run once more, to follow an "and"; None if it is: then it may hold a
        place of the budget. `active`: requests queued or running.

        A call that was only sent ahead is neither a suspect nor a burden: most likely nothing has run it.
        """
        suspect = call.started_s != SENT_AHEAD
        poison = suspect and self.quarantine.strike(call.body, call.dispatched_s, now)
        why = self._obstacle(call, poison=poison, now=now)
        if why is None and suspect:
            if not self.budget.take(active):
                return "too many calls are being run again already"
            call.retried = True
        return why

    def _obstacle(self, call: Call, *, poison: bool, now: float) -> str | None:
        if call.copy:
            return "it is a copy"
        if poison:
            return "it was the second one: the body is quarantined"
        if not self._gate.route.idempotent:
            return "the backend is declared not idempotent"
        if call.attempts >= ATTEMPTS_MAX:
            return "it was the second one"
        if self._gate.retired:
            return "the backend was removed"
        if self._gate.too_late_to_start(call.deadline_s - now):
            return "no time is left to run it again"
        return None
