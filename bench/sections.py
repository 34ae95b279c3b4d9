"""What is measured: each function starts its own servers, stops them, and returns one section of the report."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from bench import measure, nginx, wrk
from bench.load import Load, Record, Target, quantile
from bench.report import Figure, Section, median
from bench.server import COMMAND, Server, encoded, wait_until

MODELS = Path(__file__).with_name("models.py")
REPLICAS = 4
CONNECTIONS = (1, 8, 64)
OVERLOAD = 10
OVERLOAD_DEADLINE_S = 0.5


def of(name: str, unit: str, rounds: list[float], **target: Any) -> Figure:
    """The median of rounds."""
    return Figure(name, median(rounds), unit, rounds=tuple(rounds), **target)


def nonce_body(nonce: int) -> bytes:
    """The input of both models."""
    return encoded({"nonce": nonce})


def drive(work: Coroutine[Any, Any, list[Record]]) -> list[Record]:
    """Run one load on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def front(folder: Path, dice: random.Random, *, rounds: int, seconds: int) -> Section:
    """A model that does nothing, beside nginx with a static body, in turns."""
    section = Section(
        "What a request costs",
        f"A model that does nothing, {REPLICAS} replicas, wrk with one thread, beside nginx ({nginx.PROCESSES} "
        "processes) answering a static body; they take turns.",
    )
    seen: dict[tuple[str, int], list[wrk.Figures]] = {
        (who, c): [] for who in ("nginx", "muleteer") for c in CONNECTIONS
    }
    cpu: dict[tuple[str, int], list[float]] = {(role, c): [] for role in ("gateway", "replica") for c in CONNECTIONS}
    with (
        nginx.Nginx(folder) as other,
        Server(folder, f"{MODELS}:DoNothing", "--route", "/predict", "--replicas", str(REPLICAS)) as server,
    ):
        urls = {"nginx": other.url, "muleteer": f"http://127.0.0.1:{server.port}/predict"}
        pids = {role: server.pids(role) for role in ("gateway", "replica")}
        wrk.run(urls["muleteer"], connections=8, seconds=1)
        for _ in range(rounds):
            for who, connections in dice.sample(sorted(seen), len(seen)):
                before = {role: measure.cpu_s(pids[role]) for role in pids}
                figures = wrk.run(urls[who], connections=connections, seconds=seconds)
                seen[who, connections].append(figures)
                if who == "muleteer":
                    for role, start in before.items():
                        spent = measure.cpu_s(pids[role]) - start
                        cpu[role, connections].append(1e6 * spent / max(1, figures.requests))
        memory = [
            (role, pid, measure.memory(pid))
            for role in ("supervisor", "controller", "gateway", "replica")
            for pid in server.pids(role)
        ]
    for c in CONNECTIONS:
        ours, theirs = seen["muleteer", c], seen["nginx", c]
        p50: dict[str, Any] = {"target": 250.0} if c == 1 else {}
        ratio: dict[str, Any] = {"target": 0.22, "better": "more"} if c == 64 else {}
        plural = "connection" if c == 1 else "connections"
        section.add(
            of(f"{c} {plural}: requests", "/s", [f.rate for f in ours]),
            of(f"{c} {plural}: nginx", "/s", [f.rate for f in theirs]),
            of(f"{c} {plural}: ÷ nginx", "", [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)], **ratio),
            of(f"{c} {plural}: p50", "µs", [f.p50_us for f in ours], **p50),
            of(f"{c} {plural}: p99", "µs", [f.p99_us for f in ours]),
            of(f"{c} {plural}: CPU of the gateway", "µs a request", cpu["gateway", c]),
            of(f"{c} {plural}: CPU of the replicas", "µs a request", cpu["replica", c]),
            of(f"{c} {plural}: answers other than 200", "", [float(f.failed) for f in ours], target=0),
        )
    for role, pid, used in memory:
        index = f" {[p for r, p, _ in memory if r == role].index(pid) + 1}" if role == "replica" else ""
        target: dict[str, Any] = {"target": 30.0} if role == "replica" else {}
        section.add(Figure(f"RSS of {role}{index}", used.rss / 1e6, f"MB (PSS {used.pss / 1e6:.1f})", **target))
    return section


def fancy(folder: Path, *, rounds: int, seconds: float) -> tuple[Section, float]:
    """FancyModel: how much of what the replicas could do is done; and how long callers wait at 80 % of it."""
    section = Section(
        "FancyModel",
        f"5 ms of sleep a call, {REPLICAS} replicas. Ideal = {REPLICAS} / mean of the sleeps, as the model timed them.",
    )
    shares, rates, p50s, p99s, lags = [], [], [], [], []
    with Server(folder, f"{MODELS}:FancyModel", "--route", "/predict", "--replicas", str(REPLICAS)) as server:
        target = Target(server.port, "/predict", nonce_body)
        drive(Load(target).closed_loop(8, 0.5))
        for _ in range(rounds):
            start = time.monotonic()
            records = drive(Load(target).closed_loop(64, seconds))
            good = [r for r in records if r.status == 200]
            rate = len(good) / (max(r.done for r in good) - start)
            slept = [float(r.body.partition(b'"slept_us":')[2].rstrip(b"} ")) for r in good]
            rates.append(rate)
            shares.append(rate * (sum(slept) / len(slept) / 1e6) / REPLICAS)
        for _ in range(rounds):
            records = drive(Load(target).open_loop(0.8 * median(rates) / median(shares), seconds))
            waits = [1e3 * (r.done - r.sent) for r in records if r.status == 200]
            p50s.append(quantile(waits, 0.5))
            p99s.append(quantile(waits, 0.99))
            lags.append(quantile([1e3 * (r.sent - r.due) for r in records], 0.99))
    section.add(
        of("64 connections: answers", "/s", rates),
        of("64 connections: share of the ideal", "", shares, target=0.97, better="more"),
        of("80 % load, open loop: p50", "ms", p50s),
        of("80 % load, open loop: p99", "ms", p99s),
        of("80 % load: p99 of the generator's own delay, not counted above", "ms", lags),
    )
    return section, median(rates)


def overload(folder: Path, capacity: float, *, rounds: int, seconds: float) -> Section:
    """Ten times what can be served."""
    section = Section(
        f"{OVERLOAD}× overload",
        f"FancyModel, {REPLICAS} replicas, open loop at {OVERLOAD} × the rate reached above, deadline "
        f"{OVERLOAD_DEADLINE_S * 1000:.0f} ms; the first second is left out. Latencies count from sending.",
    )
    goodput, late, expired, refused, lag, unsent, memory, cpu = [], [], [], [], [], [], [], []
    headers = f"x-request-timeout-ms: {OVERLOAD_DEADLINE_S * 1000:.0f}\r\n"
    with Server(folder, f"{MODELS}:FancyModel", "--route", "/predict", "--replicas", str(REPLICAS)) as server:
        gateway = server.pids("gateway")[0]
        drive(Load(Target(server.port, "/predict", nonce_body)).closed_loop(8, 1.0))
        target = Target(server.port, "/predict", nonce_body, headers=headers, connections_max=2000)
        for _ in range(rounds):
            before = measure.cpu_s([gateway])
            records = drive(Load(target).open_loop(OVERLOAD * capacity, seconds + 1))
            cpu.append(1e6 * (measure.cpu_s([gateway]) - before) / len(records))
            window = [r for r in records if r.due >= records[0].due + 1]
            good = [r for r in window if r.status == 200 and r.done - r.sent <= OVERLOAD_DEADLINE_S]
            goodput.append(len(good) / (window[-1].due - window[0].due) / capacity)
            late.append(quantile([r.done - r.sent for r in window if r.status == 200], 0.99) / OVERLOAD_DEADLINE_S)
            admitted = [r for r in window if r.status in (200, 504)]
            expired.append(100 * sum(r.status == 504 for r in admitted) / len(admitted))
            refused.append(1e3 * quantile([r.done - r.sent for r in window if r.status == 503], 0.99))
            lag.append(1e3 * quantile([r.sent - r.due for r in window if not r.failure], 0.99))
            unsent.append(100 * sum(r.status == 0 for r in window) / len(window))
            memory.append(measure.memory(gateway).rss / 1e6)
    section.add(
        of("goodput ÷ capacity", "", goodput, target=0.90, better="more"),
        of("p99 of accepted ÷ deadline", "", late, target=1.0),
        of("of the admitted, ended by their deadline (504)", "%", expired),
        of("p99 of refusals", "ms", refused, target=50.0),
        of("requests without an answer", "%", unsent, target=0.0),
        of("p99 of the generator's own delay", "ms", lag),
        of("CPU of the gateway", "µs a request", cpu),
        of("RSS of the gateway", "MB", memory),
    )
    return section


def starting(folder: Path, *, rounds: int) -> Section:
    """From nothing to the first answer, and from a dead replica to one that answers."""
    section = Section(
        "Starting", "One replica. A replica's start counts from the SIGKILL of its predecessor to the first answer."
    )
    firsts, replicas, stops = [], [], []
    for _ in range(rounds):
        port = nginx.free_port()
        server = Server(folder, f"{MODELS}:FancyModel", "--route", "/predict", port=port)
        begun = time.monotonic()
        command = [str(COMMAND), *server.serve_arguments(), "--run-dir", str(server.run_dir), "--detach"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            first_answer(port)
            firsts.append(time.monotonic() - begun)
            server.find()
            process.wait(30)
            begun = time.monotonic()
            server.stop()
            stops.append(time.monotonic() - begun)
        finally:
            process.kill()
            process.wait()
            server.close()
    with Server(folder, f"{MODELS}:DoNothing", "--route", "/predict") as server:
        for _ in range(max(5, rounds)):
            (pid,) = server.pids("replica")
            server.kill(pid)
            begun = time.monotonic()
            wait_until(lambda old=pid: old not in measure.processes(), "the killed one is gone")
            first_answer(server.port)
            replicas.append(1e3 * (time.monotonic() - begun))
            wait_until(lambda: len(server.pids("replica")) == 1, "one replica")
    section.add(
        of("FancyModel: muleteer serve → first answer", "s", firsts, target=1.5),
        of("a replica without load time: start → answer", "ms", replicas, target=250.0),
        of("muleteer stop, idle", "s", stops),
    )
    return section


def first_answer(port: int, seconds: float = 20.0) -> None:
    """Send one request after another, 4 ms apart, until one is answered with 200."""

    async def ask() -> None:
        async with asyncio.timeout(seconds):
            while True:
                records = await Load(Target(port, "/predict", nonce_body, timeout_s=5, connections_max=1)).closed_loop(
                    1, 0
                )
                if records[0].status == 200:
                    return
                await asyncio.sleep(0.004)

    asyncio.run(ask())
