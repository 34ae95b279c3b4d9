"""The replicas of one backend: what their links tell, and what follows. Must not know how a call came in.

Everything happens in reaction to an event (a frame, the end of a link, a tick); nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable

from muleteer.base.errors import CODES, WireError
from muleteer.gateway.batch import Batch
from muleteer.gateway.begun import SENT_AHEAD
from muleteer.gateway.binding import Binder
from muleteer.gateway.budget import RetryPlace
from muleteer.gateway.call import SETTLED, Call, Ghost
from muleteer.gateway.ending import Endings
from muleteer.gateway.fleet import Dialing, Fleet
from muleteer.gateway.gate import Gate
from muleteer.gateway.ledger import Ledger
from muleteer.gateway.link import RAN, UNRUN, ErrorPayload, Link, LinkOwner, Outcome
from muleteer.gateway.rerun import Reruns
from muleteer.gateway.shared import Shared
from muleteer.spec.snapshot import BackendRoute, ReplicaAddress
from muleteer.telemetry.log import log

DialerFor = Callable[[ReplicaAddress, LinkOwner], Dialing]
"""Makes the keeper of a link to one address, and whom that link tells."""


class Links:
    """Their owner.

    Attributes:
        fleet: who keeps them.
    """

    def __init__(
        self,
        new_dialer: DialerFor,
        shared: Shared,
        *,
        gate: Gate,
        ledger: Ledger,
        reruns: Reruns,
        endings: Endings,
        binder: Binder,
    ) -> None:
        self.fleet = Fleet(lambda address: new_dialer(address, self))
        self._gate = gate
        self._capacity = gate.capacity
        self._slots = gate.capacity.slots
        self._queue = gate.queue
        self._ledger = ledger
        self._reruns = reruns
        self._quarantine = reruns.quarantine
        self._endings = endings
        self._binder = binder
        self._behind = binder.behind
        self._shared = shared

    def follow(self, route: BackendRoute) -> None:
        """Other replicas are routed."""
        for link in self.fleet.follow(route):
            self._capacity.remove(link)

    def link_ready(self, link: Link) -> None:
        """Its slots are free."""
        self._gate.was_ready = True
        self._gate.woken_s = None
        self._capacity.add(link, self._gate.route)
        self._binder.pull(self._shared.now())

    def link_draining(self, link: Link) -> None:
        """It takes no more calls."""
        self._capacity.remove(link)

    def link_shared(self, link: Link, more: int) -> None:
        """Other gateways have more calls there, or fewer: whose turn has not come goes to a slot that idles."""
        self._capacity.shared(link, more)
        if link.ahead and self._gate.route.idempotent:
            self._behind[link] = None
        else:
            self._behind.pop(link, None)
        self._binder.pull(self._shared.now())

    def call_replied(self, link: Link, call: Call, body: bytes, service_us: int) -> None:
        """The model's answer. The slot goes to the next call first: the replica must not wait for us to write."""
        now = self._shared.now()
        self._served(call, service_us, now)
        self._slots.moved(link)
        if self._queue.depth or self._behind:
            self._binder.pull(now)
        self._endings.answer(call, body)

    def call_failed(self, link: Link, call: Call, error: ErrorPayload, service_us: int) -> None:
        """No answer: the model's or the caller's fault, or it was not run."""
        now = self._shared.now()
        if error.code in RAN:
            self._served(call, service_us, now)
        self._slots.moved(link)
        self._no_answer(call, error)
        self._binder.pull(now)

    def batch_ended(self, link: Link, batch: Batch[Outcome]) -> None:
        """As with single calls the slot goes on first; for large batches that matters more."""
        now = self._shared.now()
        if batch.whole:
            self._binder.filler.served(batch, now)
            self._slots.moved(link)
            self._binder.pull(now)
        for call, outcome in reversed(batch.outcomes):  # what goes back to the front of the line keeps its order
            if isinstance(outcome, bytes):
                self._endings.answer(call, outcome)
            else:
                self._no_answer(call, outcome)
        self._binder.pull(now)

    def link_lost(self, link: Link, calls: list[Call], error: WireError | None) -> None:
        """Its calls are run again or fail. Who broke a rule is killed: nothing it says is to be believed any more."""
        self._capacity.remove(link)
        self._behind.pop(link, None)
        if link.silent:
            self._leave_host(link.host)
        if error is not None:
            log("a replica broke the wire protocol", replica=link.replica, pid=link.pid, error=str(error))
            if link.pid:
                self._shared.abort(link.replica, link.pid, "protocol")
        now = self._shared.now()
        place = RetryPlace() if link.batched else None  # what it ran together is run again all or none
        active = self._ledger.open_calls - self._ledger.reading
        again = []
        for call in calls:
            if call.state is SETTLED:
                continue
            failure = self._reruns.failure(call, place or RetryPlace(), active, error, now)
            if failure is None:
                call.lost_on = link.host
                again.append(call)
            else:
                self._endings.fail(call, failure)
        for call in reversed(again):  # each goes to the front: so the oldest is first again
            if call.state is not SETTLED:
                self._binder.wait(call, front=True)
        self._binder.fail_if_unavailable()
        self._binder.pull(now)

    def abort_hung(self, now: float) -> None:
        """Have every replica killed whose oldest call runs too long; take back what stands behind a slow one."""
        for link, running_s in self.fleet.hung(self._gate.route.timeout_s, now):
            self._capacity.remove(link)
            log("a replica hangs", replica=link.replica, pid=link.pid, seconds=round(running_s, 3))
            self._shared.abort(link.replica, link.pid, "hung")
        for call in self.fleet.take_back(self._capacity.patience_s, now) if self._gate.route.idempotent else ():
            if call.state is not SETTLED:
                self._binder.bounce(call)
        self._binder.pull(now)

    def _leave_host(self, host: str) -> None:
        """One link there has gone silent, so the others have: what was lost must not be run again on one of them."""
        for link in self.fleet.on_host(host):
            self._capacity.remove(link)
            link.close_soon()

    def _served(self, call: Call, service_us: int, now: float) -> None:
        if call.started_s != SENT_AHEAD:
            self._capacity.served(now - call.started_s, service_us, idempotent=self._gate.route.idempotent)

    def _no_answer(self, call: Call, error: ErrorPayload) -> None:
        if call.state is SETTLED:
            call.counts.late_replies += 1
            if error.code in UNRUN and isinstance(call, Ghost):
                call.of.attempts -= 1
        elif error.code in UNRUN:
            call.attempts -= 1
            self._binder.bounce(call)
        else:
            self._quarantine.absolve(call.body)
            trace = f"\n{error.traceback}" if self._shared.debug and error.traceback else ""
            self._endings.fail(call, CODES[error.code](error.error + trace))
