"""What a backend can do: its ready slots and how long a call holds one. Pure; must not know single calls."""

from __future__ import annotations

import math
from collections.abc import Callable

from muleteer.base.limits import (
    AHEAD_ITEM_S_MAX,
    AHEAD_S_MAX,
    AHEAD_SERVICE_S_MAX,
    CREDIT_MAX,
    CREDIT_SERVICE_S_MAX,
    SAMPLES_MIN,
)
from muleteer.gateway.admission import Estimate, estimate_of, queue_bound
from muleteer.gateway.batching import BatchPolicy, BatchRules, Pace
from muleteer.gateway.estimator import MEAN_CALLS, ServiceEstimator
from muleteer.gateway.link import Link
from muleteer.gateway.share import Share
from muleteer.gateway.slots import Slots
from muleteer.gateway.statistics import ServiceStatistics
from muleteer.spec.snapshot import ASLEEP, BackendRoute


def rules_of(route: BackendRoute) -> BatchRules:
    """What is declared about batches."""
    return BatchRules(batch_max=route.batch_max, wait_s=route.batch_wait_s, target_s=route.slo_s)


class Capacity:
    """Slots and service times of one backend.

    The admission rule reckons with the time a call *holds a slot*, from when the replica can have begun until its
    answer is here, since that is what the next call waits for. The time spent in the user's method, which the replica
    reports, only decides whether calls are sent ahead as they come.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.slots: Slots[Link] = Slots()
        self.gateways = 1
        self._now = now
        self._share = Share()
        self.batches: BatchPolicy | None = None  # where the model takes batches, once it said so
        self._services = ServiceEstimator()
        self._measured: Estimate | None = None  # kept between two services: it is asked for several times
        self._model_mean_s = 0.0
        self._last_slots = 1
        self._warm_up_s: float | None = None

    def add(self, link: Link, route: BackendRoute) -> None:
        """A replica is ready."""
        self.slots.add(link)
        if link.batched and self.batches is None:
            self.batches = BatchPolicy(rules_of(route))
        if link.warm_up_us:  # of several the quickest: replicas that load together slow one another down
            self._warm_up_s = min(link.warm_up_us / 1e6, self._warm_up_s or math.inf)
        self._last_slots = self.slots.total

    def remove(self, link: Link) -> None:
        """A replica takes no more calls."""
        if link in self.slots:
            self.slots.remove(link)
            self._share.moved(-link.others, self._now())

    def shared(self, link: Link, more: int) -> None:
        """Other gateways take so many more slots of this replica."""
        if link in self.slots:
            self.slots.moved(link)
            self._share.moved(more, self._now())

    def divide(self, gateways: int) -> None:
        """So many gateways use these replicas. Only a replica that takes turns between them knows who is next, so calls
        of over a millisecond are not sent ahead.
        """
        self.gateways = gateways
        self.slots.scattered = gateways > 1

    def served(self, held_s: float, model_us: int, *, idempotent: bool) -> None:
        """A call held its slot for `held_s`, of which `model_us` in the user's method."""
        services = self._services
        services.add(held_s)
        self._measured = None
        self._model_mean_s += (model_us / 1e6 - self._model_mean_s) / min(services.samples, MEAN_CALLS)
        if not idempotent or services.samples < SAMPLES_MIN:
            self.slots.extend(1)
        elif self._model_mean_s < CREDIT_SERVICE_S_MAX:
            self.slots.extend(CREDIT_MAX, eager=True)
        else:
            self.slots.extend(2 if services.p99_s <= AHEAD_SERVICE_S_MAX and self.gateways == 1 else 1)

    def batch_served(self, size: int, held_s: float, model_us: int, *, idempotent: bool, plain: bool) -> None:
        """A batch of `size` held its slot for `held_s`. `plain`: it was run as a whole, so it teaches how long those
        take. The next one is sent ahead only if it is full anyway: to wait with it would make it no larger.
        """
        assert self.batches is not None
        services = self._services
        services.add(held_s)
        self._model_mean_s += (model_us / 1e6 - self._model_mean_s) / min(services.samples, MEAN_CALLS)
        if plain:
            self.batches.answered(size, held_s)
        self.slots.extend(2 if idempotent and self._pays_ahead(self.batches) else 1)

    def _pays_ahead(self, batches: BatchPolicy) -> bool:
        if not batches.known or self.gateways > 1:
            return False
        largest = batches.paces(self.ready_slots)[-1]
        return largest.upper_s <= AHEAD_SERVICE_S_MAX or largest.mean_s <= largest.size * AHEAD_ITEM_S_MAX

    @property
    def patience_s(self) -> float:
        """How long a replica may answer nothing until what was sent ahead to it goes elsewhere."""
        return AHEAD_S_MAX if self.batches is None else max(AHEAD_S_MAX, 2 * self._services.p99_s)

    def follow(self, route: BackendRoute) -> None:
        """Another snapshot."""
        if self.batches is not None:
            self.batches.follow(rules_of(route))

    @property
    def ready_slots(self) -> int:
        """C. While every replica restarts: what it was when one last became ready, since it will be so again."""
        return self.slots.total or self._last_slots

    @property
    def own_slots(self) -> float:
        """Of those, what this gateway may reckon with."""
        ready = self.slots.total or self._last_slots
        return ready if self.gateways == 1 else self._share.slots(ready, self.gateways, self._now())

    @property
    def running_max(self) -> int:
        """Calls that run at once."""
        if self.batches is None:
            return self.ready_slots
        return self.ready_slots * self.batches.size_max(self.ready_slots)[0]

    def estimate(self, route: BackendRoute, queued: int = 0) -> Estimate | None:
        """S and p99: measured, declared, or guessed from the warm-up. In batches the share of a call depends on how
        many come: for one behind `queued` others.
        """
        if self._measured is not None:
            return self._measured
        if self.batches is not None:
            return self._batch_estimate(self.batches, route, queued)
        estimate = estimate_of(self._services, route.expected_s, self._warm_up_s)
        if self._services.samples >= SAMPLES_MIN:
            self._measured = estimate
        return estimate

    def places(self, route: BackendRoute) -> int:
        """How many calls may wait while nothing is known of how long they take: one per slot, or one batch; at one that
        sleeps as many as will measure it, since a start takes longer than the first of them to come.
        """
        places = self.ready_slots * (1 if self.batches is None else route.batch_max)
        return max(SAMPLES_MIN, places) if route.unavailable == ASLEEP else places

    def bound(self, route: BackendRoute) -> int:
        """How many calls with the backend's own timeout may wait."""
        slots, places = self.own_slots, self.places(route)
        if self.batches is not None and (paces := self.batches.paces(self.ready_slots)):
            estimates = [self._of(pace, known=self.batches.known) for pace in paces]
            return max(queue_bound(slots, estimate, route.timeout_s, places) for estimate in estimates)
        return queue_bound(slots, self.estimate(route), route.timeout_s, places)

    def _batch_estimate(self, batches: BatchPolicy, route: BackendRoute, queued: int) -> Estimate | None:
        """That of the size with which (queued + 1)·S/C + p99 is least, of those that the line could fill."""
        paces = batches.paces(self.ready_slots)
        if not paces:
            seconds = route.expected_s if route.expected_s is not None else self._warm_up_s
            return None if seconds is None else Estimate(seconds, 0.0, guessed=True)
        share = (queued + 1) / self.own_slots
        best, least_s = paces[0], share * paces[0].mean_s + paces[0].upper_s
        for pace in paces:
            if pace.size > queued + 1:
                break
            predicted_s = share * pace.mean_s / pace.size + pace.upper_s
            if predicted_s < least_s:
                best, least_s = pace, predicted_s
        return self._of(best, known=batches.known)

    @staticmethod
    def _of(pace: Pace, *, known: bool) -> Estimate:
        return Estimate(pace.mean_s / pace.size, pace.upper_s if known else 0.0, guessed=not known)

    @property
    def warm_up_s(self) -> float | None:
        """What the model's example took; None without one."""
        return self._warm_up_s

    def services(self) -> tuple[tuple[float, int], ...]:
        """How long recent calls held a slot: see `ServiceEstimator.services`."""
        return self._services.services()

    def statistics(self) -> ServiceStatistics:
        """A frozen snapshot."""
        services = self._services
        return ServiceStatistics(services.samples, services.mean_s, services.p99_s, self._model_mean_s)
