"""Whether one backend takes a call now: the rules applied to its present state. Must not know links or outcomes."""

from __future__ import annotations

import math
import random

from muleteer.base.errors import (
    CrashLoop,
    Draining,
    ExpiredInQueue,
    Loading,
    OutOfMemory,
    QuotaExceeded,
    Refused,
    RequestError,
)
from muleteer.base.limits import QUEUED_BYTES_MAX, SHADOW_RESERVE, SHADOW_SHARE
from muleteer.gateway import admission
from muleteer.gateway.call import Call, Priority
from muleteer.gateway.capacity import Capacity
from muleteer.gateway.link import Link
from muleteer.gateway.load import Load
from muleteer.gateway.queue import CallQueue
from muleteer.gateway.shared import Shared
from muleteer.gateway.statistics import BatchStatistics, CallCounts
from muleteer.spec.snapshot import ASLEEP, NONE_DECLARED, UNPLACED, BackendRoute

_RETRY_SOON_S, _RETRY_FAILED_S = 1, 5
_DEMANDED = frozenset({ASLEEP, "memory", UNPLACED})
"""`BackendRoute.unavailable` where a call is a reason to start a replica."""


class Gate:
    """What admission reads of a backend; the dispatcher keeps it up to date.

    Attributes:
        route: as last routed.
        held: open calls of each client.
        was_ready: a replica of it was ready once, so it is expected back within moments.
        retired: it is routed no longer.
        has_traffic: an endpoint sends it requests of its own, not only copies.
        woken_s: when a call came for it while it slept; None while it does not.
    """

    __slots__ = (
        "_copies_due_s",
        "_shared",
        "capacity",
        "has_traffic",
        "held",
        "queue",
        "retired",
        "route",
        "was_ready",
        "woken_s",
    )

    def __init__(self, route: BackendRoute, shared: Shared) -> None:
        self.route = route
        self.capacity = Capacity(shared.now)
        self.queue: CallQueue[Call] = CallQueue()
        self.held: dict[str, int] = {}
        self.was_ready = False
        self.retired = False
        self.has_traffic = True
        self.woken_s: float | None = None
        self._shared = shared
        self._copies_due_s = 0.0

    def enter(self, client: str, priority: Priority, remaining_s: float, size: int) -> RequestError | None:
        """Why a request may not come in, before its body is read; `size` as announced, 0 if unknown."""
        return self._obstacle(client, priority, remaining_s, self._shared.waiting_bytes, size, shares=True)

    def enqueue(self, call: Call, remaining_s: float, size: int) -> RequestError | None:
        """The same again when the body is in and no slot is free, since others may have come meanwhile: so a slow
        sender holds no place against them, and the bound of the queue is exact.
        """
        return self._obstacle(
            call.client, call.priority, remaining_s, self._shared.waiting_bytes - call.size, size, shares=False
        )

    def arrange(self, now: float) -> None:
        """Where there is a target, calls that have missed it make no others miss it, while their deadlines allow: these
        must leave time for all who wait, and for one service more, which holds the slots now.
        """
        target_s, queue = self.route.slo_s, self.queue
        if not queue.depth or (target_s is None and not queue.any_behind):
            return
        estimate = self.capacity.estimate(self.route, queue.depth)
        if target_s is None or estimate is None or estimate.guessed:
            queue.arrange(now, -math.inf, math.inf)  # nobody stands behind
            return
        last_s = admission.predicted_s(queue.depth, self.capacity.own_slots, estimate) + estimate.p99_s
        queue.arrange(now, now - target_s, now + last_s)

    def slot(self, now: float) -> Link | None:
        """The link for the first call that waits. It is sent ahead only if its time suffices for two services."""
        slots = self.capacity.slots
        link = slots.next()
        if link is None or slots.eager or link.load < link.concurrency or link.batched:
            return link  # whether a batch is sent ahead, its filler decides
        estimate = self.capacity.estimate(self.route)
        if estimate is None or self.queue.first().deadline_s - now < 2 * estimate.p99_s:
            return None
        return link

    def own_link(self, call: Call, link: Link) -> Link:
        """`link`, or rather the one that the call's session keeps to, if that has room as well. A busy one is not
        waited for: a slot that idles while calls wait would cost everybody, and a move costs one session. What was
        lost on one host goes to another one likewise: a host that is lost may take its replicas along one by one.
        """
        if call.lost_on and call.lost_on == link.host:
            elsewhere = self.capacity.slots.other(
                lambda other: other.host != link.host and other.batched is link.batched, beside=link
            )
            return elsewhere or link
        session = call.session
        if session is None or not session.replica:
            return link
        slots = self.capacity.slots
        own = session.preferred(slots)
        if own is None or own.batched is not link.batched or (call.lost_on and call.lost_on == own.host):
            return link
        return own if slots.has_room(own, beside=link) else link

    def share(self, client: str) -> QuotaExceeded | None:
        """Why a client may have no further call here, while others wait."""
        if not self.queue.others_wait(client):
            return None
        share = admission.client_share(self.capacity.running_max, self.bound())
        held = self.held.get(client, 0)
        if held < share:
            return None
        message = f"this client has {held} calls here while others wait, its share is {share}"
        return QuotaExceeded(message, retry_after_s=_RETRY_SOON_S)

    def spare(self, now: float) -> Link | None:
        """The link for a copy: one with a slot that idles, beyond those that are kept for requests. Where all would be
        kept, copies have the slots for a small share of the time instead.
        """
        slots = self.capacity.slots
        link = slots.next()
        if self.queue.depth or link is None or link.load >= link.concurrency:
            return None
        kept = max(1, slots.total // SHADOW_RESERVE) if self.has_traffic else 0
        if slots.idle > kept or (slots.total <= kept and now >= self._copies_due_s):
            return link
        return None

    def copy_ended(self, held_s: float, now: float) -> None:
        """A copy held its slot for so long."""
        self._copies_due_s = now + held_s * (100 / SHADOW_SHARE - 1)

    def follow(self, route: BackendRoute) -> None:
        """Another snapshot."""
        if route.unavailable != self.route.unavailable:
            self.woken_s = None
        self.route = route
        self.capacity.follow(route)

    def wake(self) -> None:
        """A call came: whoever can start replicas hears of it if there is none."""
        if self.capacity.slots.total or self.retired or self.route.unavailable not in _DEMANDED:
            return
        if self.woken_s is None:
            self.woken_s = self._shared.now()
        if not self.route.replicas:
            self._shared.demand(self.route.name)

    def start_left_s(self) -> float:
        """Seconds until a sleeping backend is expected to take its first call; 0 if it does not sleep, if nobody knows,
        and where a start takes longer than expected: then it may be any moment.
        """
        expected_s = self.route.start_s
        if expected_s is None or self.capacity.slots.total or self.route.unavailable != ASLEEP:
            return 0.0
        return expected_s if self.woken_s is None else max(0.0, expected_s - (self._shared.now() - self.woken_s))

    def unavailable(self) -> Refused | None:
        """Why nothing can run and nothing may wait. Calls of a backend that was ready wait for it to come back, those
        of one that sleeps for it to wake up.
        """
        if len(self.capacity.slots):
            return None
        name, unavailable = self.route.name, self.route.unavailable
        if self.retired or unavailable == "draining":
            return Draining(f"{name} is being stopped", retry_after_s=_RETRY_SOON_S)
        if unavailable == "crash_loop":
            return CrashLoop(f"the replicas of {name} do not become ready", retry_after_s=_RETRY_FAILED_S)
        if unavailable == "memory":
            message = f"{name} does not fit beside the models that are in use"
            return OutOfMemory(message, retry_after_s=_RETRY_FAILED_S)
        if unavailable == UNPLACED:
            return OutOfMemory(f"no node of the cluster has room for {name}", retry_after_s=_RETRY_FAILED_S)
        if unavailable == NONE_DECLARED:
            return Loading(f"0 replicas of {name} are declared", retry_after_s=_RETRY_FAILED_S)
        if unavailable != ASLEEP and not (self.was_ready and self.route.replicas):
            return Loading(f"no replica of {name} is ready yet", retry_after_s=_RETRY_SOON_S)
        return None

    def unready_reason(self) -> str | None:
        """Why no replica can serve now; None if one can, or will when a call comes."""
        unavailable = self.route.unavailable
        if len(self.capacity.slots) or unavailable == ASLEEP:
            return None
        return "restarting" if self.was_ready and unavailable != NONE_DECLARED else unavailable

    def load(self, counts: CallCounts, open_calls: int, busy: tuple[str, ...], batches: BatchStatistics | None) -> Load:
        """What sizing reads."""
        service = self.capacity.statistics()
        return Load(
            arrivals=counts.arrivals,
            queued=self.queue.depth,
            open_calls=open_calls,
            slots=self.capacity.slots.total,
            bound=self.bound(),
            served=service.samples,
            mean_s=service.mean_s,
            model_mean_s=service.model_mean_s,
            p99_s=service.p99_s,
            services=self.capacity.services(),
            answered=counts.answered,
            busy=busy,
            warm_up_s=self.capacity.warm_up_s,
            batches=batches,
        )

    def pushed_back(self, call: Call, now: float) -> tuple[Call, RequestError] | None:
        """The next to shed because `call` came in, ahead of lower priorities and of clients of whom more wait."""
        queue = self.queue
        victim = queue.newest_below(call.priority)
        if victim is not None:
            refused = self._refusal(queue.depth - 1, victim.deadline_s - now)
            if refused is not None:
                return victim, refused
        victim = queue.newest_of_most(call)
        if victim is None:
            return None
        ahead = queue.ahead_of(call.priority, victim.client) - 1
        if self._refusal(ahead, victim.deadline_s - now) is None:
            return None
        message = "another client needed a place, and of this one's calls the most wait here"
        return victim, QuotaExceeded(message, retry_after_s=_RETRY_SOON_S)

    def too_late_to_start(self, remaining_s: float) -> bool:
        """Rule 4: what remains would not suffice for 99 of 100 calls."""
        if remaining_s <= 0:
            return True
        estimate = self.capacity.estimate(self.route)
        return estimate is not None and remaining_s < estimate.p99_s

    def bound(self) -> int:
        """How many calls with the backend's own timeout may wait."""
        return self.capacity.bound(self.route)

    def _obstacle(
        self, client: str, priority: Priority, remaining_s: float, waiting_bytes: int, size: int, *, shares: bool
    ) -> RequestError | None:
        if remaining_s <= 0:
            return ExpiredInQueue("the deadline passed before the request was read")
        if size and waiting_bytes + size > QUEUED_BYTES_MAX:
            return admission.memory_refusal(waiting_bytes, random.random)
        if not self.queue.depth and self.capacity.slots.next_for_new() is not None:
            return None
        return (
            (None if self.capacity.slots.total else self._absence(remaining_s))
            or (self.share(client) if shares else None)
            or self._refusal(self.queue.ahead_of(priority, client), remaining_s)
        )

    def _absence(self, remaining_s: float) -> Refused | None:
        """Why a call may not wait for a replica to come."""
        return self.unavailable() or admission.start_refusal(
            self.route.name, self.start_left_s(), remaining_s, random.random
        )

    def _refusal(self, queued: int, remaining_s: float) -> Refused | None:
        capacity = self.capacity
        estimate = capacity.estimate(self.route, queued)
        return admission.refusal(
            queued=queued,
            slots=capacity.own_slots,
            estimate=estimate,
            remaining_s=remaining_s if capacity.slots.total else remaining_s - self.start_left_s(),
            uniform=random.random,
            places=capacity.places(self.route) if estimate is None or estimate.guessed else None,
        )
