"""Whether the target is kept without touching a knob, how soon after a step, and what that costs beside the optimum."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.load import Load, Record, Target, quantile
from bench.report import Figure, Section
from bench.sections import MODELS, drive, nonce_body
from bench.server import Server, wait_until
from bench.sizing import COST_MAX, KEPT_MIN, RECOVERY_S
from bench.watch import Watch
from muleteer.testing.arrivals import RateAt, poisson
from muleteer.testing.simulation import Call, Course, least_replicas, optimal_replica_seconds

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
STEP = (0.12, 0.6)  # to 90 % of what there is, what waits meanwhile would be cleared for longer than the limit
CONNECTIONS_MAX = 2000
SETTLING_S = 4.0


@dataclass(frozen=True)
class Case:
    """A model, its target, and the most replicas that help; `declared`: what its backend is told beside the target."""

    model: str
    target_s: float
    replicas_max: int
    declared: tuple[str, ...] = ()


class _Answer(msgspec.Struct):
    took_us: int


@dataclass(frozen=True)
class Trace:
    """Shares of the capacity, each for `level_s` seconds."""

    shares: tuple[float, ...]
    level_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return len(self.shares) * self.level_s

    def rate_at(self, capacity: float) -> RateAt:
        """Calls/s at a time of the trace."""
        return lambda now: capacity * self.shares[int(now / self.level_s)]


@dataclass(frozen=True)
class Run:
    """What one trace came to. Times of `course` count from its begin."""

    trace: Trace
    course: Course
    optimum: float
    lag_s: float

    def settled(self, target_s: float) -> list[bool]:
        """Of each window of a second in which the rate had been the same for the settling time: target kept?"""
        kept: list[bool] = []
        before = 0.0
        for level, share in enumerate(self.trace.shares):
            begin, end = level * self.trace.level_s, (level + 1) * self.trace.level_s
            settled = begin if share == before else begin + SETTLING_S
            kept += [good for _, good in self.course.windows(target_s, seconds=1.0, begin=settled, end=end)]
            before = share
        return kept


def section(folder: Path, dice: random.Random, *, seconds: float) -> Section:
    """Both models. `seconds`: of each level, after settling."""
    cores = len(os.sched_getaffinity(0))
    found = Section(
        "Sizing from a target",
        "A server that was told `slo: {p99: …}` and nothing else (Sleeps: at most 16 replicas), Poisson arrivals at "
        f"shares of the capacity, which is measured first with as many replicas as help. {SETTLING_S:g} s after each "
        "change, windows of 1 s are judged; a refused call is late; latencies count from sending. The step multiplies "
        f"the rate by {STEP[1] / STEP[0]:g}. The optimum knows every call in advance and chooses a number every "
        f"{SETTLING_S + seconds:g} s, as long as each rate lasts at least.",
    )
    for case in (
        Case("Sleeps", 0.1, 16, ("--replicas", "1:16")),
        Case("Spins", 0.3, cores),
    ):
        _measure(case, folder, dice, seconds, found)
    return found


def _measure(case: Case, folder: Path, dice: random.Random, seconds: float, found: Section) -> None:
    machine = _measured(case, folder)
    level_s = SETTLING_S + seconds
    step = Trace(STEP, level_s)
    runs = [_run(case, trace, machine, folder, dice) for trace in (Trace(LEVELS, level_s), step)]
    settled = [kept for run in runs for kept in run.settled(case.target_s)]
    limit = machine.startup_s + RECOVERY_S
    recovery = runs[1].course.recovered(case.target_s, since=level_s, end=step.seconds)
    cost = sum(run.course.replica_seconds for run in runs)
    calls = [call for run in runs for call in run.course.calls]
    refused = sum(math.isinf(call.response_s) for call in calls)
    what = f"{case.model}, p99 ≤ {case.target_s * 1e3:.0f} ms"
    found.add(
        Figure(f"{what}: capacity", machine.capacity, "calls/s"),
        Figure(f"{what}: a replica's start", machine.startup_s, "s"),
        Figure(
            f"{what}: settled windows that kept it, of {len(settled)}",
            100 * sum(settled) / len(settled),
            "%",
            target=100 * KEPT_MIN,
            better="more",
        ),
        Figure(f"{what}: time until it holds after the step", recovery, "s", target=limit),
        Figure(
            f"{what}: replica-seconds ÷ optimum",
            cost / sum(run.optimum for run in runs),
            "",
            target=COST_MAX,
            rounds=tuple(run.course.replica_seconds / run.optimum for run in runs),
        ),
        Figure(f"{what}: calls without an answer", 100 * refused / len(calls), "%"),
        Figure(f"{what}: p99 of the generator's own delay", 1e3 * max(run.lag_s for run in runs), "ms"),
    )


class Machine(NamedTuple):
    """Answers/s of as many replicas as help, while each always has a call; seconds of a replica's start."""

    capacity: float
    startup_s: float


def _measured(case: Case, folder: Path) -> Machine:
    target = f"{MODELS}:{case.model}"
    with Server(folder, target, "--route", "/predict", "--replicas", str(case.replicas_max)) as server:
        _wait_for(server, case.replicas_max)
        records = drive(Load(Target(server.port, "/predict", nonce_body)).closed_loop(2 * case.replicas_max, 3.0))
        server.kill(server.pids("replica")[0])
        startup_s = wait_until(lambda: _ready(server) < case.replicas_max, "the killed one is missed")
        startup_s += _wait_for(server, case.replicas_max)
    good = [record.done for record in records if record.status == 200]
    return Machine(len(good) / (max(good) - records[0].sent), startup_s)


def _ready(server: Server) -> int:
    return sum(each["links_ready"] for each in server.statistics()["backends"].values())


def _wait_for(server: Server, replicas: int) -> float:
    return wait_until(lambda: _ready(server) >= replicas, f"{replicas} replicas", seconds=60)


def _run(case: Case, trace: Trace, machine: Machine, folder: Path, dice: random.Random) -> Run:
    arguments = (f"{MODELS}:{case.model}", "--route", "/predict", "--slo", f"p99={case.target_s * 1e3:.0f}ms")
    offsets = poisson(trace.rate_at(machine.capacity), machine.capacity, trace.seconds, dice)
    with Server(folder, *arguments, *case.declared) as server:
        _wait_for(server, 1)
        target = Target(server.port, "/predict", nonce_body, connections_max=CONNECTIONS_MAX)
        with Watch(server.pid, folder) as watch:
            records = drive(Load(target).timed(offsets))
    begin = records[0].due - offsets[0]
    calls = _calls(records, begin)
    needs = least_replicas(calls, case.target_s, trace.level_s, trace.seconds, case.replicas_max)
    return Run(
        trace,
        Course(calls, watch.replica_seconds(begin, begin + trace.seconds), ()),
        optimal_replica_seconds(needs, trace.level_s, machine.startup_s),
        quantile([record.sent - record.due for record in records if record.sent], 0.99),
    )


def _calls(records: Sequence[Record], begin: float) -> tuple[Call, ...]:
    """As the simulation has them. What was refused would have been served as the others were, on average."""
    took = {r.nonce: msgspec.json.decode(r.body, type=_Answer).took_us / 1e6 for r in records if r.status == 200}
    mean_s = sum(took.values()) / max(1, len(took))
    return tuple(
        Call(r.due - begin, took.get(r.nonce, mean_s), r.done - r.sent if r.nonce in took else math.inf)
        for r in records
    )
