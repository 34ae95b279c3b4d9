"""Measures a model: how long a call takes and how evenly, CPU, memory, batches, and what a second replica adds. Must
not know what follows from it, nor how it is shown.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from muleteer.control.capacity_plan import fit_curve, scaled
from muleteer.control.proc import usage
from muleteer.control.queueing import Service, service_of
from muleteer.control.sizing import BatchCurve, Workload
from muleteer.trial.blocks import blocks_of, middle
from muleteer.trial.drive import drive
from muleteer.trial.link import Answered, Unit
from muleteer.trial.replica import TrialReplica

PRECISION = 0.02
"""A mean is sure enough if its median over blocks is known this well (95 %); then, and with calls enough for a p99,
measuring ends before its time.
"""
CALLS_ENOUGH = 1000  # 10 of them are above the p99
WARM_UP_SHARE = 0.1  # of the time, left out: caches, lazy imports and the processor's clock settle
WARM_UP_CALLS = 3
_LOOK_S = 0.1
_SIZES_MAX = 11  # 1, 2, 4, … 1024


class Alone(msgspec.Struct, frozen=True):
    """One replica with every slot in use.

    Attributes:
        services: seconds of each call that counts, as the gateway would see them.
        mean_s, error: median of the blocks' means, and its uncertainty as a share of it.
        cpu_s, cpu_wait_s: of a call: on a core (0: less than can be told), and runnable without one.
        rate: calls/s.
    """

    services: tuple[float, ...]
    mean_s: float
    error: float
    cpu_s: float
    cpu_wait_s: float
    rate: float

    def service(self) -> Service:
        """The measured services, moved to the mean that one disturbed block does not change."""
        found = service_of(self.services)
        return found.scaled(self.mean_s / found.mean_s)


class Beside(msgspec.Struct, frozen=True):
    """Two replicas at once, as a multiple of one alone: calls/s of both together, CPU and service of a call."""

    rate: float
    cpu: float
    service: float


class Batch(msgspec.Struct, frozen=True):
    """`seconds` of a batch of `size` calls, median, and CPU seconds of each call in it."""

    size: int
    seconds: float
    cpu_s: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        startup_s: of the first replica, whose files may have come from the disk, and of the second.
        first_bytes, next_bytes: memory of one replica, and what a second one adds to it (PSS: shared pages count once).
        grown_bytes: by how much the first replica grew after it was measured alone, when its caches were warm.
        batches: each size that was measured, of a model that takes batches.
    """

    startup_s: tuple[float, float]
    first_bytes: int
    next_bytes: int
    concurrency: int
    alone: Alone
    beside: Beside
    grown_bytes: int = 0
    batches: tuple[Batch, ...] = ()
    curve: BatchCurve | None = None

    def workload(self, *, beside: bool) -> Workload:
        """What sizing reckons with. `beside`: with other replicas at work, where a call costs more CPU if caches and
        memory are shared.
        """
        alone, more = self.alone, max(1.0, self.beside.cpu) if beside else 1.0
        found = Workload(
            service=alone.service(),
            concurrency=self.concurrency,
            curve=self.curve,
            cpu_s=more * (self.batches[-1].cpu_s if self.curve is not None else alone.cpu_s),
            cpu_wait_s=alone.cpu_wait_s,
            memory_bytes=self.next_bytes,
            startup_s=max(self.startup_s),
        )
        on_core = min(1.0, alone.cpu_s / max(alone.mean_s - alone.cpu_wait_s, 1e-9))
        return scaled(found, 1 + (more - 1) * on_core)


def measure_alone(replica: TrialReplica, inputs: Sequence[Unit], seconds: float) -> Alone:
    """One replica. Raises StartupFailedError if a call fails."""
    slots = replica.request.settings.concurrency
    units = itertools.cycle(inputs)
    warm = time.monotonic() + WARM_UP_SHARE * seconds
    drive([replica], units, in_flight=slots, enough=_after(warm, max(WARM_UP_CALLS, len(inputs))))
    watched = _Cpu([replica])
    began = time.monotonic()
    answered = drive(
        [replica], units, in_flight=slots, enough=_Sure(began + seconds * (1 - WARM_UP_SHARE), len(inputs))
    )
    took = time.monotonic() - began
    cpu_s, cpu_wait_s = watched.each(len(answered) + slots)  # those in flight at the end cost the same
    services = tuple(each.seconds for each in answered)
    found = middle(blocks_of(services, len(inputs)) or services)
    return Alone(services, found.value, found.error, cpu_s, cpu_wait_s, (len(answered) + slots) / took)


def measure_beside(replicas: Sequence[TrialReplica], inputs: Sequence[Unit], seconds: float, alone: Alone) -> Beside:
    """Two replicas at once, beside what one did alone. Raises StartupFailedError if a call fails."""
    slots = replicas[0].request.settings.concurrency
    units = itertools.cycle(inputs)
    drive(replicas, units, in_flight=slots, enough=_after(0, max(WARM_UP_CALLS, len(inputs)) * len(replicas)))
    watched, began = _Cpu(replicas), time.monotonic()
    answered = drive(replicas, units, in_flight=slots, enough=_after(began + seconds, len(inputs) * len(replicas)))
    took, calls = time.monotonic() - began, len(answered) + slots * len(replicas)
    cpu_s, _ = watched.each(calls)
    mean_s = middle(blocks_of([each.seconds for each in answered], len(inputs))).value
    more_cpu = cpu_s / alone.cpu_s if cpu_s and alone.cpu_s else 1.0
    return Beside(calls / took / alone.rate, more_cpu, mean_s / alone.mean_s)


def measure_batches(
    replica: TrialReplica, inputs: Sequence[Unit], seconds: float, *, target_s: float, size_max: int
) -> tuple[Batch, ...]:
    """Sizes 1, 2, 4, …: until one takes longer than `target_s`, `size_max`, or the time is over; two at least. Raises
    StartupFailedError if a call fails.
    """
    bodies = itertools.cycle([body for unit in inputs for body in unit.bodies])
    over, found = time.monotonic() + seconds, list[Batch]()
    for size in (2**power for power in range(_SIZES_MAX)):
        if size > size_max or (len(found) >= 2 and (time.monotonic() > over or found[-1].seconds > target_s)):
            break
        units = _batches(bodies, size)
        until = time.monotonic() + seconds / _SIZES_MAX
        drive([replica], units, in_flight=1, enough=_after(0, 1))
        watched = _Cpu([replica])
        answered = drive([replica], units, in_flight=1, enough=_after(until, 3))
        cpu_s, _ = watched.each(size * (len(answered) + 1))  # one more was in flight
        found.append(Batch(size, middle([each.seconds for each in answered]).value, cpu_s))
    return tuple(found)


def curve_of(batches: Sequence[Batch]) -> BatchCurve | None:
    """The line through them, up to the largest; None of fewer than two."""
    if len(batches) < 2:
        return None
    return fit_curve([(batch.size, batch.seconds) for batch in batches], batches[-1].size)


class _Cpu:
    """CPU that replicas use from now on."""

    def __init__(self, replicas: Sequence[TrialReplica]) -> None:
        self._replicas = replicas
        self._before = self._read()

    def each(self, calls: int) -> tuple[float, float]:
        """Seconds a call so far: on a core, and waiting for one."""
        now = self._read()
        used_s, waited_s = (max(0.0, after - before) for after, before in zip(now, self._before, strict=True))
        return used_s / calls, waited_s / calls

    def _read(self) -> tuple[float, float]:
        seen = [used for replica in self._replicas if (used := usage(replica.pid)) is not None]
        return sum(used.cpu_s for used in seen), sum(used.cpu_wait_s for used in seen)


class _Sure:
    """Whether a mean is known well enough, or the time is over; looked at rarely."""

    def __init__(self, until: float, round_of: int) -> None:
        self._until = until
        self._round_of = round_of
        self._look_at = 0.0

    def __call__(self, answered: Sequence[Answered]) -> bool:
        now = time.monotonic()
        if now < self._look_at or len(answered) < max(WARM_UP_CALLS, self._round_of):
            return False
        if now >= self._until:
            return True
        self._look_at = now + _LOOK_S
        services = [each.seconds for each in answered]
        return len(services) >= CALLS_ENOUGH and middle(blocks_of(services, self._round_of)).error <= PRECISION


def _after(until: float, calls: int) -> Callable[[Sequence[Answered]], bool]:
    """Enough: at least so many calls, and until then."""
    return lambda answered: len(answered) >= calls and time.monotonic() >= until


def _batches(bodies: Iterator[bytes], size: int) -> Iterator[Unit]:
    while True:
        yield Unit(tuple(itertools.islice(bodies, size)), f"a batch of {size}")
