"""What a model needs for a rate and a target, before it serves anyone. Pure; must not know how it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import msgspec

from muleteer.control.sizing import BatchCurve, Workload, needed, one_more, response, useful_max
from muleteer.spec.units import format_bytes, format_seconds

CORES_BUSY_MAX = 0.85  # of the cores at the planned rate: above, calls wait for a core as they do for a replica


class Question(msgspec.Struct, frozen=True):
    """`rate` calls/s within `p99_s`; `cores` and `memory_bytes` of the machine it is for, None: unknown."""

    rate: float
    p99_s: float
    cores: float | None = None
    memory_bytes: int | None = None


class CapacityPlan(msgspec.Struct, frozen=True):
    """The answer.

    Attributes:
        replicas: that keep the target on cores enough.
        memory_bytes: of all of them.
        cores: that the calls keep busy, mean.
        cores_needed: whole cores so that calls seldom wait for one.
        p50_s, p99_s: expected responses.
        utilisation: share of the time that a slot is busy.
        one_more: what one replica more would change.
        problems: why the target or this machine is not enough; empty if it is.
    """

    replicas: int
    memory_bytes: int
    cores: float
    cores_needed: int
    p50_s: float
    p99_s: float
    utilisation: float
    one_more: str
    problems: tuple[str, ...]


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


def plan(question: Question, workload: Workload) -> CapacityPlan:
    """Replicas, memory and cores for `question`; Poisson arrivals are assumed."""
    need = needed(workload, question.rate, question.p99_s)
    replicas = max(1, need.replicas)
    expected = response(workload, replicas, question.rate)
    cores = question.rate * workload.cpu_s
    memory = replicas * workload.memory_bytes
    problems = []
    if not need.attainable:
        problems.append(
            f"p99 {format_seconds(question.p99_s)} is out of reach with any number of replicas: a call alone takes "
            f"{format_seconds(response(workload, replicas, 0).p99_s)} (p99)"
        )
    cores_needed = max(math.ceil(cores / CORES_BUSY_MAX - 1e-9), math.ceil(min(workload.cores_busy(), 1) - 1e-9))
    if question.cores is not None and cores_needed > question.cores:
        most = question.cores * CORES_BUSY_MAX / workload.cpu_s
        problems.append(
            f"{cores_needed} cores are needed and there are {question.cores:g}: they do about {most:.3g} calls/s, and "
            f"replicas beyond {useful_max(workload, question.cores)} would only share them"
        )
    if question.memory_bytes is not None and memory > question.memory_bytes:
        problems.append(
            f"{format_bytes(memory)} are needed and there are {format_bytes(question.memory_bytes)}: they hold "
            f"{question.memory_bytes // max(workload.memory_bytes, 1)} replicas"
        )
    return CapacityPlan(
        replicas,
        memory,
        cores,
        cores_needed,
        expected.p50_s,
        expected.p99_s,
        expected.utilisation,
        one_more(workload, replicas, question.rate, 1.0, question.cores),
        tuple(problems),
    )


def yaml_text(found: CapacityPlan, question: Question, *, name: str, model: str, route: str) -> str:
    """`muleteer.yaml` that declares it: the target, and as many replicas as the rate may need."""
    backend = json.dumps(name)  # a JSON string is a YAML string whatever is in it
    return (
        f"# {question.rate:g} calls/s with p99 {format_seconds(question.p99_s)}: {found.replicas} replicas, "
        f"{format_bytes(found.memory_bytes)}, {found.cores_needed} cores\n"
        "backends:\n"
        f"  {backend}:\n"
        f"    model: {json.dumps(model)}\n"
        f"    slo: {{p99: {format_seconds(question.p99_s)}}}\n"
        f"    replicas: {{min: 1, max: {found.replicas}}}\n"
        "endpoints:\n"
        f"  {backend}: {{route: {json.dumps(route)}, traffic: {{{backend}: 100}}}}\n"
    )
