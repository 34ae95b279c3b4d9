"""What it costs when each replica's BLAS has as many threads as the machine has cores, beside its share of them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bench.load import Load, Target, quantile
from bench.report import Figure, Section, median
from bench.sections import drive, nonce_body, of
from bench.server import Server

MODEL = Path(__file__).with_name("threads_model.py")


class _Answer(msgspec.Struct):
    threads: int


def section(folder: Path, *, rounds: int, seconds: float) -> Section:
    """As many replicas as cores, then twice as many, never idle; both ways take turns."""
    cores = len(os.sched_getaffinity(0))
    found = Section(
        "Threads of replicas",
        f"A numpy model that multiplies 480 × 480 matrices on {cores} cores, closed loop with two connections for each "
        f"replica. `own`: {cores} threads in each, as BLAS has by itself; `share`: as muleteer sets them.",
    )
    own = {"OPENBLAS_NUM_THREADS": str(cores), "OMP_NUM_THREADS": str(cores)}
    for replicas in (cores, 2 * cores):
        rates: dict[str, list[float]] = {"own": [], "share": []}
        p99s: dict[str, list[float]] = {"own": [], "share": []}
        threads: dict[str, float] = {}
        for _ in range(rounds):
            for name, env in (("own", own), ("share", {})):
                declared = (f"{MODEL}:Multiplies", "--route", "/predict", "--replicas", str(replicas))
                with Server(folder, *declared, env=env) as server:
                    target = Target(server.port, "/predict", nonce_body)
                    drive(Load(target).closed_loop(2 * replicas, 0.5))
                    good = [r for r in drive(Load(target).closed_loop(2 * replicas, seconds)) if r.status == 200]
                rates[name].append(len(good) / (max(r.done for r in good) - min(r.sent for r in good)))
                p99s[name].append(1e3 * quantile([r.done - r.sent for r in good], 0.99))
                threads[name] = max(msgspec.json.decode(r.body, type=_Answer).threads for r in good)
        found.add(
            *(Figure(f"{replicas} replicas, {name}: threads of one", threads[name], "") for name in threads),
            *(of(f"{replicas} replicas, {name}: answers", "/s", rates[name]) for name in rates),
            *(of(f"{replicas} replicas, {name}: p99", "ms", p99s[name]) for name in p99s),
            Figure(f"{replicas} replicas: answers, share ÷ own", median(rates["share"]) / median(rates["own"]), ""),
            Figure(f"{replicas} replicas: p99, share ÷ own", median(p99s["share"]) / median(p99s["own"]), ""),
        )
    return found
