"""The calls of one backend as they come in: admitted, started or queued. Must not know HTTP syntax or replicas.

What follows is `binding` (who waits, who gets a slot), `links` (what replicas tell) and `ending` (the one outcome).
Answering a request may bring the next one of its connection before the answer returns: no call is ended before the
state around it is right.
"""

from __future__ import annotations

from typing import Any

import msgspec

from muleteer.base.errors import DeadlineError, RequestError
from muleteer.gateway.binding import Binder
from muleteer.gateway.call import QUEUED, READING, RUNNING, SETTLED, Call, Priority
from muleteer.gateway.ending import Endings
from muleteer.gateway.exchange import Head
from muleteer.gateway.gate import Gate
from muleteer.gateway.ledger import Ledger
from muleteer.gateway.links import DialerFor, Links
from muleteer.gateway.load import Load
from muleteer.gateway.rerun import Reruns
from muleteer.gateway.sessions import Session
from muleteer.gateway.shared import Shared
from muleteer.gateway.statistics import BackendStatistics, CallCounts, QueueStatistics
from muleteer.gateway.way import Way
from muleteer.spec.snapshot import BackendRoute


class Dispatcher:
    """One backend.

    Attributes:
        gate, ledger, counts: what admission reads, what calls hold, what became of requests.
        links, fleet: those to its replicas, and who keeps them.

    Args:
        route: its replicas and how it is run; replaced by `update`.
        shared: clock, deadlines and the rest of the gateway.
        new_dialer: makes the keeper of a link to one address.
    """

    def __init__(self, route: BackendRoute, shared: Shared, new_dialer: DialerFor) -> None:
        self.gate = gate = Gate(route, shared)
        self.ledger = ledger = Ledger(gate, shared)
        self.counts = CallCounts()
        self._copy_counts = CallCounts()
        self._shared = shared
        self._capacity = gate.capacity
        self._slots = gate.capacity.slots
        self._queue = gate.queue
        self._reruns = reruns = Reruns(gate)
        self._quarantine = reruns.quarantine
        self._endings = endings = Endings(route.name, ledger, reruns, shared)
        self._binder = binder = Binder(gate, ledger, reruns, endings, shared)
        self._filler = binder.filler
        self.links = Links(new_dialer, shared, gate=gate, ledger=ledger, reruns=reruns, endings=endings, binder=binder)
        self.fleet = self.links.fleet

    # -- the world changes

    def update(self, route: BackendRoute) -> None:
        """Follow a new snapshot."""
        self.gate.follow(route)
        self.links.follow(route)
        self._binder.fail_if_unavailable()
        if self._queue.depth:
            self.gate.wake()  # the replica that they waited for was taken away

    def retire(self) -> None:
        """The backend vanished: what waits goes where the traffic goes now, the replicas answer what they have."""
        self.gate.retired = True
        for call in list(self._queue):
            if not call.deaths and call.state is QUEUED:
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
        self.gate.wake()
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
            self._endings.fail(call, share)

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
            self._binder.start_batch(link, (call,), now)
        else:
            self._binder.start(link, call, now)
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
            self._endings.fail(call, error)
            return
        self.ledger.leave_place(call)
        call.body = body
        call.size = len(body)
        if link is not None and not link.batched:
            self._binder.start(self.gate.own_link(call, link), call, now)
            return
        self._binder.wait(call)
        if self._capacity.batches is not None:
            self._filler.soon()
        while (shed := self.gate.pushed_back(call, now)) is not None:
            self._endings.fail(*shed)

    # -- nobody waits for it any more, or not here

    def expire(self, call: Call) -> None:
        """Its deadline has passed."""
        if call.state is not RUNNING:
            self._endings.expire_waiting(call)
            return
        assert call.link is not None
        call.link.cancel(call)
        self._endings.fail(call, DeadlineError("the deadline passed while the model ran"))

    def abandon(self, call: Call) -> None:
        """The client is gone: a waiting call never runs, a running one is cancelled where the model allows."""
        if call.state is SETTLED:
            return
        if call.state is RUNNING:
            assert call.link is not None
            call.link.cancel(call)
        self._endings.abandon(call)

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
