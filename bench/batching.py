"""A vectorised model behind batches, beside a bare loop that calls its `predict_batch`. `python -m bench.batching SIZE
SECONDS` is that loop. Must not know how batches are formed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from bench import measure, wrk
from bench.models import Vectorised
from bench.report import Figure, Section, median
from bench.sections import MODELS, of
from bench.server import Server

SIZES = (16, 64, 128, 256, 512)
CONNECTIONS = 1024
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def section(folder: Path, dice: random.Random, *, rounds: int, seconds: int) -> Section:
    """They take turns; each has one thread for the model."""
    found = Section(
        "Batches",
        f"numpy, two layers of {Vectorised.width}, one replica, one thread; wrk with {CONNECTIONS} connections, beside "
        "a process that calls predict_batch in a loop, at the best of the sizes "
        f"{', '.join(str(size) for size in SIZES)}; they take turns.",
    )
    bare: dict[int, list[float]] = {size: [] for size in SIZES}
    served: list[wrk.Figures] = []
    cpu: list[float] = []
    target = f"{MODELS}:Vectorised"
    with Server(folder, target, "--route", "/predict", env=ONE_THREAD) as server:
        url = f"http://127.0.0.1:{server.port}/predict"
        gateway = server.pids("gateway")
        wrk.run(url, connections=CONNECTIONS, seconds=2)
        alone = [wrk.run(url, connections=1, seconds=1) for _ in range(rounds)]
        for _ in range(rounds):
            for size in dice.sample([0, *SIZES], len(SIZES) + 1):
                if size:
                    bare[size].append(loop(size, seconds))
                    continue
                before = measure.cpu_s(gateway)
                served.append(wrk.run(url, connections=CONNECTIONS, seconds=seconds))
                cpu.append(1e6 * (measure.cpu_s(gateway) - before) / max(1, served[-1].requests))
        batches = server.statistics()["backends"]["Vectorised"]["batches"]
    with Server(folder, target, "--route", "/predict", "--batch", "off", env=ONE_THREAD) as server:
        url = f"http://127.0.0.1:{server.port}/predict"
        single = [wrk.run(url, connections=CONNECTIONS, seconds=seconds) for _ in range(rounds)]
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
        of("CPU of the gateway", "µs an item", cpu),
        Figure("mean size of a batch", batches["calls"] / batches["sent"], "calls"),
        Figure("largest batch that it would send", batches["size_max"], f"calls ({batches['limited_by']})"),
        of("p50 at one connection", "µs", [figures.p50_us for figures in alone]),
    )
    return found


def loop(size: int, seconds: int) -> float:
    """Items/s of the bare loop in a process of its own."""
    command = [sys.executable, "-m", "bench.batching", str(size), str(seconds)]
    environment = {"PATH": "/usr/bin:/bin"} | ONE_THREAD
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 + seconds, check=True)
    return float(done.stdout)


def main() -> None:
    """The bare loop."""
    size, seconds = int(sys.argv[1]), float(sys.argv[2])
    model = Vectorised()
    done, begun = 0, 0.0
    for turn in range(10**9):
        if turn == 2:  # warm by now
            begun = time.perf_counter()
        model.predict_batch(list(range(turn * size, (turn + 1) * size)))
        if turn >= 2:
            done += size
            if time.perf_counter() - begun > seconds:
                break
    print(done / (time.perf_counter() - begun))


if __name__ == "__main__":
    main()
