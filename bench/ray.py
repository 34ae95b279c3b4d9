"""The same replicas on a Ray cluster of two nodes, beside Ray Serve and our local engine; then what is lost there.

Everything runs on this one machine, so the nodes share its cores.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import nginx, wrk
from bench.load import Load, Record, Target
from bench.report import Figure, Section
from bench.sections import MODELS, REPLICAS, drive, nonce_body, of
from bench.server import Server, wait_until
from tests.ray.cluster import RayCluster

SERVE = Path(__file__).with_name("serve_program.py")
CAPACITY = REPLICAS / 0.005
"""Requests/s of FancyModel."""
KILLS = 5
CONNECTIONS_MAX = 6000
"""Callers who wait for replicas to come back hold one each."""


class RayServer(Server):
    """`muleteer serve --engine ray`; its replicas are found by what status tells."""

    def __init__(self, folder: Path, cluster: RayCluster) -> None:
        folder.mkdir()
        shutil.copy(MODELS, folder / "models.py")
        super().__init__(
            folder,
            "models.py:DoNothing",
            "models.py:FancyModel",
            *("--route", "/predict", "--route", "/fancy", "--replicas", str(REPLICAS), "--cpus", "0.5"),
            *("--engine", "ray", "--ray-address", cluster.address),
        )
        self._env = cluster.environment | {"XDG_STATE_HOME": str(folder / "state")}

    def rows(self) -> list[dict[str, Any]]:
        """Of all replicas."""
        return [row for backend in self.status()["backends"] for row in backend["replicas"]]

    def full(self, without: str = "") -> bool:
        """Whether every replica is ready, none of them on node `without`."""
        try:
            rows = self.rows()
        except (OSError, ValueError):
            return False
        states = {row["state"] for row in rows}
        return len(rows) == 2 * REPLICAS and states == {"ready"} and without not in {row["node"] for row in rows}


def section(folder: Path, dice: random.Random, *, rounds: int, seconds: int) -> Section:
    """Starts the cluster and all three servers, and leaves nothing behind."""
    found = Section(
        "On a Ray cluster",
        f"Two nodes on this machine, {REPLICAS} replicas; a model that does nothing, three servers in turns: muleteer "
        "with engine ray, Ray Serve as it comes (up to 100 requests at a replica), muleteer with its local engine. "
        f"Faults: FancyModel with engine ray at half of its capacity of {CAPACITY:.0f} requests/s, deadline 30 s; at a "
        "quarter where half of that capacity is lost.",
    )
    cluster = RayCluster()
    try:
        cluster.start()
        with RayServer(folder / "cluster", cluster) as ours:
            wait_until(ours.full, "all replicas on the cluster", seconds=90)
            found.add(*_beside(folder, cluster, ours, dice, rounds=rounds, seconds=seconds))
            found.add(*_actors(ours, dice), *_node(ours, cluster), *_head(ours, cluster))
    finally:
        cluster.stop()
    return found


def _beside(
    folder: Path, cluster: RayCluster, ours: Server, dice: random.Random, *, rounds: int, seconds: int
) -> list[Figure]:
    port = nginx.free_port()
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address, "PORT": str(port)}
    _program(environment)
    seen: dict[tuple[str, int], list[wrk.Figures]] = {}
    try:
        with Server(folder, f"{MODELS}:DoNothing", "--route", "/predict", "--replicas", str(REPLICAS)) as local:
            urls = {who: f"http://127.0.0.1:{at}/predict" for who, at in _ports(ours, port, local).items()}
            cells = [(who, connections) for who in urls for connections in (1, 64)]
            for url in urls.values():
                wrk.run(url, connections=8, seconds=1)
            for _ in range(rounds):
                for who, connections in dice.sample(cells, len(cells)):
                    figures = wrk.run(urls[who], connections=connections, seconds=seconds)
                    seen.setdefault((who, connections), []).append(figures)
    finally:
        _program(environment, "stop")
    rates = {who: [each.rate for each in seen[who, 64]] for who in urls}
    p50s = {who: [each.p50_us for each in seen[who, 1]] for who in urls}
    failed = [float(each.failed) for (who, _), runs in seen.items() if who == "ray" for each in runs]

    def ratio(values: dict[str, list[float]], other: str) -> list[float]:
        return [a / b for a, b in zip(values["ray"], values[other], strict=True)]

    return [
        of("64 connections: muleteer, engine ray", "/s", rates["ray"]),
        of("64 connections: Ray Serve", "/s", rates["serve"]),
        of("64 connections: muleteer, local engine", "/s", rates["local"]),
        of("64 connections: ÷ Ray Serve", "", ratio(rates, "serve"), target=50.0, better="more"),
        of("64 connections: ÷ local engine", "", ratio(rates, "local"), target=0.8, better="more"),
        of("1 connection: p50, engine ray", "µs", p50s["ray"]),
        of("1 connection: p50, Ray Serve", "µs", p50s["serve"]),
        of("1 connection: p50, local engine", "µs", p50s["local"]),
        of("1 connection: p50 ÷ Ray Serve", "", ratio(p50s, "serve"), target=0.1),
        of("answers other than 200, engine ray", "", failed, target=0),
    ]


def _ports(ours: Server, serve: int, local: Server) -> dict[str, int]:
    return {"ray": ours.port, "serve": serve, "local": local.port}


def _program(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(SERVE), *arguments],  # or its folder would hide ray itself
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Ray Serve: {done.stdout}{done.stderr}")


def _actors(ours: RayServer, dice: random.Random) -> list[Figure]:
    """One after the other, actor and model with it, a second apart."""
    killed: list[list[int]] = []

    def kill() -> None:
        for _ in range(KILLS):
            time.sleep(1.0)
            pids = [row["pid"] for row in ours.rows() if row["id"].startswith("Fancy") and row["state"] == "ready"]
            living = [actor for actor in map(_actor, pids) if actor]
            if living:  # else all are coming back
                ours.kill(dice.choice(living))
                killed.append(living)

    records = _under_load(ours, CAPACITY / 2, KILLS + 2.0, kill)
    wait_until(ours.full, "all are back", seconds=60)
    return _counted(f"{len(killed)} actors killed, one a second", records)


def _node(ours: RayServer, cluster: RayCluster) -> list[Figure]:
    restored_s: list[float] = []
    lost = sum(row["node"] == cluster.second for row in ours.rows())

    def kill() -> None:
        time.sleep(1.0)
        os.kill(cluster.raylet(cluster.second), signal.SIGKILL)
        begun = time.monotonic()
        wait_until(lambda: ours.full(without=cluster.second), "all on the node that is left", seconds=60)
        restored_s.append(time.monotonic() - begun)

    records = _under_load(ours, CAPACITY / 4, 12.0, kill)
    return [
        *_counted("one of two nodes lost", records),
        of(f"one of two nodes lost: until all {lost} replicas of it are ready elsewhere", "s", restored_s),
    ]


def _head(ours: RayServer, cluster: RayCluster) -> list[Figure]:
    def kill() -> None:
        time.sleep(1.0)
        os.kill(cluster.gcs(), signal.SIGKILL)

    return _counted("head lost", _under_load(ours, CAPACITY / 4, 6.0, kill))


def _under_load(ours: Server, rate: float, seconds: float, fault: Callable[[], None]) -> list[Record]:
    target = Target(ours.port, "/fancy", nonce_body, connections_max=CONNECTIONS_MAX)
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            fault()
        except BaseException as error:  # noqa: BLE001  told by the thread that waits
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    records = drive(Load(target).open_loop(rate, seconds))
    thread.join()
    if failures:
        raise failures[0]
    return records


def _counted(what: str, records: list[Record]) -> list[Figure]:
    outcomes = Counter(str(record.status or record.failure) for record in records)
    failed = sum(count for outcome, count in outcomes.items() if outcome != "200")
    said = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(outcomes.items()))
    longest = max((record.done - record.sent for record in records if record.status == 200), default=math.nan)
    return [
        Figure(f"{what}: failed requests ({said})", float(failed), "", target=0.0),
        Figure(f"{what}: the longest that was answered", longest, "s"),
    ]


def _actor(pid: int) -> int:
    """The actor that keeps the model process `pid`: parent of its host; 0 if that has just died."""
    try:
        return _parent(_parent(pid))
    except FileNotFoundError:
        return 0


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
