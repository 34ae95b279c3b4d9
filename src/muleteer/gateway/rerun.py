"""Which calls are run again when their replica died, and which bodies kill. Must not know links or how calls wait."""

from __future__ import annotations

from muleteer.base.errors import Poison, ReplicaError, ReplicaProtocolError, RequestError, WireError
from muleteer.base.limits import ATTEMPTS_MAX
from muleteer.gateway.begun import SENT_AHEAD
from muleteer.gateway.budget import RetryBudget, RetryPlace
from muleteer.gateway.call import Call
from muleteer.gateway.gate import Gate
from muleteer.gateway.quarantine import Quarantine


class Reruns:
    """Those of one backend."""

    __slots__ = ("_gate", "budget", "quarantine")

    def __init__(self, gate: Gate) -> None:
        self.budget = RetryBudget()
        self.quarantine = Quarantine()
        self._gate = gate

    def poison(self, call: Call, body: bytes, now: float) -> Poison | None:
        """Why `body`, that of `call`, is not run at all; None if it may be."""
        if not self.quarantine.is_poison(body, now):
            return None
        call.counts.quarantined += 1
        return Poison("this body was running on two replicas when they died; it is refused for 10 minutes")

    def failure(
        self, call: Call, place: RetryPlace, active: int, error: WireError | None, now: float
    ) -> RequestError | None:
        """Why `call`, whose replica died or broke a rule (`error`), fails; None if it is run once more: then it may
        hold `place` of the budget. `active`: requests queued or running.
        """
        call.deaths += 1
        why = self._refusal(call, place, active, now)
        if why is None:
            call.counts.re_executed += 1
            return None
        kind, what = (ReplicaError, "died") if error is None else (ReplicaProtocolError, "broke the protocol")
        return kind(f"the replica {what} while it had this call, and {why}")

    def _refusal(self, call: Call, place: RetryPlace, active: int, now: float) -> str | None:
        """To follow an "and". A call that was only sent ahead is neither a suspect nor a burden: most likely nothing
        has run it.
        """
        suspect = call.started_s != SENT_AHEAD
        poison = suspect and self.quarantine.strike(call.body, call.dispatched_s, now)
        why = self._obstacle(call, poison=poison, now=now)
        if why is None and suspect:
            if not self.budget.take(place, active):
                return "too many calls are being run again already"
            call.retried = place
        return why

    def _obstacle(self, call: Call, *, poison: bool, now: float) -> str | None:
        if call.copy:
            return "it is a copy"
        if poison:
            return "it was the second one: the body is quarantined"
        if not self._gate.route.idempotent:
            return "the backend is declared not idempotent"
        if call.deaths >= ATTEMPTS_MAX:
            return "it was the second one"
        if self._gate.retired:
            return "the backend was removed"
        if self._gate.too_late_to_start(call.deadline_s - now):
            return "no time is left to run it again"
        return None
