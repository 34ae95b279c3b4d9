"""`python -m bench.sizing`: our sizing, fixed numbers, Ray Serve's rule and knowing the future, by simulation."""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import report
from bench.policies import Fixed, Ours, RayServe
from bench.report import Figure, Section
from muleteer.testing import arrivals as traffic
from muleteer.testing.simulation import Backend, Course, Policy, least_replicas, optimal_replica_seconds, run

WINDOW_S = 5.0
SETTLING_S = 30.0
RECOVERY_S = 2.0  # beyond the start-up time
COST_MAX = 1.3
KEPT_MIN = 0.99


@dataclass(frozen=True)
class Setting:
    """The model, the target and the machine of a run. Services are lognormal."""

    target_s: float = 0.1
    mean_s: float = 0.02
    scv: float = 0.25
    replicas_max: int = 16
    backend: Backend = field(default_factory=lambda: Backend(startup_s=2.0, deadline_s=1.0))

    @property
    def capacity(self) -> float:
        """Calls/s of all replicas together."""
        return self.replicas_max / self.mean_s


@dataclass(frozen=True)
class Scenario:
    """Arrivals for `seconds`. `jumps`: (begin, end) of rates that begin in no time, which nobody can foresee."""

    name: str
    times: list[float]
    seconds: float
    jumps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a policy did: share of settled windows and of all that kept the target, cost ÷ optimum, worst recovery."""

    settled: float
    kept: float
    cost: float
    recovery_s: float
    failed: float


def scenarios(setting: Setting, seed: int) -> list[Scenario]:
    """Steady, step, ramp, diurnal and bursty arrivals, as shares of the capacity."""
    capacity, found = setting.capacity, []

    def add(name: str, rate_at: traffic.RateAt, high: float, seconds: float, *jumps: tuple[float, float]) -> None:
        times = traffic.poisson(rate_at, high * capacity, seconds, random.Random(f"{seed} {name}"))
        found.append(Scenario(name, times, seconds, jumps))

    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        add(f"steady {share * 100:.0f} %", traffic.steady(share * capacity), share, 300)
    for low, high in ((0.12, 0.6), (0.18, 0.9)):
        name = f"step {low * 100:.0f} → {high * 100:.0f} %"
        add(name, traffic.step(low * capacity, high * capacity, 120), high, 300, (120, 300))
    add("ramp 10 → 90 %", traffic.ramp(0.1 * capacity, 0.9 * capacity, 60, 240), 0.9, 300)
    add("diurnal 10 – 80 %", traffic.diurnal(0.1 * capacity, 0.8 * capacity, 600), 0.8, 900)
    changes = traffic.burst_changes(900, calm_s=60, burst_s=20, dice=random.Random(seed))
    bursts = tuple(zip(changes[::2], changes[1::2], strict=False))
    add("bursty 15 / 60 %", traffic.bursty(0.15 * capacity, 0.6 * capacity, changes), 0.6, 900, *bursts)
    return found


def recorded(file: Path) -> Scenario:
    """Arrival times in seconds, one a line, ascending."""
    times = [float(line) for line in file.read_text().split()]
    if not times:
        raise SystemExit(f"{file}: no arrivals")
    return Scenario(file.name, [at - times[0] for at in times], times[-1] - times[0])


def judge(scenario: Scenario, setting: Setting, course: Course, optimum: float) -> Outcome:
    """A window is settled if it begins after the settling time, and after start-up + 2 s where the rate jumped."""
    grace_s = setting.backend.startup_s + RECOVERY_S
    windows = course.windows(setting.target_s, seconds=WINDOW_S, begin=SETTLING_S, end=scenario.seconds)
    settled = [
        kept
        for begin, kept in windows
        if not any(jump - WINDOW_S < begin < jump + grace_s for jump, _ in scenario.jumps)
    ]
    recoveries = [
        course.recovered(setting.target_s, since=jump, end=min(end, jump + 60))
        for jump, end in scenario.jumps
        if jump > SETTLING_S and end - jump > grace_s
    ]
    return Outcome(
        sum(settled) / max(1, len(settled)),
        sum(kept for _, kept in windows) / max(1, len(windows)),
        course.replica_seconds / optimum,
        max(recoveries, default=0.0),
        sum(math.isinf(call.response_s) for call in course.calls) / len(course.calls),
    )


def compare(
    scenario: Scenario, setting: Setting, policies: dict[str, Callable[[], Policy]], seed: int
) -> tuple[dict[str, Outcome], float]:
    """Every policy on the same calls; with the optimum in replica-seconds."""
    draw = traffic.lognormal(setting.mean_s, setting.scv, random.Random(f"{seed} services {scenario.name}"))
    services = [draw() for _ in scenario.times]
    courses = {
        name: run(scenario.times, services, make(), setting.target_s, setting.backend)
        for name, make in policies.items()
    }
    calls = next(iter(courses.values())).calls
    needs = least_replicas(calls, setting.target_s, WINDOW_S, scenario.seconds, setting.replicas_max)
    optimum = optimal_replica_seconds(needs, WINDOW_S, setting.backend.startup_s)
    return {name: judge(scenario, setting, course, optimum) for name, course in courses.items()}, optimum


def policies(setting: Setting) -> dict[str, Callable[[], Policy]]:
    """Ours first."""
    most = setting.replicas_max
    return {
        "muleteer": lambda: Ours(setting.target_s, setting.backend.startup_s, most),
        "fixed 4": lambda: Fixed(4),
        f"fixed {most}": lambda: Fixed(most),
        "Ray Serve, defaults": lambda: RayServe(most),
        "Ray Serve, 1 ongoing, quick": lambda: RayServe(most, 1.0, 0.0, 10.0, 5.0),
    }


def section(found: list[Scenario], setting: Setting, chosen: dict[str, Callable[[], Policy]], seed: int) -> Section:
    """The table; targets are set for us only."""
    backend = setting.backend
    table = Section(
        "Sizing, simulated",
        f"Calls of {setting.mean_s * 1e3:.0f} ms (c² {setting.scv:g}), p99 ≤ {setting.target_s * 1e3:.0f} ms, at most "
        f"{setting.replicas_max} replicas starting in {backend.startup_s:g} s, deadline {backend.deadline_s:g} s, "
        f"windows of {WINDOW_S:g} s; a refused call is late. The optimum knows every call. Seed {seed}.",
    )
    for scenario in found:
        outcomes, optimum = compare(scenario, setting, chosen, seed)
        mean = optimum / scenario.seconds
        table.add(Figure(f"{scenario.name}: optimum", mean, "replicas, mean"))
        for name, outcome in outcomes.items():
            ours = name == "muleteer"
            table.add(
                Figure(
                    f"{scenario.name}: {name}: settled windows that kept the target (all: {outcome.kept * 100:.1f} %, "
                    f"calls without answer {outcome.failed * 100:.2f} %)",
                    100 * outcome.settled,
                    "%",
                    target=100 * KEPT_MIN if ours else None,
                    better="more",
                ),
                Figure(
                    f"{scenario.name}: {name}: replica-seconds ÷ optimum",
                    outcome.cost,
                    "",
                    target=COST_MAX if ours else None,
                ),
            )
            if scenario.jumps:
                limit = backend.startup_s + RECOVERY_S
                figure = f"{scenario.name}: {name}: longest time after a jump until the target holds"
                table.add(Figure(figure, outcome.recovery_s, "s", target=limit if ours else None))
    return table


def main() -> int:
    """Prints the table; exit status 0 whether targets are met or not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--ours", action="store_true", help="leave the other policies out")
    parser.add_argument("--trace", type=Path, help="recorded arrivals: a file of seconds, one a line")
    parser.add_argument("--startup", type=float, default=2.0)
    parser.add_argument("--deadline", type=float, default=1.0)
    parser.add_argument("--scv", type=float, default=0.25)
    parser.add_argument("--target", type=float, default=0.1)
    parser.add_argument("--replicas", type=int, default=16)
    given = parser.parse_args()
    backend = Backend(startup_s=given.startup, deadline_s=given.deadline)
    setting = Setting(target_s=given.target, scv=given.scv, replicas_max=given.replicas, backend=backend)
    found = [recorded(given.trace)] if given.trace else scenarios(setting, given.seed)
    chosen = policies(setting)
    if given.ours:
        chosen = {"muleteer": chosen["muleteer"]}
    table = section([s for s in found if given.only in s.name], setting, chosen, given.seed)
    print(report.markdown({"seed": given.seed}, [table], []))
    return 0


if __name__ == "__main__":
    sys.exit(main())
