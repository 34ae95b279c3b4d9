"""How the calls of one backend end: each once, and here. Must not know queues or how a replica is chosen."""

from __future__ import annotations

from muleteer.base.errors import DeadlineError, ExpiredInQueue, RequestError
from muleteer.gateway.answers import Answers
from muleteer.gateway.call import SETTLED, Call
from muleteer.gateway.exchange import Response
from muleteer.gateway.ledger import Ledger
from muleteer.gateway.rerun import Reruns
from muleteer.gateway.shared import Shared
from muleteer.gateway.versions import GONE


class Endings:
    """Those of one backend."""

    __slots__ = ("_answers", "_budget", "_ledger", "_now", "_quarantine")

    def __init__(self, backend: str, ledger: Ledger, reruns: Reruns, shared: Shared) -> None:
        self._answers = Answers(backend, shared)
        self._ledger = ledger
        self._budget = reruns.budget
        self._quarantine = reruns.quarantine
        self._now = shared.now

    def answer(self, call: Call, body: bytes) -> None:
        """The model's answer came; nobody may be waiting for it any more."""
        if call.state is SETTLED:
            call.counts.late_replies += 1
            return
        if self._quarantine.strikes:
            self._quarantine.absolve(call.body)
        call.counts.answered += 1
        self._settle(call, self._answers.answer(call, body))

    def fail(self, call: Call, error: RequestError) -> None:
        """There will be no answer."""
        failed = call.counts.failed
        failed[error.code] = failed.get(error.code, 0) + 1
        self._settle(call, self._answers.error(call, error))

    def expire_waiting(self, call: Call) -> None:
        """It has not run, and its time is over or no longer suffices."""
        if call.attempts:
            self.fail(call, DeadlineError("its replica died or was stuck, and no other was free before the deadline"))
        else:
            self.fail(call, ExpiredInQueue("no replica was free in time to answer before the deadline"))

    def abandon(self, call: Call) -> None:
        """Its client is gone."""
        call.counts.cancelled += 1
        self._settle(call, None)

    def _settle(self, call: Call, response: Response | None) -> None:
        """The one place where a call ends. `response` is None if its client is gone."""
        self._ledger.leave(call)
        call.move(SETTLED)
        head, way = call.head, call.way
        if call.retried is not None:
            self._budget.give_back(call.retried)
        body, call.body = call.body, b""
        if response is None:
            way.version.ended(GONE)
            return
        if response.code:
            way.version.ended(response.code)
        else:
            way.version.ok(self._now() - head.received_s)
        head.respond(response)
        if way.mirror is not None:
            way.mirror.offer(head, body, response)
