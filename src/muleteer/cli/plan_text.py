"""How `muleteer plan` shows what was measured and what follows. Must not know how either was found."""

from __future__ import annotations

import json
import math

import msgspec

from muleteer.cli.output import harmless, say
from muleteer.control.capacity_plan import GATEWAY_RATE, CapacityPlan, Question
from muleteer.control.proc import CPU_STEP_S
from muleteer.control.queueing import Service
from muleteer.control.sizing import QUANTILE
from muleteer.spec.units import format_bytes, format_number, format_rate, format_rough, format_seconds
from muleteer.trial.measure import Measured

_LABEL = 11
_SIZES_SHOWN = 6
CONTENDED = 0.05
"""Share of a call waiting for a core above which the machine was too busy to be believed without saying so."""
GROWTH = 0.1
"""Share of its memory by which a replica may grow while it is measured, with its caches warm, and no word is said."""


def show_measured(measured: Measured) -> None:
    """What one and two replicas did."""
    alone, beside = measured.alone, measured.beside
    service = alone.service()
    cold_s, again_s = measured.startup_s
    _row("start", f"{seconds(cold_s)}, a second one {seconds(again_s)}")
    doubt = "too few calls to tell how sure" if math.isinf(alone.error) else f"± {format_rough(alone.error * 100)} %"
    _row(
        "call",
        f"{seconds(alone.mean_s)} mean ({doubt}, {len(alone.services):,} calls), p99 "
        f"{seconds(service.quantile(QUANTILE))}, variation c² {format_rough(service.scv)}",
    )
    _row("cpu", _on_core(measured))
    if alone.cpu_wait_s > CONTENDED * alone.mean_s:
        _row(
            "",
            f"{seconds(alone.cpu_wait_s)} of a call waited for a core: others use this machine, and calls look longer",
        )
    _row("memory", f"{format_bytes(measured.first_bytes)}, each further replica {format_bytes(measured.next_bytes)}")
    if measured.grown_bytes > GROWTH * measured.first_bytes:
        grown = format_bytes(measured.grown_bytes)
        _row("", f"a replica grew by {grown} while it was measured: one that goes on so needs `max_rss`, and more room")
    if measured.curve is not None:
        few = [f"{batch.size}: {seconds(batch.seconds)}" for batch in measured.batches[-_SIZES_SHOWN:]]
        curve = measured.curve
        line = f"n take {seconds(curve.base_s)} + n · {seconds(curve.item_s)}"
        _row("batches", f"{', '.join(few)}; {line}")
    more = f", {beside.cpu:.2f} times the CPU of a call" if alone.cpu_s else ""
    _row("two at once", f"{beside.rate:.2f} times the calls/s of one{more}")


def _on_core(measured: Measured) -> str:
    """What a call costs; never nothing, which no call costs."""
    alone = measured.alone
    if not alone.cpu_s:
        calls = len(alone.services)
        least = f"less than {seconds(CPU_STEP_S / calls)} a call"
        return f"{least}, which is the least that this system can tell of {calls:,} calls"
    share = format_rough(share_on_core(measured) * 100)
    return f"{seconds(alone.cpu_s)} a call: {'less than 0.01' if share == '0' else share} % of it"


def share_on_core(measured: Measured) -> float:
    """Of the time of a call, that on a core; above 1 with several threads."""
    alone = measured.alone
    return alone.cpu_s / max(alone.mean_s - alone.cpu_wait_s, 1e-9)


def show_plan(question: Question, measured: Measured, found: CapacityPlan) -> None:
    """What follows."""
    say(f"{format_rate(question.rate)} with p99 {seconds(question.p99_s)}")
    _row("replicas", f"{found.replicas:,}, {found.utilisation * 100:.0f} % busy")
    _row("expected", f"p50 {seconds(found.p50_s)}, p99 {seconds(found.p99_s)}")
    _row("memory", format_bytes(found.memory_bytes))
    busy = float(f"{found.cores:.2g}")
    _row(
        "cores",
        f"{found.cores_needed:,}: {format_number(busy)} are busy on average, the gateway included",
    )
    if measured.curve is not None:
        _row("batch", found.batch_reason)
    _row("queue", found.queue_reason)
    if found.gateways > 1:
        _row("gateways", f"{found.gateways}: one answers {format_rate(GATEWAY_RATE)}")
    most = found.gateways * GATEWAY_RATE
    end = f": {_gateways(found.gateways)} no more" if any(each.rate >= most for each in found.breaks) else ""
    _row("breaks", ", ".join(f"{each.replicas:,} at {format_rate(each.rate)}" for each in found.breaks) + end)
    _row("one more", found.one_more)
    for problem in found.problems:
        _row("too little", problem)


def as_json(question: Question, measured: Measured, found: CapacityPlan, yaml: str) -> str:
    """All of it; times in seconds, sizes in bytes."""
    alone, service = measured.alone, measured.alone.service()
    return json.dumps(
        {
            "question": msgspec.to_builtins(question),
            "measured": {
                "startup_s": measured.startup_s,
                "calls": len(alone.services),
                **_service(service),
                "error": None if math.isinf(alone.error) else alone.error,
                "cpu_s": alone.cpu_s or None,
                "cpu_wait_s": alone.cpu_wait_s,
                "first_bytes": measured.first_bytes,
                "next_bytes": measured.next_bytes,
                "grown_bytes": measured.grown_bytes,
                "batches": msgspec.to_builtins(measured.batches),
                "curve": msgspec.to_builtins(measured.curve),
                "two_at_once": msgspec.to_builtins(measured.beside),
            },
            "plan": {
                name: None if isinstance(value, float) and math.isinf(value) else value
                for name, value in msgspec.to_builtins(found).items()
            },
            "yaml": yaml,
        },
        indent=2,
    )


def seconds(value: float) -> str:
    """Three digits, whatever the unit; `without bound` where a queue grows."""
    return "without bound" if math.isinf(value) else format_seconds(float(f"{value:.3g}"))


def _gateways(count: int) -> str:
    return "one gateway answers" if count == 1 else f"{count} gateways answer"


def _service(service: Service) -> dict[str, float]:
    return {"mean_s": service.mean_s, "p99_s": service.quantile(QUANTILE), "scv": service.scv}


def _row(label: str, text: str) -> None:
    say(f"  {label:<{_LABEL}} {harmless(text)}")
