"""Does `muleteer plan` foresee what happens? Plans for a rate, serves the file it wrote, drives that rate, compares."""

from __future__ import annotations

import json
import math
import random
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from bench.load import Load, Record, Target, quantile
from bench.report import Figure, Section, median
from bench.sections import MODELS, drive, nonce_body
from bench.server import COMMAND, Server, wait_until
from muleteer.testing.arrivals import poisson, steady

SETTLING_S = 6.0
"""With the file as it is: how long the server may take to find its own number."""


class Case(NamedTuple):
    """One model, its rate and its target."""

    model: str
    rate: float
    target_s: float


CASES = (Case("FancyModel", 400.0, 0.05), Case("Spins", 60.0, 0.1), Case("Vectorised", 100.0, 0.2))


class Seen(NamedTuple):
    """What callers saw, in seconds; `answered`: share of the calls; `lag_s`: p99 of the generator's own delay."""

    p50_s: float
    p99_s: float
    answered: float
    lag_s: float


def section(folder: Path, dice: random.Random, *, rounds: int, seconds: float) -> Section:
    """`seconds`: of each round, with as many replicas as were planned."""
    found = Section(
        "Planning",
        "`muleteer plan` measures a model by itself, for one rate and target; then the file that it wrote is served, "
        "and Poisson arrivals of that rate are driven, latencies counted from sending. Ratios are predicted ÷ "
        "measured: under 1 is too hopeful. Plan, server and load generator share this machine.",
    )
    for case in CASES:
        _case(case, folder, dice, found, rounds=rounds, seconds=seconds)
    return found


def _case(case: Case, folder: Path, dice: random.Random, found: Section, *, rounds: int, seconds: float) -> None:
    what = f"{case.model}, {case.rate:g}/s, p99 ≤ {case.target_s * 1e3:g} ms"
    own = folder / case.model
    own.mkdir()
    file = own / "muleteer.yaml"
    told = _plan(case, own, file)
    answer = told["plan"]
    if answer["problems"]:
        found.add(Figure(f"{what}: out of reach: {answer['problems'][0]}", math.nan, ""))
        return
    replicas = answer["replicas"]
    with Server(own, "-c", str(file)) as server:
        _drive(case, server, dice, SETTLING_S)
        chosen = _ready(server)
        server.command("scale", case.model, str(replicas))
        wait_until(lambda: _ready(server) == replicas, f"{replicas} replicas", seconds=30)
        _drive(case, server, dice, 0.5)
        seen = [_drive(case, server, dice, seconds) for _ in range(rounds)]
    found.add(
        Figure(f"{what}: replicas planned", replicas, ""),
        Figure(f"{what}: replicas that the server found by itself", chosen, ""),
        Figure(f"{what}: mean of a call, measured alone", 1e3 * told["measured"]["mean_s"], "ms"),
    )
    for name, predicted_s, values in (
        ("p50", answer["p50_s"], [each.p50_s for each in seen]),
        ("p99", answer["p99_s"], [each.p99_s for each in seen]),
    ):
        found.add(
            Figure(f"{what}: {name} predicted", 1e3 * predicted_s, "ms"),
            Figure(f"{what}: {name} measured", 1e3 * median(values), "ms", rounds=tuple(1e3 * each for each in values)),
            Figure(f"{what}: {name} predicted ÷ measured", predicted_s / median(values), ""),
        )
    found.add(
        Figure(f"{what}: p99 measured ÷ target", median([each.p99_s for each in seen]) / case.target_s, "", target=1.0),
        Figure(
            f"{what}: calls without an answer", 100 * (1 - median([each.answered for each in seen])), "%", target=0.0
        ),
        Figure(f"{what}: p99 of the generator's own delay", 1e3 * max(each.lag_s for each in seen), "ms"),
    )


def _plan(case: Case, folder: Path, file: Path) -> dict[str, Any]:
    asked = ("--rate", f"{case.rate:g}", "--slo", f"p99={case.target_s * 1e3:g}ms", "--seconds", "8")
    command = [str(COMMAND), "plan", f"{MODELS}:{case.model}", *asked, "--write", str(file), "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"muleteer plan: exit {done.returncode}: {done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _drive(case: Case, server: Server, dice: random.Random, seconds: float) -> Seen:
    offsets = poisson(steady(case.rate), case.rate, seconds, dice)
    records: list[Record] = drive(Load(Target(server.port, "/predict", nonce_body)).timed(offsets))
    took = [record.done - record.sent for record in records if record.status == 200]
    lag_s = quantile([record.sent - record.due for record in records if record.sent], 0.99)
    return Seen(quantile(took, 0.5), quantile(took, 0.99), len(took) / len(records), lag_s)


def _ready(server: Server) -> int:
    return sum(each["links_ready"] for each in server.statistics()["backends"].values())
