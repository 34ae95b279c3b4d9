"""Why a backend has as many replicas, as long a queue and as large batches as it has: words and numbers for a person.
Pure; must not know how anything was decided or measured, nor how it is sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from muleteer.base.limits import SAMPLES_MIN
from muleteer.control.controller import ControllerStatistics
from muleteer.control.fleet import BackendStatistics
from muleteer.control.queueing import Service
from muleteer.control.reasons import explained
from muleteer.control.sizing import QUANTILE, BatchCurve, Workload, needed, one_more, response
from muleteer.control.sizing_view import SizingView
from muleteer.control.status import GatewayView, backend_reason, backend_state, gateway_view
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared
from muleteer.spec.units import format_bytes, format_rate, format_rough, format_seconds

LIMITS: Final = {
    "rate": "nothing is in the way: rate and target alone decide",
    "backlog": "calls that wait already: once they are served, fewer do",
    "hold": "a recent need: starting again would cost more than keeping",
    "idle": "the time for which the last replica is kept after the last call",
    "target": "the target, which no number of replicas keeps",
    "min": "the declared minimum",
    "max": "the declared maximum",
    "cpu": "the cores: more replicas would only share them",
    "memory": "the memory budget",
    "start": "nothing is measured yet",
    "fixed": "the declared number",
}
"""What limits the number of replicas, by its machine word."""
LATE_NEVER = "without bound"


class Sentence(msgspec.Struct, frozen=True):
    """`topic`: `replicas`, `limit`, `measured`, `expected`, `one more`, `budget`, `queue`, `batch`, `idle`, `memory`,
    `start` or `trouble`.
    """

    topic: str
    text: str


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What the words rest on. Seconds, bytes, calls a second; None: not measured, or nothing to expect.

    Attributes:
        rate: calls/s now.
        mean_s, p99_s, variation: of the time that a call holds a slot; `variation` is the squared coefficient c².
        cpu_s, cpu_wait_s: of a call, on a core, and runnable without one.
        cores_busy: by one replica that is never idle.
        memory_bytes: of one replica (PSS).
        start_s: from a demand to the first call.
        rate_max: of one replica that is never idle.
        target_s: p99 to keep; `expected_p50_s`, `expected_p99_s`: with as many replicas as are wanted.
        utilisation: share of the time that their slots are busy.
        curve: of batches.
    """

    rate: float
    mean_s: float | None = None
    p99_s: float | None = None
    variation: float | None = None
    cpu_s: float | None = None
    cpu_wait_s: float | None = None
    cores_busy: float | None = None
    memory_bytes: int | None = None
    start_s: float | None = None
    rate_max: float | None = None
    target_s: float | None = None
    expected_p50_s: float | None = None
    expected_p99_s: float | None = None
    utilisation: float | None = None
    curve: BatchCurve | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One backend.

    Attributes:
        state: as in status.
        ready: replicas that serve; `wanted`: that should.
        limited_by: a machine word; see `LIMITS`.
        queued, queue_bound: calls that wait, and how many may.
        batch_max: calls that may be sent together.
        sentences: in the order to be read.
        numbers: what they rest on.
    """

    backend: str
    state: str
    ready: int
    wanted: int
    limited_by: str
    queued: int
    queue_bound: int
    batch_max: int
    sentences: tuple[Sentence, ...]
    numbers: Numbers


class EndpointExplanation(msgspec.Struct, frozen=True):
    """Each backend of an endpoint in turn; `traffic`: their weights, 0 for one that only gets copies."""

    endpoint: str
    route: str
    traffic: dict[str, float]
    backends: tuple[Explanation, ...]


def explain_named(
    name: str, declared: Declared, controller: ControllerStatistics, gateways: Mapping[str, dict[str, Any] | None]
) -> Explanation | None:
    """One backend of all that is declared; None if it is not. `gateways`: what each counts, None without an answer."""
    spec = next((each for each in declared.backends if each.name == name), None)
    backend = next((each for each in controller.backends if each.name == name), None)
    if spec is None or backend is None:
        return None
    views = [gateway_view(told) for told in gateways.values() if told is not None]
    return explain(spec, backend, views, controller.sizings.get(name) or explained(spec, None, None, None))


def explain(
    spec: BackendSpec, backend: BackendStatistics, gateways: Iterable[GatewayView], view: SizingView
) -> Explanation:
    """One backend, from its declaration, its replicas, what gateways count, and the last decision."""
    queues = [each.backends[spec.name].queue for each in gateways if spec.name in each.backends]
    staying = [replica for replica in backend.replicas if not replica.leaving]
    ready = sum(replica.status.state == "ready" for replica in staying)
    trouble = backend_reason(backend)
    words = sentences(spec.settings, ready, backend.wanted, trouble, view)
    return Explanation(
        backend=spec.name,
        state=backend_state(backend),
        ready=ready,
        wanted=backend.wanted,
        limited_by=view.limited_by,
        queued=sum(queue.depth for queue in queues),
        queue_bound=sum(queue.bound for queue in queues),
        batch_max=view.batch.size_max if view.batch is not None else 1,
        sentences=words if backend.observed else words[:1],  # why: the rest rests on what runs
        numbers=_numbers(view),
    )


def sentences(
    settings: BackendSettings, ready: int, wanted: int, trouble: str | None, view: SizingView
) -> tuple[Sentence, ...]:
    """The words. `trouble`: why replicas do not start."""
    found = [Sentence("trouble", trouble.strip().partition("\n")[0])] if trouble else []
    found.append(Sentence("replicas", _replicas(settings, ready, wanted, view)))
    if view.elastic and view.max:
        found.append(Sentence("limit", LIMITS.get(view.limited_by, view.limited_by)))
    found.append(Sentence("measured", _measured(settings, view)))
    if view.workload is not None and view.samples >= SAMPLES_MIN and view.wanted and view.rate > 0:
        found.append(Sentence("expected", _expected(view, view.workload)))
    if view.max and (more := _one_more(view)):
        found.append(Sentence("one more", more))
    if view.grant is not None and view.grant.reason:
        found.append(Sentence("budget", view.grant.reason))
    found += [
        Sentence("queue", view.queue_reason or "how many calls may wait follows from how long they take"),
        Sentence("batch", _batch(settings, view)),
        Sentence("idle", _idle(view)),
        Sentence("memory", _memory(settings, view)),
        Sentence("start", _start(view)),
    ]
    return tuple(found)


def _running(ready: int, wanted: int) -> str:
    if ready == wanted:
        return f"{ready} ready, as wanted"
    return f"{ready} ready, {wanted} wanted"


def _replicas(settings: BackendSettings, ready: int, wanted: int, view: SizingView) -> str:
    running = _running(ready, wanted)
    if wanted == ready == 0 and view.min == 0:
        running = "none runs: it sleeps, and a call wakes it" if view.max else "none runs: none is declared"
    if view.elastic:
        held = f"; the budget leaves {view.wanted}" if view.wanted != view.replicas else ""
        return f"{running}. {view.reason}{held}"
    if not view.max:
        return running
    return f"{running}: that number is declared. {_advice(settings, view)}"


def _advice(settings: BackendSettings, view: SizingView) -> str:
    """What would be enough or too much where the number is fixed."""
    if view.workload is None or view.samples < SAMPLES_MIN:
        return "What would be enough is known once calls were measured"
    if not view.rate:
        return "No calls come, so any number is enough"
    target_s, why = (
        (view.target_s, "the target of") if view.target_s is not None else (settings.timeout, "a timeout of")
    )
    need = needed(view.workload, view.rate, target_s)
    what = f"{why} {format_seconds(target_s)} at {format_rate(view.rate)}"
    sized = f". Sizing would plan {view.advice}" if view.advice else ""
    if not need.attainable:
        return f"No number keeps {what}{sized}"
    if need.replicas > view.replicas:
        return f"Too few for {what}: {need.replicas} would be enough{sized}"
    if need.replicas < view.replicas:
        return f"More than needed for {what}: {need.replicas} would be enough{sized}"
    return f"Just enough for {what}{sized}"


def _measured(settings: BackendSettings, view: SizingView) -> str:
    workload = view.workload
    if workload is None:
        told = "what the warm-up with `example` takes"
        if settings.expected is not None:
            told = f"`expected`, {format_seconds(settings.expected)},"
        return f"nothing yet: until {SAMPLES_MIN} calls were answered, {told} counts"
    service = workload.service
    if view.samples < SAMPLES_MIN:
        told = "`expected`" if settings.expected is not None else "the warm-up"
        calls = f"{view.samples} of {SAMPLES_MIN} calls that are needed"
        return f"{calls}; until then {told} counts: a call is assumed to take {_time(service.mean_s)}"
    text = (
        f"{format_rate(view.rate)}; a call takes {_time(service.mean_s)} (mean), {_time(service.quantile(QUANTILE))} "
        f"(p99), variation c² {format_rough(service.scv)}"
    )
    if workload.cpu_s:
        text += f"; of it {_time(workload.cpu_s)} on a core"
        if workload.cpu_wait_s > service.mean_s / 100:
            text += f", {_time(workload.cpu_wait_s)} waiting for one"
        text += f": a busy replica uses {format_rough(workload.cores_busy())} cores"
    return text


def _expected(view: SizingView, workload: Workload) -> str:
    found = response(workload, view.wanted, view.rate)
    target = ""
    if view.target_s is not None:
        why = f" ({view.target_reason})" if view.target_reason else ""
        target = f", where {_time(view.target_s)} is aimed at{why}"
    return f"p50 {_time(found.p50_s)}, p99 {_time(found.p99_s)}{target}; {found.utilisation * 100:.0f} % busy"


def _one_more(view: SizingView) -> str:
    if view.one_more:
        return f"planned like that, {view.one_more}" if view.one_more.startswith("with ") else view.one_more
    if view.workload is None or not view.rate:
        return ""
    return one_more(view.workload, view.wanted, view.rate, 1.0, view.room.cores)


def _batch(settings: BackendSettings, view: SizingView) -> str:
    if view.batch is None:
        if settings.batch == "off":
            return "one by one: batches are switched off"
        return "one by one: no batch was sent yet; the model may not take any"
    wait = f"; an incomplete one waits {format_seconds(view.batch.wait_s)}" if view.batch.wait_s else ""
    return f"{view.batch.reason}{wait}"


def _idle(view: SizingView) -> str:
    if view.min:
        return f"never asleep: at least {view.min} {'runs' if view.min == 1 else 'run'}"
    if not view.max:
        return "never awake: 0 replicas are declared"
    if view.idle_s is None:
        return "how long the last replica is kept follows from its start, which is not measured yet"
    return view.idle_reason or f"the last replica is kept idle for {format_seconds(view.idle_s)}"


def _memory(settings: BackendSettings, view: SizingView) -> str:
    if view.memory_bytes:
        return f"a replica uses {format_bytes(view.memory_bytes)} (PSS: a page that several share counts in parts)"
    if settings.memory is not None:
        return f"not measured yet: {format_bytes(settings.memory)} are reserved for a replica, as declared"
    return "not measured yet: a guess is reserved for a replica"


def _start(view: SizingView) -> str:
    if view.start_s is None:
        return "not measured yet"
    return f"{_time(view.start_s)} from a demand to the first call"


def _numbers(view: SizingView) -> Numbers:
    workload = view.workload
    if workload is None:
        memory_bytes = view.memory_bytes or None
        return Numbers(rate=view.rate, memory_bytes=memory_bytes, start_s=view.start_s, target_s=view.target_s)
    found = response(workload, view.wanted, view.rate) if view.wanted else None
    service: Service = workload.service
    return Numbers(
        rate=view.rate,
        mean_s=service.mean_s,
        p99_s=service.quantile(QUANTILE),
        variation=service.scv,
        cpu_s=workload.cpu_s or None,
        cpu_wait_s=workload.cpu_wait_s,
        cores_busy=workload.cores_busy() if workload.cpu_s else None,
        memory_bytes=view.memory_bytes or None,
        start_s=view.start_s,
        rate_max=workload.rate_max(),
        target_s=view.target_s,
        expected_p50_s=_finite(found.p50_s) if found is not None else None,
        expected_p99_s=_finite(found.p99_s) if found is not None else None,
        utilisation=found.utilisation if found is not None else None,
        curve=workload.curve,
    )


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def _time(seconds: float) -> str:
    return LATE_NEVER if math.isinf(seconds) else format_seconds(float(f"{seconds:.3g}"))
