"""What was measured of one backend, over all gateways and replicas, as sizing wants it. Pure; must not know sockets,
/proc or clocks.

Gateways tell counts since their start and their recent services; replicas tell CPU time since theirs. Services fade
into one another over SERVICES_KEPT calls or SERVICES_KEPT_S, whichever is sooner: a window of the gateway's length has
too few slow ones to plan for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from muleteer.base.limits import SAMPLES_MIN
from muleteer.control.queueing import Service, service_of_weights
from muleteer.control.sizing import BatchCurve, Workload

SERVICES_KEPT = 5000
SERVICES_KEPT_S = 60.0
FREQUENCY_S = 600.0
SAMPLES_FEW = 5
WEIGHT_MIN = 1e-5  # of all services; less is forgotten
CPU_CALLS_MIN = 20  # fewer calls say little beside what a replica uses while it idles
CPU_KEPT = 0.9  # of what was spent before, at each look: some ten looks count


class Batches(msgspec.Struct, frozen=True):
    """What a gateway knows of batches: see `sizing.BatchCurve`. `sent`: so many it has seen."""

    sent: int = 0
    base_s: float = 0.0
    item_s: float = 0.0
    size_max: int = 1
    limited_by: str = ""
    reason: str = ""


class Load(msgspec.Struct, frozen=True):
    """What a gateway tells of one backend; see `gateway.load`."""

    arrivals: int = 0
    queued: int = 0
    open_calls: int = 0
    slots: int = 0
    bound: int = 0
    served: int = 0
    answered: int = 0
    mean_s: float = 0.0
    model_mean_s: float = 0.0
    p99_s: float = 0.0
    services: tuple[tuple[float, int], ...] = ()
    warm_up_s: float | None = None
    busy: tuple[str, ...] = ()
    batches: Batches | None = None


NOTHING = Load()


class Cpu(msgspec.Struct, frozen=True):
    """Of one process since its start: CPU seconds used, and seconds that its threads were runnable without a core.
    `cores`: that it kept busy of late.
    """

    used_s: float
    wait_s: float
    cores: float = 0.0


class _Spent(msgspec.Struct):
    """Sums that fade together, so that their ratios hold however the looks at calls and at processes fall."""

    calls: float = 0.0
    model_s: float = 0.0
    used_s: float = 0.0
    wait_s: float = 0.0

    def add(self, calls: int, model_s: float, used_s: float, wait_s: float) -> None:
        """What came since the last look."""
        self.calls = CPU_KEPT * self.calls + calls
        self.model_s = CPU_KEPT * self.model_s + model_s
        self.used_s = CPU_KEPT * self.used_s + used_s
        self.wait_s = CPU_KEPT * self.wait_s + wait_s


class Measure:
    """Of one backend.

    Attributes:
        arrivals: calls since `taken()`; the first of them came after `since_s`.
        called_s: when there were calls last.
        loads: gateway → what it told last.
    """

    __slots__ = (
        "_answered",
        "_cores_most",
        "_cpu",
        "_cpu_answered",
        "_epochs",
        "_frequency",
        "_model_s",
        "_samples",
        "_service",
        "_services",
        "_spent",
        "arrivals",
        "called_s",
        "cpu_s",
        "cpu_wait_s",
        "loads",
        "since_s",
    )

    def __init__(self) -> None:
        self.arrivals = 0
        self.since_s = -math.inf
        self.called_s = -math.inf
        self.loads: dict[str, Load] = {}
        self.cpu_s = 0.0
        self.cpu_wait_s = 0.0
        self._epochs: dict[str, str] = {}
        self._samples = 0
        self._services: dict[float, float] = {}  # seconds → share
        self._service: Service | None = None
        self._answered = 0
        self._frequency = 0.0  # calls/s as of `called_s`
        self._cpu: dict[str, Cpu] = {}
        self._cpu_answered = 0
        self._cores_most = 1.0  # that a replica was seen to keep busy; one, which every process can
        self._model_s = 0.0  # spent in the model, as replicas say, since the last look at CPU time
        self._spent = _Spent()

    def take(self, gateway: str, epoch: str, load: Load | None, seconds: float, now: float) -> None:
        """One gateway's word, `seconds` after its last; None: it had no calls since, and has none now."""
        before = self.loads.get(gateway, NOTHING)
        if load is None:
            self.loads[gateway] = msgspec.structs.replace(before, queued=0, open_calls=0, busy=())
            return
        if self._epochs.get(gateway) != epoch:
            self._epochs[gateway] = epoch
            before = NOTHING
        self.loads[gateway] = load
        new = load.arrivals - before.arrivals
        if not self.arrivals:
            self.since_s = now - seconds
        self.arrivals += new
        self._frequency = self.frequency(now) + new / FREQUENCY_S
        self.called_s = now
        self._answered += load.answered - before.answered
        new = load.served - before.served
        if new > 0:
            self._model_s += new * load.model_mean_s
        if new > 0 and load.services:
            self._blend(load.services, new, seconds)
            self._samples += new

    def frequency(self, now: float) -> float:
        """Calls/s, of which what was FREQUENCY_S ago weighs a third of what is now."""
        return self._frequency * math.exp((self.called_s - now) / FREQUENCY_S) if self._frequency else 0.0

    def cores(self, replicas: int) -> float:
        """That each of so many keeps busy at the present rate."""
        return self.cpu_s * self.frequency(self.called_s) / max(1, replicas)

    def taken(self) -> int:
        """Calls that came since the last time."""
        arrivals, self.arrivals = self.arrivals, 0
        return arrivals

    @property
    def samples(self) -> int:
        """Services that were measured; of fewer than SAMPLES_MIN the workload is a guess."""
        return self._samples

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return sum(load.queued for load in self.loads.values())

    @property
    def open_calls(self) -> int:
        """Calls that wait or run."""
        return sum(load.open_calls for load in self.loads.values())

    @property
    def busy(self) -> frozenset[str]:
        """Replicas that work on a call."""
        return frozenset(id for load in self.loads.values() for id in load.busy)

    @property
    def batches(self) -> Batches | None:
        """Of the gateway that has seen most of them."""
        found = [load.batches for load in self.loads.values() if load.batches is not None and load.batches.sent]
        return max(found, key=lambda batches: batches.sent, default=None)

    def take_cpu(self, used: Mapping[str, Cpu]) -> None:
        """What the replicas, by id and pid, have used; counts for the calls answered since the last time.

        To be called with every look: while nothing was read anew, it waits. The replicas are not read at one moment, so
        what was read of some is held against the calls of all, and only sums over several looks tell the truth.
        """
        calls = self._answered - self._cpu_answered
        if used == self._cpu or (self._cpu and calls < CPU_CALLS_MIN):
            return
        self._cores_most = max([self._cores_most, *(cpu.cores for cpu in used.values())])
        known = [(cpu, self._cpu[key]) for key, cpu in used.items() if key in self._cpu]
        if known:
            used_s = sum(max(0.0, now.used_s - then.used_s) for now, then in known)
            wait_s = sum(max(0.0, now.wait_s - then.wait_s) for now, then in known)
            self._spent.add(calls, self._model_s, used_s, wait_s)
            self.cpu_s = self._spent.used_s / self._spent.calls
            self.cpu_wait_s = self._spent.wait_s / self._spent.calls
        self._cpu, self._cpu_answered, self._model_s = dict(used), self._answered, 0.0

    def workload(
        self, *, concurrency: int, expected_s: float | None, memory_bytes: int, startup_s: float
    ) -> Workload | None:
        """What is known: measured; before SAMPLES_MIN calls what was declared, else what the warm-up took, else what
        SAMPLES_FEW calls told; None before.
        """
        service = self._known(expected_s)
        if service is None:
            return None
        batches = self.batches
        return Workload(
            service=service,
            concurrency=concurrency,
            curve=None if batches is None else BatchCurve(batches.base_s, batches.item_s, batches.size_max),
            cpu_s=self.cpu_s,
            cpu_wait_s=min(max(0.0, self._contended_s(service, concurrency)), 0.9 * service.mean_s),
            memory_bytes=memory_bytes,
            startup_s=startup_s,
        )

    def _contended_s(self, service: Service, concurrency: int) -> float:
        """Of such a service, the wait for a core. Contention comes and goes sooner than `service` changes, so a service
        without it is what the last looks tell: the time in the model less waited; what the gateway waits for a core of
        its own is no work either. Waits between calls are counted too, so it is no shorter than the calls need on as
        many cores as a replica was ever seen to keep busy.
        """
        spent = self._spent
        if self.batches is not None or not spent.model_s:
            return self.cpu_wait_s
        alone_s = max(spent.model_s - spent.wait_s, concurrency * spent.used_s / self._cores_most) / spent.calls
        return service.mean_s - alone_s

    def _known(self, expected_s: float | None) -> Service | None:
        if self._samples >= SAMPLES_MIN:
            if self._service is None:
                self._service = service_of_weights(self._services.items())
            return self._service
        warm_ups = [load.warm_up_s for load in self.loads.values() if load.warm_up_s]
        guess_s = expected_s if expected_s is not None else min(warm_ups, default=None)
        if guess_s is not None:
            return Service(((guess_s, 1.0),))
        return service_of_weights(self._services.items()) if self._samples >= SAMPLES_FEW else None

    def _blend(self, services: tuple[tuple[float, int], ...], new: int, seconds: float) -> None:
        total = sum(count for _, count in services)
        part = min(
            1.0, max(min(new, total) / SERVICES_KEPT, seconds / SERVICES_KEPT_S, new / max(1, self._samples + new))
        )
        kept = {value: share * (1 - part) for value, share in self._services.items()}
        for value, count in services:
            kept[value] = kept.get(value, 0.0) + part * count / total
        self._services = {value: share for value, share in kept.items() if share >= WEIGHT_MIN}
        self._service = None
