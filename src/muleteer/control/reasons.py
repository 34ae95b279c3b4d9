"""Puts the last decision about one backend together for people. Must not know how it was taken."""

from __future__ import annotations

import msgspec

from muleteer.base.limits import BATCHES_SURE, SAMPLES_MIN
from muleteer.control.autoscale import Sized
from muleteer.control.measure import Measure
from muleteer.control.scaling import UNKNOWN_START_S
from muleteer.control.sizing import queue_reason, target_reason
from muleteer.control.sizing_view import BatchView, SizingView
from muleteer.control.warmth import idle_reason, idle_s
from muleteer.spec.settings import BackendSpec
from muleteer.spec.units import format_seconds


def explained(
    spec: BackendSpec,
    sized: Sized | None,
    measure: Measure | None,
    start_s: float | None,
    *,
    memory_bytes: int = 0,
    now: float = 0.0,
) -> SizingView:
    """All but what the budget says. `memory_bytes`: of one replica, 0: not measured; `now`: for a backend that nothing
    sizes.
    """
    settings = spec.settings
    bounds = settings.bounds
    wanted = bounds.min if sized is None else sized.wanted
    sizing = sized.sizing if sized is not None else None
    view = SizingView(
        backend=spec.name,
        replicas=wanted,
        reason=f"{wanted}: the declared number",
        limited_by="fixed",
        one_more="",
        wanted=wanted,
        min=bounds.min,
        max=bounds.max,
        elastic=settings.elastic,
        start_s=start_s,
        memory_bytes=memory_bytes,
    )
    found: dict[str, object] = {}
    if sized is not None and sizing is not None and bounds.max:
        found |= _decision(sized)
        if settings.elastic:
            found |= {"replicas": sizing.replicas, "reason": sizing.reason, "limited_by": sizing.limited_by}
        else:
            found["advice"] = sizing.reason
    elif settings.elastic:
        found |= {"reason": f"{wanted}: no call was seen yet", "limited_by": "start"}
    elif measure is not None:
        found["rate"] = measure.frequency(now)
        found["workload"] = measure.workload(
            concurrency=settings.concurrency,
            expected_s=settings.expected,
            memory_bytes=memory_bytes,
            startup_s=UNKNOWN_START_S if start_s is None else start_s,
        )
    if measure is not None:
        found |= _waiting(spec, measure) | {"samples": measure.samples}
    if settings.elastic and not bounds.min:
        startup_s = start_s if start_s is not None else UNKNOWN_START_S
        if settings.idle is not None:
            declared = f"the last replica is kept idle for {format_seconds(settings.idle)}, as declared"
            found |= {"idle_s": settings.idle, "idle_reason": declared}
        else:
            reason = idle_reason(startup_s, measured=start_s is not None)
            found |= {"idle_s": idle_s(startup_s), "idle_reason": reason}
    return msgspec.structs.replace(view, **found)


def _decision(sized: Sized) -> dict[str, object]:
    sizing, workload, target_s = sized.sizing, sized.workload, sized.target_s
    assert sizing is not None
    found: dict[str, object] = {
        "one_more": sizing.one_more,
        "target_s": target_s,
        "rate": sized.sizer.rate(),
        "workload": workload,
    }
    if sized.spec.settings.slo is not None:
        found["target_reason"] = "as declared"
    elif target_s is not None and workload is not None:
        found["target_reason"] = target_reason(target_s, workload.service)
    return found


def _waiting(spec: BackendSpec, measure: Measure) -> dict[str, object]:
    """Of all gateways together: how many calls may wait, and how large batches may be."""
    loads = [load for load in measure.loads.values() if load.bound or load.served]
    bound, slots = sum(load.bound for load in loads), sum(load.slots for load in loads)
    most = max(loads, key=lambda load: load.served, default=None)
    found: dict[str, object] = {"queue_bound": bound}
    batches, settings = measure.batches, spec.settings
    if most is not None and most.served:
        mean_s, p99_s, size, known = most.mean_s, most.p99_s, 1, most.served >= SAMPLES_MIN
        if batches is not None:
            size, known = batches.size_max, batches.sent >= BATCHES_SURE
            mean_s = batches.base_s + batches.item_s * size
        elif not known and settings.expected is not None:
            mean_s, p99_s, known = settings.expected, settings.expected, True
        found["queue_reason"] = (
            queue_reason(bound, slots, mean_s, p99_s, settings.timeout, size=size)
            if known
            else f"{bound} may wait until {_needed(batched=batches is not None)} were measured"
        )
    if batches is not None:
        found["batch"] = BatchView(batches.size_max, batches.limited_by, batches.reason, spec.settings.batch_wait)
    return found


def _needed(*, batched: bool) -> str:
    return f"{BATCHES_SURE} batches" if batched else f"{SAMPLES_MIN} calls"
