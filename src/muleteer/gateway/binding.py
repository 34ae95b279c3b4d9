"""Late binding: a call waits in the queue and goes to the first link with a free slot. Must not know answers."""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.base.errors import Draining, ReplicaError
from muleteer.base.limits import BOUNCES_MAX
from muleteer.gateway.call import RUNNING, SETTLED, Call
from muleteer.gateway.ending import Endings
from muleteer.gateway.filling import Filler
from muleteer.gateway.gate import Gate
from muleteer.gateway.ledger import Ledger
from muleteer.gateway.link import Link
from muleteer.gateway.rerun import Reruns
from muleteer.gateway.shared import Shared


class Binder:
    """Of one backend.

    Attributes:
        behind: links with calls of ours that stand behind those of other gateways.
        filler: of the slots of models that take batches.
    """

    def __init__(self, gate: Gate, ledger: Ledger, reruns: Reruns, endings: Endings, shared: Shared) -> None:
        self.behind: dict[Link, None] = {}
        self.filler = Filler(gate, reruns.quarantine, shared, self)
        self._gate = gate
        self._slots = gate.capacity.slots
        self._queue = gate.queue
        self._ledger = ledger
        self._reruns = reruns
        self._quarantine = reruns.quarantine
        self._endings = endings

    def start(self, link: Link, call: Call, now: float) -> None:
        """Send `call`, which holds no place, to `link`, which has room."""
        call.move(RUNNING)
        call.attempts += 1
        call.counts.dispatched += 1
        link.start(call, now)
        self._slots.moved(link)

    def start_batch(self, link: Link, calls: Sequence[Call], now: float) -> None:
        """Send these to `link`: calls that wait, or a copy."""
        for call in calls:
            if not call.copy:
                self._ledger.leave_place(call)
            call.move(RUNNING)
            call.attempts += 1
            call.counts.dispatched += 1
        link.start_batch(calls, now, once=not self._gate.route.idempotent)
        self._slots.moved(link)

    def wait(self, call: Call, *, front: bool = False) -> None:
        """It holds no place: it stands in the line from now on."""
        self._ledger.wait(call, front=front)
        self._gate.wake()

    def bounce(self, call: Call) -> None:
        """A replica gave it back, or it was taken back from there."""
        call.bounces += 1
        call.counts.bounced += 1
        if call.bounces > BOUNCES_MAX or call.copy:
            self._endings.fail(call, Draining("every replica it was given to was stopping", retry_after_s=1))
            return
        self.wait(call, front=True)
        self.fail_if_unavailable()

    def pull(self, now: float) -> None:
        """Give free slots to those who wait; drop those whose time no longer suffices (rule 4)."""
        self._gate.arrange(now)
        while self._queue.depth and (link := self._gate.slot(now)) is not None:
            if link.batched:
                if self.filler.fill(link, now):
                    continue
                return
            call = self._queue.first()
            if self._gate.too_late_to_start(call.deadline_s - now) or self._quarantine.is_poison(call.body, now):
                self.drop(call, now)
            else:
                self._queue.served(call)
                self._ledger.leave_place(call)
                self.start(self._gate.own_link(call, link), call, now)
        if self.behind:
            self._move_on(now)

    def drop(self, call: Call, now: float) -> None:
        """It waits, and must not be sent: poison, or too late."""
        poison = self._reruns.poison(call, call.body, now)
        if poison is None:
            self._endings.expire_waiting(call)
        else:
            self._endings.fail(call, poison)

    def fail_if_unavailable(self) -> None:
        """Who waits is told if nothing can run and nothing may wait."""
        error = self._gate.unavailable()
        while error is not None and self._queue.depth:
            call = self._queue.first()
            died = ReplicaError(f"the replica died, and {error.message}")
            self._endings.fail(call, died if call.attempts else error)

    def _move_on(self, now: float) -> None:
        """Of calls that stand behind those of other gateways, as many as slots idle here go there instead."""
        while self.behind and not self._queue.depth:
            idle = self._slots.next_for_new()
            if idle is None or idle.load >= idle.concurrency:
                return
            link, _ = self.behind.popitem()
            for call in link.take_back(0.0, now):
                if call.state is not SETTLED:
                    call.counts.moved += 1
                    self.wait(call, front=True)
            self.pull(now)
