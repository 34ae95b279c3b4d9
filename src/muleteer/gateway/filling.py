"""Fills the free slots of a backend with batches of the calls that wait. Must not know outcomes or how a batch is run.

A call that comes to an idle slot is not sent in the middle of reading what else has arrived: the line is looked at when
this turn of the loop has read it all, so those that come together go together, and nobody waits for a timer. How many
of the line are taken is `batching.BatchPolicy`'s to say; who is first in it, the queue's.

Calls that ran on a replica that died go alone: if one of them is a killer, it meets no innocent again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from muleteer.gateway.batch import Batch
from muleteer.gateway.batching import Hold, Limit, Take
from muleteer.gateway.begun import SENT_AHEAD
from muleteer.gateway.call import QUEUED, Call
from muleteer.gateway.gate import Gate
from muleteer.gateway.link import RAN, Link, Outcome
from muleteer.gateway.quarantine import Quarantine
from muleteer.gateway.shared import Shared, Timer
from muleteer.gateway.statistics import BatchStatistics
from muleteer.telemetry.histogram import Histogram

_FULL = frozenset({"batch_max", "bytes", "target", "unproven", "exploring"})
"""Limits of a batch that waiting would make no larger."""
_HOLD_S_MIN = 0.001  # the loop's timers count milliseconds: a shorter one would fire at once, again and again


class FillerOwner(Protocol):
    """Whose calls they are."""

    def pull(self, now: float) -> None:
        """Free slots may take calls now."""
        ...

    def start_batch(self, link: Link, calls: Sequence[Call], now: float) -> None:
        """Send these, which wait, to `link`."""
        ...

    def drop(self, call: Call, now: float) -> None:
        """It waits, and must not be sent: poison, or too late."""
        ...


class Filler:
    """Of one backend. Idle until a replica says that its model takes batches."""

    def __init__(self, gate: Gate, quarantine: Quarantine, shared: Shared, owner: FillerOwner) -> None:
        self._gate = gate
        self._quarantine = quarantine
        self._shared = shared
        self._owner = owner
        self._looks = False
        self._timer: Timer | None = None
        self._timer_due_s = 0.0
        self._sizes: dict[int, int] = {}
        self._limits: dict[Limit, int] = {}
        self._waits = Histogram()

    def soon(self) -> None:
        """A call came to wait: look at the line at the end of this turn of the loop."""
        if not self._looks and self._gate.capacity.slots.next() is not None:
            self._looks = True
            self._shared.later(0.0, self._look)

    def fill(self, link: Link, now: float) -> bool:
        """Give `link`, which has room, a batch of the line, which is not empty. Whether the line has changed; if not,
        no link is to have one now.
        """
        queue, policy = self._gate.queue, self._gate.capacity.batches
        assert policy is not None
        first = queue.first()
        slots = self._gate.capacity.ready_slots
        ahead = link.load >= link.concurrency
        starts_s = now
        if ahead:
            paces = policy.paces(slots)
            if first.retried is not None or not paces or queue.depth < paces[-1].size:
                return False
            starts_s = max(now, link.begun_s + paces[-1].upper_s)
            if not policy.keeps(first, now, starts_s + paces[-1].upper_s):
                return False
        dropped: list[Call] = []
        if first.retried is not None:
            take: Take[Call] | Hold | None = self._alone(first, now, policy.alone_s, dropped)
        else:
            take = policy.decide(self._able(now, starts_s, policy.alone_s, dropped), starts_s, slots)
        sent = isinstance(take, Take) and not (ahead and take.limited_by not in _FULL)
        if isinstance(take, Hold):
            self._look_at(take.until_s, now)
        elif take is not None and sent:
            self._send(link, take, now)
        for call in dropped:
            if call.state is QUEUED:
                self._owner.drop(call, now)
        return sent or bool(dropped)

    def served(self, batch: Batch[Outcome], now: float) -> None:
        """Every call of it has its outcome, and its slot is free."""
        failed = [outcome.code for _, outcome in batch.outcomes if not isinstance(outcome, bytes)]
        ran = len(batch.outcomes) - sum(code not in RAN for code in failed)
        if ran and batch.started_s != SENT_AHEAD:
            self._gate.capacity.batch_served(
                ran,
                now - batch.started_s,
                batch.service_us,
                idempotent=self._gate.route.idempotent,
                plain=ran == 1 or RAN.isdisjoint(failed),  # else most likely it was run again one by one
            )

    def statistics(self) -> BatchStatistics | None:
        """A frozen snapshot; None where no model took batches yet."""
        policy = self._gate.capacity.batches
        if policy is None:
            return None
        size_max, limited_by, reason = policy.size_max(self._gate.capacity.ready_slots)
        base_s, item_s = policy.curve
        return BatchStatistics(
            sent=sum(self._sizes.values()),
            calls=sum(size * count for size, count in self._sizes.items()),
            sizes=dict(sorted(self._sizes.items())),
            waits=self._waits.statistics(),
            limits=dict(self._limits),
            base_s=base_s,
            item_s=item_s,
            size_max=size_max,
            limited_by=limited_by,
            reason=reason,
        )

    def _able(self, now: float, starts_s: float, alone_s: float, dropped: list[Call]) -> Iterator[Call]:
        """The line as it would be served, but for calls that go alone, and poison and those without the time to go even
        alone and at once: these are `dropped`. Who has no time for a batch that begins at `starts_s` stays in the line.
        """
        quarantine = self._quarantine
        for call in self._gate.queue.in_turn():
            if call.retried is not None:
                continue
            left_s = call.deadline_s - now
            if left_s <= 0 or left_s < alone_s or (quarantine.strikes and quarantine.is_poison(call.body, now)):
                dropped.append(call)
            elif call.deadline_s >= starts_s + alone_s:
                yield call

    def _alone(self, call: Call, now: float, alone_s: float, dropped: list[Call]) -> Take[Call] | None:
        if call.deadline_s - now < alone_s or self._quarantine.is_poison(call.body, now):
            dropped.append(call)
            return None
        return Take((call,), "alone")

    def _send(self, link: Link, take: Take[Call], now: float) -> None:
        self._limits[take.limited_by] = self._limits.get(take.limited_by, 0) + 1
        queue = self._gate.queue
        for target, calls in self._by_link(link, take.members).items():
            self._sizes[len(calls)] = self._sizes.get(len(calls), 0) + 1
            for call in calls:
                queue.served(call)
                self._waits.record(now - call.arrived_s)
            self._owner.start_batch(target, calls, now)

    def _by_link(self, link: Link, calls: Sequence[Call]) -> dict[Link, Sequence[Call]]:
        """All to `link`, but for those that rather go to another one."""
        if not any(call.lost_on or (call.session is not None and call.session.replica) for call in calls):
            return {link: calls}
        targets: dict[Link, list[Call]] = {}
        for call in calls:
            targets.setdefault(self._gate.own_link(call, link), []).append(call)
        return {**targets}

    def _look_at(self, when_s: float, now: float) -> None:
        """Look again then, or before."""
        if self._timer is not None:
            if self._timer_due_s <= when_s:
                return
            self._timer.cancel()
        self._timer_due_s = when_s
        self._timer = self._shared.later(max(_HOLD_S_MIN, when_s - now), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._owner.pull(self._shared.now())

    def _look(self) -> None:
        self._looks = False
        self._owner.pull(self._shared.now())
