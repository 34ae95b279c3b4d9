"""What a backend can do: its ready slots and how long a call holds one. Pure; must not know single calls."""

from __future__ import annotations

import math

from muleteer.base.limits import AHEAD_SERVICE_S_MAX, CREDIT_MAX, CREDIT_SERVICE_S_MAX, SAMPLES_MIN
from muleteer.gateway.admission import Estimate, estimate_of, queue_bound
from muleteer.gateway.estimator import MEAN_CALLS, ServiceEstimator
from muleteer.gateway.link import Link
from muleteer.gateway.slots import Slots
from muleteer.gateway.statistics import ServiceStatistics
from muleteer.spec.snapshot import ASLEEP, BackendRoute


class Capacity:
    """Slots and service times of one backend.

    The admission rule reckons with the time a call *holds a slot*, from when the replica can have begun until its
    answer is here, since that is what the next call waits for. The time spent in the user's method, which the replica
    reports, only decides whether calls are sent ahead as they come.
    """

    def __init__(self) -> None:
        self.slots: Slots[Link] = Slots()
        self._services = ServiceEstimator()
        self._measured: Estimate | None = None  # kept between two services: it is asked for several times
        self._model_mean_s = 0.0
        self._last_slots = 1
        self._warm_up_s: float | None = None

    def add(self, link: Link) -> None:
        """A replica is ready."""
        self.slots.add(link)
        if link.warm_up_us:  # of several the quickest: replicas that load together slow one another down
            self._warm_up_s = min(link.warm_up_us / 1e6, self._warm_up_s or math.inf)
        self._last_slots = self.slots.total

    def remove(self, link: Link) -> None:
        """A replica takes no more calls."""
        self.slots.remove(link)

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
            self.slots.extend(2 if services.p99_s <= AHEAD_SERVICE_S_MAX else 1)

    @property
    def ready_slots(self) -> int:
        """C. While every replica restarts: what it was when one last became ready, since it will be so again."""
        return self.slots.total or self._last_slots

    def estimate(self, route: BackendRoute) -> Estimate | None:
        """S and p99: measured, declared, or guessed from the warm-up."""
        if self._measured is not None:
            return self._measured
        estimate = estimate_of(self._services, route.expected_s, self._warm_up_s)
        if self._services.samples >= SAMPLES_MIN:
            self._measured = estimate
        return estimate

    def places(self, route: BackendRoute) -> int:
        """How many calls may wait while nothing is known of how long they take: one per slot; at a backend that sleeps
        as many as will measure it, since a start takes longer than the first of them to come.
        """
        return SAMPLES_MIN if route.unavailable == ASLEEP else self.ready_slots

    def bound(self, route: BackendRoute) -> int:
        """How many calls with the backend's own timeout may wait."""
        estimate = self.estimate(route)
        slots = self.ready_slots if estimate is not None else self.places(route)
        return queue_bound(slots, estimate, route.timeout_s)

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
