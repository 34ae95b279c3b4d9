"""A vectorised model behind batches, beside a bare loop that calls its `predict_batch`. `python -m bench.batching SIZE
SECONDS` is that loop. Must not know how batches are formed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bench import measure, wrk
from bench.models import Vectorised
from bench.report import Figure, Section, median
from bench.sections import MODELS, of
from bench.server import Server

SIZES = (16, 64, 256, 512, 1024)
CONNECTIONS = 2048  # four full batches: one runs, one stands behind it, one waits, the answers of one are on their way
RAMP_S = 1  # the first answers come after a batch, and the last batch is never answered: neither is measured
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Steady(NamedTuple):
    """What a backend did between two looks: answers/s, and by role CPU in µs an answer. `failed`: of the whole run."""

    rate: float
    cpu_us: dict[str, float]
    failed: int


def section(folder: Path, dice: random.Random, *, rounds: int, seconds: int) -> Section:
    """They take turns; each has one thread for the model."""
    found = Section(
        "Batches",
        f"numpy, two layers of {Vectorised.width}, one replica, one thread; wrk with {CONNECTIONS} connections, beside "
        f"a process that calls predict_batch in a loop for {seconds} s, at the best of the sizes "
        f"{', '.join(str(size) for size in SIZES)}; they take turns. Served: "
        f"{3 * seconds} s in the middle of a run, by what the gateway counts.",
    )
    bare: dict[int, list[float]] = {size: [] for size in SIZES}
    bare_cpu: dict[int, list[float]] = {size: [] for size in SIZES}
    served: list[Steady] = []
    target = f"{MODELS}:Vectorised"
    with Server(folder, target, "--route", "/predict", env=ONE_THREAD) as server:
        url = f"http://127.0.0.1:{server.port}/predict"
        wrk.run(url, connections=CONNECTIONS, seconds=2)
        alone = [wrk.run(url, connections=1, seconds=1) for _ in range(rounds)]
        before_all = server.statistics()["backends"]["Vectorised"]["batches"]
        for _ in range(rounds):
            for size in dice.sample([0, *SIZES], len(SIZES) + 1):
                if size:
                    rate, cpu_us = loop(size, seconds)
                    bare[size].append(rate)
                    bare_cpu[size].append(cpu_us)
                    continue
                served.append(_steady(server, url, 3 * seconds))
        batches = server.statistics()["backends"]["Vectorised"]["batches"]
    with Server(folder, target, "--route", "/predict", "--batch", "off", env=ONE_THREAD) as server:
        url = f"http://127.0.0.1:{server.port}/predict"
        single = [_steady(server, url, seconds) for _ in range(rounds)]
    best = max(SIZES, key=lambda size: median(bare[size]))
    for size in SIZES:
        found.add(of(f"bare loop, {size} at once", "items/s", bare[size]))
    found.add(
        of("served", "items/s", [figures.rate for figures in served]),
        of(
            f"served ÷ bare loop at its best ({best})",
            "",
            [ours.rate / theirs for ours, theirs in zip(served, bare[best], strict=True)],
            target=0.90,
            better="more",
        ),
        of("served one by one (--batch off)", "items/s", [figures.rate for figures in single]),
        of("answers other than 200", "", [float(figures.failed) for figures in served], target=0),
        of("CPU of the gateway", "µs an item", [figures.cpu_us["gateway"] for figures in served]),
        of("CPU of the replica", "µs an item", [figures.cpu_us["replica"] for figures in served]),
        of(f"CPU of the bare loop, {best} at once", "µs an item", bare_cpu[best]),
        Figure(
            "mean size of a batch",
            (batches["calls"] - before_all["calls"]) / (batches["sent"] - before_all["sent"]),
            "calls",
        ),
        Figure("largest batch that it would send", batches["size_max"], f"calls ({batches['limited_by']})"),
        of("p50 at one connection", "µs", [figures.p50_us for figures in alone]),
    )
    return found


def _steady(server: Server, url: str, seconds: int) -> Steady:
    """In the middle of a run of wrk."""
    pids = {role: server.pids(role) for role in ("gateway", "replica")}

    def look() -> tuple[float, int, dict[str, float]]:
        answered = server.statistics()["backends"]["Vectorised"]["calls"]["answered"]
        return time.perf_counter(), answered, {role: measure.cpu_s(pids[role]) for role in pids}

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(wrk.run, url, connections=CONNECTIONS, seconds=seconds + 2 * RAMP_S)
        time.sleep(RAMP_S)
        begun, before, cpu_before = look()
        time.sleep(seconds)
        ended, after, cpu_after = look()
        failed = load.result().failed
    items = max(1, after - before)
    cpu_us = {role: 1e6 * (cpu_after[role] - cpu_before[role]) / items for role in pids}
    return Steady((after - before) / (ended - begun), cpu_us, failed)


def loop(size: int, seconds: int) -> tuple[float, float]:
    """The bare loop in a process of its own: items/s, and its CPU in µs an item."""
    command = [sys.executable, "-m", "bench.batching", str(size), str(seconds)]
    environment = {"PATH": "/usr/bin:/bin"} | ONE_THREAD
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 + seconds, check=True)
    rate, cpu_us = done.stdout.split()
    return float(rate), float(cpu_us)


def main() -> None:
    """The bare loop."""
    size, seconds = int(sys.argv[1]), float(sys.argv[2])
    model = Vectorised()
    for _ in range(2):
        model.predict_batch(list(range(size)))
    done, begun, cpu_s = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        model.predict_batch(list(range(done, done + size)))
        done += size
    print(done / (time.perf_counter() - begun), 1e6 * (time.process_time() - cpu_s) / done)


if __name__ == "__main__":
    main()
