"""How many replicas a response-time target needs at one rate, and why. Pure; must not know time or processes.

A workload is what was measured of a backend. `needed` is the smallest number of replicas whose response, wait
included, keeps the target; the approximation is stated in `control.queueing`. `control.scaling` adds what changes
over time.

Batches. Replicas that take whatever waits form batches of n calls, each of L(n) = a + b·n seconds. In balance n =
λ·L(n)/c, so n = λa/(c - λb). A call waits until the next of c servers is free, at most L(n)/c if they are spread,
then L(n); n is taken 2.33 deviations above its mean (Poisson). Where that exceeds `batch_max`, full batches are
customers of the
same queue: rate λ/n, service L(n), arrivals n times less variable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from muleteer.base.limits import CALLS_QUEUED_MAX
from muleteer.control.queueing import Service, Wait, response_above, response_quantile, wait_of
from muleteer.spec.units import format_bytes, format_rough, format_seconds

QUANTILE = 0.99
AIM = 0.25
"""Share of the allowed late calls that is planned for: every window must keep the target, not only their mean."""
REPLICAS_MAX = 1024
USELESS = 0.25
"""Another replica that would find less than this part of the cores it can use costs more memory than it is worth."""
QUEUE_OFF = 0.2
"""Part by which a bound may differ from what it is explained with: gateways reckon with what they knew then."""
BUSY_MAX = 0.95  # utilisation where the target cannot be kept anyway


class BatchCurve(msgspec.Struct, frozen=True):
    """L(n) = `base_s` + `item_s`·n for 1 ≤ n ≤ `batch_max`."""

    base_s: float
    item_s: float
    batch_max: int

    def latency_s(self, size: float) -> float:
        """Seconds of a batch of `size`."""
        return self.base_s + self.item_s * size


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one backend.

    Attributes:
        service: how long a call holds a slot. With a curve: its spread only, the curve gives the mean.
        concurrency: slots of a replica.
        curve: of a model that is called in batches.
        cpu_s: CPU seconds of a call; 0 where unknown.
        cpu_wait_s: of its service, seconds that a call was runnable but had no core: contention, not work.
        memory_bytes: of one replica (PSS).
        startup_s: from starting a replica to its first call.
    """

    service: Service
    concurrency: int = 1
    curve: BatchCurve | None = None
    cpu_s: float = 0.0
    cpu_wait_s: float = 0.0
    memory_bytes: int = 0
    startup_s: float = 1.0

    def rate_max(self) -> float:
        """Calls/s of one replica that is never idle, on cores of its own."""
        if self.curve is not None:
            return self.concurrency * self.curve.batch_max / self.curve.latency_s(self.curve.batch_max)
        return self.concurrency / self.service.mean_s

    def cores_busy(self) -> float:
        """Cores that one replica uses while it is never idle."""
        alone_s = max(self.service.mean_s - self.cpu_wait_s, 1e-9)
        return self.cpu_s * self.concurrency / alone_s if self.curve is None else self.cpu_s * self.rate_max()


class Response(NamedTuple):
    """Expected response times in seconds (inf: the queue grows), and the share of time that slots are busy."""

    p50_s: float
    p99_s: float
    utilisation: float


class Need(NamedTuple):
    """`replicas` for a target. `attainable`: with any number; otherwise as many as leave little wait."""

    replicas: int
    attainable: bool


class _Model(NamedTuple):
    """A queue reckoned through: the wait, and the service of a call or of its batch."""

    wait: Wait | _Residual
    service: Service


class _Residual(NamedTuple):
    """The wait for the next of several spread servers: uniform up to `longest_s`."""

    longest_s: float

    def above(self, seconds: float) -> float:
        return 1.0 if seconds < 0 else max(0.0, 1 - seconds / self.longest_s)


def _model(workload: Workload, replicas: int, rate: float, arrival_scv: float) -> _Model | None:
    """None where the queue grows without end."""
    servers, curve = replicas * workload.concurrency, workload.curve
    if servers < 1:
        return None
    if curve is None:
        wait = wait_of(servers, rate, workload.service, arrival_scv)
        return None if wait is None else _Model(wait, workload.service)
    spread = workload.service.scaled(1 / workload.service.mean_s)  # factors around the curve
    single = spread.scaled(curve.latency_s(1))
    if rate * curve.latency_s(1) <= 0.5 * servers:  # batches of one: whatever waits is rarely two
        wait = wait_of(servers, rate, single, arrival_scv)
        return None if wait is None else _Model(wait, single)
    if rate * curve.item_s < servers:
        size = max(1.0, rate * curve.base_s / (servers - rate * curve.item_s))
        likely = size + 2.33 * math.sqrt(size * max(1.0, arrival_scv))
        if likely <= curve.batch_max:
            latency_s = curve.latency_s(likely)
            return _Model(_Residual(latency_s / servers), spread.scaled(latency_s))
    full = spread.scaled(curve.latency_s(curve.batch_max))
    wait = wait_of(servers, rate / curve.batch_max, full, arrival_scv / curve.batch_max)
    return None if wait is None else _Model(wait, full)


def late_share(workload: Workload, replicas: int, rate: float, target_s: float, arrival_scv: float = 1.0) -> float:
    """Share of the calls expected to take longer than `target_s`; 1 where the queue grows."""
    model = _model(workload, replicas, rate, arrival_scv)
    return 1.0 if model is None else response_above(model.wait.above, model.service, target_s)


def response(workload: Workload, replicas: int, rate: float, arrival_scv: float = 1.0) -> Response:
    """What callers will see."""
    busy = rate / (replicas * workload.rate_max()) if replicas else math.inf
    model = _model(workload, replicas, rate, arrival_scv)
    if model is None:
        return Response(math.inf, math.inf, busy)
    above, service = model.wait.above, model.service
    return Response(response_quantile(above, service, 0.5), response_quantile(above, service, QUANTILE), busy)


def needed(workload: Workload, rate: float, target_s: float, arrival_scv: float = 1.0) -> Need:
    """The fewest replicas that keep the p99 within `target_s` at `rate` calls/s."""
    if rate <= 0:
        return Need(0, attainable=True)
    allowed = (1 - QUANTILE) * AIM
    model = _model(workload, REPLICAS_MAX, rate, arrival_scv)
    alone = 1.0 if model is None else response_above(model.wait.above, model.service, target_s)
    attainable = alone <= allowed
    if not attainable:
        # Near the target, or beyond: no wait to speak of is all that replicas can give.
        allowed = min(1.0, alone + (1 - QUANTILE))
    low = max(1, math.ceil(rate / workload.rate_max() * (1.0 if attainable else 1 / BUSY_MAX)))
    step = 1
    while late_share(workload, low, rate, target_s, arrival_scv) > allowed and low < REPLICAS_MAX:
        low, step = min(low + step, REPLICAS_MAX), step * 2  # quickly past, then back
    while (
        low > 1
        and rate / ((low - 1) * workload.rate_max()) < BUSY_MAX
        and (late_share(workload, low - 1, rate, target_s, arrival_scv) <= allowed)
    ):
        low -= 1
    return Need(low, attainable or alone <= 1 - QUANTILE)


def useful_max(workload: Workload, cores: float) -> int:
    """Replicas beyond which another only shares cores that are busy already; at least one."""
    busy = workload.cores_busy()
    return REPLICAS_MAX if busy * REPLICAS_MAX <= cores else max(1, math.ceil(cores / busy - USELESS))


def one_more(workload: Workload, replicas: int, rate: float, arrival_scv: float, cores: float | None) -> str:
    """What one replica more would change, in words and numbers."""
    now, then = (response(workload, count, rate, arrival_scv) for count in (replicas, replicas + 1))
    memory = f", {format_bytes(workload.memory_bytes)} more memory" if workload.memory_bytes else ""
    if cores is not None and workload.cpu_s and replicas >= useful_max(workload, cores):
        return (
            f"with {replicas + 1}: nothing gained{memory}: a busy replica uses {format_rough(workload.cores_busy())} "
            f"cores and there are {cores:g}"
        )
    if math.isinf(then.p99_s):
        return f"with {replicas + 1}: still too few, {then.utilisation * 100:.0f} % of their capacity is asked for"
    if not replicas:
        return f"with 1: p99 {format_seconds(then.p99_s)}, {then.utilisation * 100:.0f} % busy{memory}"
    before = "without bound" if math.isinf(now.p99_s) else format_seconds(now.p99_s)
    return (
        f"with {replicas + 1}: p99 {format_seconds(then.p99_s)} instead of {before}, "
        f"{then.utilisation * 100:.0f} % busy instead of {min(now.utilisation, 9.99) * 100:.0f} %{memory}"
    )


def queue_reason(bound: int, slots: int, mean_s: float, p99_s: float, deadline_s: float, *, size: int = 1) -> str:
    """Why `bound` calls may wait: the words of the gateway's rule (queued + 1)·S/C + p99 ≤ D. `size` calls go together
    and take `mean_s`.
    """
    deadline = format_seconds(deadline_s)
    if bound <= 0:
        return f"none may wait: a call takes up to {format_seconds(p99_s)} (p99) and its deadline is {deadline}"
    wait_s = deadline_s - p99_s
    in_time = math.floor(wait_s * slots * size / max(mean_s, 1e-9))
    if CALLS_QUEUED_MAX <= bound < in_time:
        return f"{bound} may wait, the most that a queue holds: {in_time} would be in time"
    if slots and abs(in_time - bound) > max(size, QUEUE_OFF * bound):
        return f"{bound} may wait within the deadline of {deadline}"
    line = "1 slot takes" if slots == 1 else f"{slots} slots take" if slots else "the slots that come take"
    mean, left = format_seconds(mean_s), format_seconds(float(f"{wait_s:.3g}"))
    one, what = "call", f"{bound} calls of {mean} (mean)"
    if size > 1:
        one, what = "batch", f"{bound // size} batches of {size}, {mean} each"
    return (
        f"{bound} may wait: of the deadline of {deadline}, {format_seconds(p99_s)} are kept for the {one} itself "
        f"(p99); in the other {left} {line} {what}"
    )


TARGET_FACTOR = 2.0
TARGET_MARGIN_S = 0.05


def default_target_s(service: Service, timeout_s: float) -> float:
    """The p99 that is aimed at where none was declared: twice that of a call alone, or 50 ms more than it, whichever is
    later; at most half the time that a call has in all, but never less than 1.2 times a call alone.

    So a call may wait about as long as the slowest take, and a quick one for what nobody notices.
    """
    alone_s = service.quantile(QUANTILE)
    return max(1.2 * alone_s, min(timeout_s / 2, max(TARGET_FACTOR * alone_s, alone_s + TARGET_MARGIN_S)))


def target_reason(target_s: float, service: Service) -> str:
    """`default_target_s` in words and numbers."""
    return (
        f"no slo is declared: aims at p99 {format_seconds(target_s)}, a call alone takes up to "
        f"{format_seconds(service.quantile(QUANTILE))} (p99)"
    )
