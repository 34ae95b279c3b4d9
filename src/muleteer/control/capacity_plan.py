"""What a model needs for a rate and a target, before it serves anyone. Pure; must not know how it was measured.

Replicas come from `control.sizing`. Cores are a second queue: where more calls may run than there are cores, the part
of a call that needs one is stretched as by processor sharing, E[T | x] ≈ x·(1 + C/(c(1-u))) for x seconds on one of c
cores that are busy to u, C being Erlang's (exact for one core: L. Kleinrock, *Queueing Systems* II, 1976, §4.4; for
several the M/M/c form). A stretched call holds its slot for longer, so it needs more replicas too. Beside a
simulation (tests/control/test_shared_cores.py) the p99 is right where calls compute, and up to 1.7 times too high where
they compute for a part of their time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from muleteer.base.limits import CALLS_QUEUED_MAX
from muleteer.control.queueing import erlang_c
from muleteer.control.sizing import (
    AIM,
    QUANTILE,
    REPLICAS_MAX,
    BatchCurve,
    Response,
    Workload,
    late_share,
    needed,
    queue_reason,
    response,
    useful_max,
)
from muleteer.spec.dump import dump
from muleteer.spec.settings import BackendSpec, Declared, EndpointSpec, Replicas, ServerSettings, Slo
from muleteer.spec.units import format_bytes, format_rate, format_seconds

GATEWAY_CPU_S = 1e-4  # of the front process for a request: 75 to 180 µs (`make bench`)
GATEWAY_RATE = 0.7 / GATEWAY_CPU_S  # requests/s that one of them answers without a wait to speak of
GATEWAYS_MAX = 64
SPARE = 0.1  # of a replica that the cores lack: it is busy for that much less of the time, or waits that little
GAIN_MIN = 0.02  # of the p99: less is not worth a replica
_STEPS = 16  # of a bisection: four digits


class Question(msgspec.Struct, frozen=True):
    """`rate` calls/s within `p99_s`; `cores` and `memory_bytes` of the machine it is for, None: unknown. `timeout_s`:
    deadline of a call.
    """

    rate: float
    p99_s: float
    cores: float | None = None
    memory_bytes: int | None = None
    timeout_s: float = 30.0


class Break(msgspec.Struct, frozen=True):
    """Above `rate` calls/s, `replicas` no longer keep the target."""

    replicas: int
    rate: float


class CapacityPlan(msgspec.Struct, frozen=True):
    """The answer.

    Attributes:
        replicas: that keep the target.
        memory_bytes: of all of them.
        cores: that calls and gateway keep busy, mean.
        cores_needed: whole cores with which these replicas keep the target.
        gateways: that answer so many requests.
        batch_max, batch_reason: the largest batch that keeps the target; 1 of a model that takes calls one by one.
        queue_bound, queue_reason: how many calls may wait.
        p50_s, p99_s: expected responses.
        utilisation: share of the time that a slot is busy.
        breaks: of one replica less, of these, and of one more.
        one_more: what one replica more would change.
        problems: why target or machine are not enough, and which number would be; empty if they are.
    """

    replicas: int
    memory_bytes: int
    cores: float
    cores_needed: int
    gateways: int
    batch_max: int
    batch_reason: str
    queue_bound: int
    queue_reason: str
    p50_s: float
    p99_s: float
    utilisation: float
    breaks: tuple[Break, ...]
    one_more: str
    problems: tuple[str, ...] = ()


def fit_curve(measured: Sequence[tuple[int, float]], batch_max: int) -> BatchCurve:
    """The line through (batch size, seconds) by least squares, errors taken as shares of the value; a, b ≥ 0.

    Raises ValueError where fewer than two sizes were measured.
    """
    if len({size for size, _ in measured}) < 2:
        raise ValueError("a batch curve needs at least two sizes")
    weights = [1 / max(seconds, 1e-9) ** 2 for _, seconds in measured]
    total = sum(weights)
    mean_n = sum(w * n for w, (n, _) in zip(weights, measured, strict=True)) / total
    mean_s = sum(w * s for w, (_, s) in zip(weights, measured, strict=True)) / total
    spread = sum(w * (n - mean_n) ** 2 for w, (n, _) in zip(weights, measured, strict=True))
    slope = sum(w * (n - mean_n) * (s - mean_s) for w, (n, s) in zip(weights, measured, strict=True)) / spread
    item_s = min(mean_s / mean_n, max(0.0, slope))
    return BatchCurve(mean_s - item_s * mean_n, item_s, batch_max)


class _Way(NamedTuple):
    """So many replicas, of this workload each: one way to see more replicas than the cores can keep busy."""

    workload: Workload
    replicas: int


def _ways(workload: Workload, replicas: int, rate: float, cores: float | None) -> list[_Way]:
    """How `replicas` do on so many cores: undisturbed if every call can have a core to itself; else as the few for
    which that is so, or as all of them, each call stretched. Either takes from what is there, so the better one holds.
    None where the cores cannot do the work at all.
    """
    gateway = rate * GATEWAY_CPU_S
    if cores is None or not workload.cpu_s:
        return [_Way(workload, replicas)]
    on_core = workload.cores_busy() / workload.concurrency  # of a call's time; above 1 with several threads
    alone = math.floor((cores - gateway) / (workload.concurrency * max(1.0, on_core)) + SPARE)
    if replicas <= alone:
        return [_Way(workload, replicas)]
    busy = rate * workload.cpu_s + gateway
    if busy >= cores:
        return []
    servers = max(1, math.floor(cores))
    stretch = erlang_c(servers, busy * servers / cores) / (cores - busy)
    stretched = _Way(scaled(workload, 1 + min(1.0, on_core) * stretch), replicas)
    return [stretched, _Way(workload, alone)] if alone > 0 else [stretched]


def scaled(workload: Workload, factor: float) -> Workload:
    """Every call and every batch `factor` times as long, for the same CPU."""
    curve = workload.curve
    if curve is not None:
        curve = BatchCurve(curve.base_s * factor, curve.item_s * factor, curve.batch_max)
    return msgspec.structs.replace(workload, service=workload.service.scaled(factor), curve=curve)


def _late(workload: Workload, replicas: int, rate: float, target_s: float, cores: float | None) -> float:
    """Share of the calls expected to be late on so many cores."""
    return min((late_share(*way, rate, target_s) for way in _ways(workload, replicas, rate, cores)), default=1.0)


def _response(workload: Workload, replicas: int, rate: float, cores: float | None) -> Response:
    """What callers will see on so many cores."""
    found = [response(*way, rate) for way in _ways(workload, replicas, rate, cores)]
    return min(found, key=lambda each: each.p99_s) if found else response(workload, replicas, rate)


def plan(question: Question, workload: Workload, *, first_bytes: int | None = None) -> CapacityPlan:
    """Replicas, memory and cores for `question`; Poisson arrivals are assumed.

    Args:
        question: what is wanted.
        workload: as measured; its memory is what each replica after the first adds.
        first_bytes: memory of the first; None: as of the others.
    """
    rate, target_s = question.rate, question.p99_s
    found = _fewest(workload, rate, target_s, question.cores)
    cores = None if found is None else question.cores  # what is out of reach is told for cores enough
    replicas = found or max(1, needed(workload, rate, target_s).replicas)
    expected = _response(workload, replicas, rate, cores)
    first = workload.memory_bytes if first_bytes is None else first_bytes
    slots = replicas * workload.concurrency
    batch_max, batch_reason = _batch(workload, slots, target_s)
    gateways = min(GATEWAYS_MAX, math.ceil(rate / GATEWAY_RATE))
    bound, why = _queue(workload, slots, batch_max, question.timeout_s)
    answer = CapacityPlan(
        replicas=replicas,
        memory_bytes=first + (replicas - 1) * workload.memory_bytes,
        cores=rate * (workload.cpu_s + GATEWAY_CPU_S),
        cores_needed=_cores_needed(workload, replicas, rate, target_s),
        gateways=gateways,
        batch_max=batch_max,
        batch_reason=batch_reason,
        queue_bound=bound,
        queue_reason=why,
        p50_s=expected.p50_s,
        p99_s=expected.p99_s,
        utilisation=expected.utilisation,
        breaks=tuple(
            Break(count, min(gateways * GATEWAY_RATE, break_rate(workload, count, target_s, cores)))
            for count in (replicas - 1, replicas, replicas + 1)
            if count
        ),
        one_more=_one_more(workload, replicas, rate, cores),
    )
    return msgspec.structs.replace(answer, problems=_problems(question, workload, answer, first))


def break_rate(workload: Workload, replicas: int, target_s: float, cores: float | None = None) -> float:
    """The highest rate at which so many replicas keep the p99 within the target; 0 if none."""
    return _highest(
        lambda rate: _late(workload, replicas, rate, target_s, cores) <= 1 - QUANTILE, replicas * workload.rate_max()
    )


def _fewest(workload: Workload, rate: float, target_s: float, cores: float | None) -> int | None:
    """The fewest replicas that keep the target on so many cores; None where no number does."""
    need = needed(workload, rate, target_s)
    if not need.attainable:
        return None
    replicas = max(1, need.replicas)
    allowed = _allowed(workload, replicas, rate, target_s)
    counts = [
        replicas,
        *(needed(way.workload, rate, target_s).replicas for way in _ways(workload, replicas, rate, cores)),
    ]
    kept = (count for count in sorted(counts) if _late(workload, count, rate, target_s, cores) <= allowed)
    return next(kept, None)


def _cores_needed(workload: Workload, replicas: int, rate: float, target_s: float) -> int:
    """The fewest whole cores on which so many replicas keep the target as well as on any number."""
    allowed = _allowed(workload, replicas, rate, target_s)
    cores = max(1, math.ceil(rate * (workload.cpu_s + GATEWAY_CPU_S)))
    while _late(workload, replicas, rate, target_s, cores) > allowed:
        cores += 1
    return cores


def _allowed(workload: Workload, replicas: int, rate: float, target_s: float) -> float:
    """The share of late calls that is planned for on few cores: twice that of `needed`, half of what a p99 allows."""
    return 2 * max((1 - QUANTILE) * AIM, late_share(workload, replicas, rate, target_s))


def _one_more(workload: Workload, replicas: int, rate: float, cores: float | None) -> str:
    now, then, alone = (
        _response(workload, count, rate, there).p99_s
        for count, there in ((replicas, cores), (replicas + 1, cores), (replicas + 1, None))
    )
    memory = f"{format_bytes(workload.memory_bytes)} more memory"
    if then <= now * (1 - GAIN_MIN):
        return f"with {replicas + 1}: p99 {_time(then)} instead of {_time(now)}, for {memory}"
    shared = cores is not None and alone <= now * (1 - GAIN_MIN)
    why = f"{cores:g} cores are shared already" if shared else "calls hardly wait"
    return f"with {replicas + 1}: nothing gained for {memory}: {why}"


def _time(seconds: float) -> str:
    return "without bound" if math.isinf(seconds) else format_seconds(float(f"{seconds:.3g}"))


def _batch(workload: Workload, slots: int, target_s: float) -> tuple[int, str]:
    """The gateway's rule: a batch and the wait for one of the slots fit into the target."""
    curve = workload.curve
    if curve is None:
        return 1, "one by one: the model takes no batches"
    line = f"a batch of n takes {format_seconds(curve.base_s)} + n · {format_seconds(curve.item_s)}"
    allowed_s = target_s / (1 + 1 / slots)
    if curve.latency_s(curve.batch_max) <= allowed_s:
        return curve.batch_max, f"up to {curve.batch_max}, the largest measured or allowed: {line}"
    size = max(1, math.floor((allowed_s - curve.base_s) / curve.item_s)) if curve.item_s else 1
    return size, f"up to {size}: {line}, and the wait for {_slot(slots)} has to fit into the target too"


def _queue(workload: Workload, slots: int, batch_max: int, timeout_s: float) -> tuple[int, str]:
    """The gateway's bound: the largest n with n·S/C + p99 ≤ D."""
    mean_s, p99_s = workload.service.mean_s, workload.service.quantile(QUANTILE)
    if workload.curve is not None:
        p99_s *= workload.curve.latency_s(batch_max) / mean_s
        mean_s = workload.curve.latency_s(batch_max) / batch_max
    bound = min(CALLS_QUEUED_MAX, max(0, math.floor((timeout_s - p99_s) * slots / mean_s)))
    return bound, queue_reason(bound, slots, mean_s, p99_s, timeout_s)


def _problems(question: Question, workload: Workload, found: CapacityPlan, first_bytes: int) -> tuple[str, ...]:
    """What is not enough, and which number would be."""
    rate, target_s = question.rate, question.p99_s
    if rate >= REPLICAS_MAX * workload.rate_max():
        most = break_rate(workload, REPLICAS_MAX, target_s)
        return (f"a backend has at most {REPLICAS_MAX} replicas. In reach: {format_rate(most)}",)
    if rate > GATEWAYS_MAX * GATEWAY_RATE:
        one, all_of_them = format_rate(GATEWAY_RATE), format_rate(GATEWAYS_MAX * GATEWAY_RATE)
        return (f"at most {GATEWAYS_MAX} gateways answer, {one} each. In reach: {all_of_them}",)
    if not needed(workload, rate, target_s).attainable:
        out_of_reach = (
            f"p99 {format_seconds(target_s)} is out of reach with any number of replicas: a call alone takes "
            f"{format_seconds(response(workload, 1, 0).p99_s)} (p99). In reach: p99 "
            f"{format_seconds(_least_target(workload, rate))}"
        )
        return (out_of_reach,)
    found_wanting = (_too_few_cores(question, workload, found), _too_little(question, workload, found, first_bytes))
    return tuple(problem for problem in found_wanting if problem)


def _too_few_cores(question: Question, workload: Workload, found: CapacityPlan) -> str:
    cores, target_s = question.cores, question.p99_s
    if cores is None or _fewest(workload, question.rate, target_s, cores) is not None:
        return ""
    most = _highest(lambda rate: _fewest(workload, rate, target_s, cores) is not None, question.rate)
    return (
        f"{_number(found.cores_needed, 'core')} needed, and there are {cores:g}: replicas beyond "
        f"{useful_max(workload, cores)} would only share them. In reach: {format_rate(most)} on {cores:g}, or this "
        f"rate on {found.cores_needed}"
    )


def _too_little(question: Question, workload: Workload, found: CapacityPlan, first_bytes: int) -> str:
    memory = question.memory_bytes
    if memory is None or found.memory_bytes <= memory:
        return ""
    fit = 0 if first_bytes > memory else 1 + (memory - first_bytes) // max(1, workload.memory_bytes)
    most = break_rate(workload, fit, question.p99_s, question.cores) if fit else 0.0
    return (
        f"{format_bytes(found.memory_bytes)} needed for {_number(found.replicas, 'replica')}, and there are "
        f"{format_bytes(memory)}, which hold {fit}. In reach: {format_rate(most)} in that, or this rate in "
        f"{format_bytes(found.memory_bytes)}"
    )


def _least_target(workload: Workload, rate: float) -> float:
    """The smallest p99 that some number of replicas keeps, two digits, rounded up."""
    low, high = 0.0, 2 * workload.service.points[-1][0]
    if workload.curve is not None:
        high *= workload.curve.latency_s(workload.curve.batch_max) / workload.service.mean_s
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(workload, rate, middle).attainable else (middle, high)
    step = 10.0 ** (math.floor(math.log10(high)) - 1)
    return float(f"{math.ceil(high / step) * step:.2g}")


def _highest(keeps: Callable[[float], bool], most: float) -> float:
    """The highest rate up to `most` that keeps the target, where every lower one does."""
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def yaml_text(found: CapacityPlan, question: Question, backend: BackendSpec, route: str, *, folder: str) -> str:
    """`muleteer.yaml` for `folder`: `backend` with the target, and as many replicas as the rate may need."""
    settings = msgspec.structs.replace(
        backend.settings, slo=Slo(question.p99_s), replicas=Replicas(1, max(1, found.replicas))
    )
    declared = Declared(
        server=ServerSettings(gateways=found.gateways),
        backends=(msgspec.structs.replace(backend, settings=settings),),
        endpoints=(EndpointSpec(name=backend.name, route=route, traffic={backend.name: 1.0}),),
    )
    asked = f"{format_rate(question.rate)} with p99 {format_seconds(question.p99_s)}"
    return (
        f"# {asked}: {_number(found.replicas, 'replica')}, "
        f"{format_bytes(found.memory_bytes)}, {_number(found.cores_needed, 'core')}\n"
    ) + dump(declared, base_dir=folder)


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"


def _slot(slots: int) -> str:
    return f"one of {slots} slots" if slots > 1 else "the 1 slot"
