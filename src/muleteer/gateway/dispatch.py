"""The calls of one backend, from admission to their one outcome. Must not know HTTP syntax or how a replica is started.

Late binding: a call waits in the queue, not at a replica, and goes to the first link with a free slot. Everything
happens in reaction to an event (a request, a frame, the end of a link, a tick); nothing here waits. Answering a
request may bring the next one of its connection before the answer returns, so state is put right before `_settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from muleteer.base.errors import (
    CODES,
    DeadlineError,
    Draining,
    ExpiredInQueue,
    ReplicaError,
    RequestError,
    WireError,
)
from muleteer.base.limits import BOUNCES_MAX
from muleteer.gateway.answers import Answers
from muleteer.gateway.batch import Batch
from muleteer.gateway.begun import SENT_AHEAD
from muleteer.gateway.budget import RetryPlace
from muleteer.gateway.call import QUEUED, READING, RUNNING, SETTLED, Call, Priority
from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.filling import Filler
from muleteer.gateway.fleet import Dialing, Fleet
from muleteer.gateway.gate import Gate
from muleteer.gateway.ledger import Ledger
from muleteer.gateway.link import RAN, UNRUN, ErrorPayload, Link, Outcome
from muleteer.gateway.load import Load
from muleteer.gateway.rerun import Reruns
from muleteer.gateway.sessions import Session
from muleteer.gateway.shared import Shared
from muleteer.gateway.statistics import BackendStatistics, CallCounts, QueueStatistics
from muleteer.gateway.versions import GONE
from muleteer.gateway.way import Way
from muleteer.spec.snapshot import BackendRoute, ReplicaAddress
from muleteer.telemetry.log import log


class Dispatcher:
    """One backend.

    Attributes:
        gate, ledger, counts: what admission reads, what calls hold, what became of requests.
        fleet: its replicas.

    Args:
        route: its replicas and how it is run; replaced by `update`.
        shared: clock, deadlines and the rest of the gateway.
        new_dialer: makes the keeper of a link to one address; the link's owner is this dispatcher.
    """

    def __init__(
        self, route: BackendRoute, shared: Shared, new_dialer: Callable[[ReplicaAddress, Dispatcher], Dialing]
    ) -> None:
        self.gate = Gate(route, shared)
        self.fleet = Fleet(lambda address: new_dialer(address, self))
        self._shared = shared
        self._capacity = self.gate.capacity
        self._slots = self._capacity.slots
        self._queue = self.gate.queue
        self._reruns = Reruns(self.gate)
        self._quarantine = self._reruns.quarantine
        self.ledger = Ledger(self.gate, shared)
        self._filler = Filler(self.gate, self._quarantine, shared, self)
        self.counts = CallCounts()
        self._copy_counts = CallCounts()
        self._behind: dict[Link, None] = {}  # with calls of ours behind those of other gateways
        self._answers = Answers(route.name, shared)

    # -- the world changes

    def update(self, route: BackendRoute) -> None:
        """Follow a new snapshot."""
        self.gate.follow(route)
        for link in self.fleet.follow(route):
            self._capacity.remove(link)
        self._fail_queue_if_unavailable()
        if self._queue.depth:
            self.wake()  # the replica that they waited for was taken away

    def retire(self) -> None:
        """The backend vanished: what waits goes where the traffic goes now, the replicas answer what they have."""
        self.gate.retired = True
        for call in list(self._queue):
            if not call.attempts and call.state is QUEUED:
                self._displace(call, call.body)
        self.update(msgspec.structs.replace(self.gate.route, replicas=()))

    @property
    def quiet(self) -> bool:
        """Whether no call is open and no slot is taken."""
        return not (self.ledger.open_calls or self.ledger.copies) and not any(
            link.in_flight for link in self.fleet.links
        )

    # -- a request arrives

    def obstacle(self, head: Head, priority: Priority, deadline_s: float) -> RequestError | None:
        """Why a request may not come in before its body is read; None if it may."""
        return self.gate.enter(head.client, priority, deadline_s - self._shared.now(), head.content_length or 0)

    def begin(
        self,
        head: Head,
        way: Way[Any],
        *,
        deadline_s: float,
        priority: Priority,
        body_max: int,
        session: Session | None = None,
    ) -> Call:
        """Admit before the body is read. Raises RequestError, counted as refused."""
        self.wake()
        if (error := self.obstacle(head, priority, deadline_s)) is not None:
            self.counts.refused[error.code] = self.counts.refused.get(error.code, 0) + 1
            way.version.ended(error.code)
            raise error
        size = head.content_length or 0
        call = Call(self, head, deadline_s=deadline_s, priority=priority, body_max=body_max, size=size)
        call.session = session
        self._enter(call, way)
        return call

    def adopt(self, call: Call, way: Way[Any], session: Session | None, body: bytes) -> None:
        """A call that was admitted for the endpoint as a whole is this backend's: its body says so."""
        share = self.gate.share(call.head.client)
        call.owner = self
        call.session = session
        self._enter(call, way)
        if share is None:
            self.submit(call, body)
        else:
            self._fail(call, share)

    def start_copy(self, head: Head, body: bytes, deadline_s: float, way: Way[Any]) -> bool:
        """Run a copy of a call if a slot can be spared for it. Whether it runs: it is never queued or run again."""
        now = self._shared.now()
        link = self.gate.spare(now)
        if link is None or self._quarantine.is_poison(body, now):
            return False
        call = Call(self, head, deadline_s=deadline_s, priority=Priority.SHEDDABLE, body_max=0, size=len(body))
        call.way = way
        call.counts = self._copy_counts
        call.copy = True
        call.body = body
        self.ledger.enter_copy(call)
        if link.batched:
            self.start_batch(link, (call,), now)
        else:
            self._start(link, call, now)
        return True

    def _enter(self, call: Call, way: Way[Any]) -> None:
        call.way = way
        call.counts = self.counts
        self.ledger.enter(call)

    def hold(self, call: Call, size: int) -> None:
        """Its body grows beyond what was announced. Raises OutOfMemory."""
        if call.state is READING:
            self._shared.hold(call, size)

    def submit(self, call: Call, body: bytes) -> None:
        """The body is in: start at once, or wait."""
        if call.state is SETTLED or (self.gate.retired and self._displace(call, body)):
            return
        now = self._shared.now()
        link = None if self._queue.depth or now >= call.deadline_s else self._slots.next_for_new()
        error: RequestError | None = self._reruns.poison(call, body, now) if self._quarantine.strikes else None
        if error is None and link is None:
            error = self.gate.enqueue(call, call.deadline_s - now, len(body))
        if error is not None:
            self._fail(call, error)
            return
        self.ledger.leave_place(call)
        call.body = body
        call.size = len(body)
        if link is not None and not link.batched:
            self._start(self.gate.own_link(call, link), call, now)
            return
        self._wait(call)
        if self._capacity.batches is not None:
            self._filler.soon()
        while (shed := self.gate.pushed_back(call, now)) is not None:
            self._fail(*shed)

    def wake(self) -> None:
        """A call is here: whoever can start replicas hears of it if there is none."""
        if not self._slots.total and self.gate.wake():
            self._shared.demand(self.gate.route.name)

    # -- places of a call

    def _start(self, link: Link, call: Call, now: float) -> None:
        call.move(RUNNING)
        call.attempts += 1
        call.counts.dispatched += 1
        link.start(call, now)
        self._slots.moved(link)

    def start_batch(self, link: Link, calls: Sequence[Call], now: float) -> None:
        """Send these to `link`: calls that wait, or a copy."""
        for call in calls:
            if not call.copy:
                self.ledger.leave_place(call)
            call.move(RUNNING)
            call.attempts += 1
            call.counts.dispatched += 1
        link.start_batch(calls, now)
        self._slots.moved(link)

    def _wait(self, call: Call, *, front: bool = False) -> None:
        self.ledger.wait(call, front=front)
        self.wake()

    def pull(self, now: float) -> None:
        """Give free slots to those who wait; drop those whose time no longer suffices (rule 4)."""
        self.gate.arrange(now)
        while self._queue.depth and (link := self.gate.slot(now)) is not None:
            if link.batched:
                if self._filler.fill(link, now):
                    continue
                return
            call = self._queue.first()
            if self.gate.too_late_to_start(call.deadline_s - now) or self._quarantine.is_poison(call.body, now):
                self.drop(call, now)
            else:
                self._queue.served(call)
                self.ledger.leave_place(call)
                self._start(self.gate.own_link(call, link), call, now)
        if self._behind:
            self._move_on(now)

    def _move_on(self, now: float) -> None:
        """Of calls that stand behind those of other gateways, as many as slots idle here go there instead."""
        while self._behind and not self._queue.depth:
            idle = self._slots.next_for_new()
            if idle is None or idle.load >= idle.concurrency:
                return
            link, _ = self._behind.popitem()
            for call in link.take_back(0.0, now):
                if call.state is not SETTLED:
                    call.attempts -= 1
                    call.counts.moved += 1
                    self._wait(call, front=True)
            self.pull(now)

    def drop(self, call: Call, now: float) -> None:
        """It waits, and must not be sent: poison, or too late."""
        poison = self._reruns.poison(call, call.body, now)
        if poison is None:
            self._expire_waiting(call)
        else:
            self._fail(call, poison)

    def _fail_queue_if_unavailable(self) -> None:
        error = self.gate.unavailable()
        while error is not None and self._queue.depth:
            call = self._queue.first()
            self._fail(call, error if not call.attempts else ReplicaError(f"the replica died, and {error.message}"))

    # -- outcomes

    def expire(self, call: Call) -> None:
        """Its deadline has passed."""
        if call.state is not RUNNING:
            self._expire_waiting(call)
            return
        assert call.link is not None
        call.link.cancel(call)
        self._fail(call, DeadlineError("the deadline passed while the model ran"))

    def abandon(self, call: Call) -> None:
        """The client is gone: a waiting call never runs, a running one is cancelled where the model allows."""
        if call.state is SETTLED:
            return
        if call.state is RUNNING:
            assert call.link is not None
            call.link.cancel(call)
        call.counts.cancelled += 1
        self._settle(call, None)

    def _expire_waiting(self, call: Call) -> None:
        if call.attempts:
            self._fail(call, DeadlineError("its replica died, and no other was free before the deadline"))
        else:
            self._fail(call, ExpiredInQueue("no replica was free in time to answer before the deadline"))

    def _fail(self, call: Call, error: RequestError) -> None:
        failed = call.counts.failed
        failed[error.code] = failed.get(error.code, 0) + 1
        self._settle(call, self._answers.error(call, error))

    def _settle(self, call: Call, response: Response | None) -> None:
        """The one place where a call ends. `response` is None if its client is gone."""
        self.ledger.leave(call)
        call.move(SETTLED)
        head, way = call.head, call.way
        if call.retried is not None:
            self._reruns.budget.give_back(call.retried)
        body, call.body = call.body, b""
        if response is None:
            way.version.ended(GONE)
            return
        if response.code:
            way.version.ended(response.code)
        else:
            way.version.ok(self._shared.now() - head.received_s)
        head.respond(response)
        if way.mirror is not None:
            way.mirror.offer(head, body, response)

    def _displace(self, call: Call, body: bytes) -> bool:
        """The backend was removed: whether the endpoint sends its calls to another one, which takes this one too."""
        try:
            way, session = self._shared.place(call.head, body)
        except RequestError:  # the endpoint is gone as well
            return False
        self.ledger.leave(call)
        if call.state is QUEUED:
            call.move(READING)
        call.counts.displaced += 1
        way.backend.adopt(call, way, session, body)
        return True

    # -- a link tells

    def link_ready(self, link: Link) -> None:
        """Its slots are free."""
        self.gate.was_ready = True
        self.gate.woken_s = None
        self._capacity.add(link, self.gate.route)
        self.pull(self._shared.now())

    def link_draining(self, link: Link) -> None:
        """It takes no more calls."""
        self._capacity.remove(link)

    def link_shared(self, link: Link, more: int) -> None:
        """Other gateways have more calls there, or fewer: whose turn has not come goes to a slot that idles."""
        self._capacity.shared(link, more)
        if link.ahead and self.gate.route.idempotent:
            self._behind[link] = None
        else:
            self._behind.pop(link, None)
        self.pull(self._shared.now())

    def call_replied(self, link: Link, call: Call, body: bytes, service_us: int) -> None:
        """The model's answer. The slot goes to the next call first: the replica must not wait for us to write."""
        now = self._shared.now()
        self._served(call, service_us, now)
        self._slots.moved(link)
        if self._queue.depth or self._behind:
            self.pull(now)
        self._answer(call, body)

    def call_failed(self, link: Link, call: Call, error: ErrorPayload, service_us: int) -> None:
        """No answer: the model's or the caller's fault, or it was not run."""
        now = self._shared.now()
        if error.code in RAN:
            self._served(call, service_us, now)
        self._slots.moved(link)
        self._no_answer(call, error)
        self.pull(now)

    def batch_ended(self, link: Link, batch: Batch[Outcome]) -> None:
        """As with single calls the slot goes on first; for large batches that matters more."""
        now = self._shared.now()
        if batch.whole:
            self._filler.served(batch, now)
            self._slots.moved(link)
            self.pull(now)
        for call, outcome in reversed(batch.outcomes):  # what goes back to the front of the line keeps its order
            if isinstance(outcome, bytes):
                self._answer(call, outcome)
            else:
                self._no_answer(call, outcome)
        self.pull(now)

    def _answer(self, call: Call, body: bytes) -> None:
        if call.state is SETTLED:
            call.counts.late_replies += 1
            return
        if self._quarantine.strikes:
            self._quarantine.absolve(call.body)
        call.counts.answered += 1
        self._settle(call, self._answers.answer(call, body))

    def _no_answer(self, call: Call, error: ErrorPayload) -> None:
        if call.state is SETTLED:
            call.counts.late_replies += 1
        elif error.code in UNRUN:
            self._bounce(call)
        else:
            self._quarantine.absolve(call.body)
            trace = f"\n{error.traceback}" if self._shared.debug and error.traceback else ""
            self._fail(call, CODES[error.code](error.error + trace))

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
        active = self.ledger.open_calls - self.ledger.reading
        again = []
        for call in calls:
            if call.state is SETTLED:
                continue
            failure = self._reruns.failure(call, place or RetryPlace(), active, error, now)
            if failure is None:
                again.append(call)
            else:
                self._fail(call, failure)
        for call in reversed(again):  # each goes to the front: so the oldest is first again
            if call.state is not SETTLED:
                self._wait(call, front=True)
        self._fail_queue_if_unavailable()
        self.pull(now)

    def _leave_host(self, host: str) -> None:
        """One link there has gone silent, so the others have: what was lost must not be run again on one of them."""
        for link in self.fleet.on_host(host):
            self._capacity.remove(link)
            link.close_soon()

    def abort_hung(self, now: float) -> None:
        """Have every replica killed whose oldest call runs too long; take back what stands behind a slow one."""
        for link, running_s in self.fleet.hung(self.gate.route.timeout_s, now):
            self._capacity.remove(link)
            log("a replica hangs", replica=link.replica, pid=link.pid, seconds=round(running_s, 3))
            self._shared.abort(link.replica, link.pid, "hung")
        for call in self.fleet.take_back(self._capacity.patience_s, now) if self.gate.route.idempotent else ():
            if call.state is not SETTLED:
                self._bounce(call)
        self.pull(now)

    def _served(self, call: Call, service_us: int, now: float) -> None:
        if call.started_s != SENT_AHEAD:
            self._capacity.served(now - call.started_s, service_us, idempotent=self.gate.route.idempotent)

    def _bounce(self, call: Call) -> None:
        call.attempts -= 1
        call.bounces += 1
        call.counts.bounced += 1
        if call.bounces > BOUNCES_MAX or call.copy:
            self._fail(call, Draining("every replica it was given to was stopping", retry_after_s=1))
            return
        self._wait(call, front=True)
        self._fail_queue_if_unavailable()

    # -- status

    def load(self) -> Load:
        """A frozen snapshot of what sizing reads."""
        busy = tuple(link.replica for link in self.fleet.links if link.in_flight)
        return self.gate.load(self.counts, self.ledger.open_calls, busy, self._filler.statistics())

    def statistics(self) -> BackendStatistics:
        """A frozen snapshot."""
        return BackendStatistics(
            queue=QueueStatistics(self._queue.depth, self.gate.bound(), self._queue.bytes, self.ledger.reading),
            replicas=self.fleet.statistics(),
            slots=self._slots.total,
            credit=self._slots.credit,
            links_ready=len(self._slots),
            open_calls=self.ledger.open_calls,
            retrying=self._reruns.budget.spent,
            poisonous=self._quarantine.poisonous,
            service=self._capacity.statistics(),
            calls=self.counts.snapshot(),
            copies=self._copy_counts.snapshot(),
            batches=self._filler.statistics(),
        )
