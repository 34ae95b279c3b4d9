"""Replicas that never rest, on one core: each backend has its weighted share of it, however many replicas it has."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from muleteer.control.proc import cpu
from muleteer.engine.port import ReplicaRequest, ReplicaStatus
from muleteer.engine.threads import nice
from muleteer.spec.settings import BackendSettings
from tests.engine.supervised import run_directory, supervised
from tests.engine.test_local_supervised import RELAY, RelayedEngine
from tests.replica.processes import Link
from tests.waiting import until

BURNS = """
import time
class Model:
    def predict(self, seconds: float):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
"""
WINDOW_S = 1.3
"""Of CPU time, all of them together: they may have little of the core beside what else runs on it."""


def requests(run_dir: Path, backend: str, replicas: int, weight: float) -> list[ReplicaRequest]:
    settings = BackendSettings(replicas=replicas, weight=weight)
    return [
        ReplicaRequest(
            id=f"{backend}-{n}",
            backend=backend,
            generation=1,
            target="burns.py:Model",
            base_dir=str(run_dir),
            settings=settings,
        )
        for n in range(replicas)
    ]


async def shares(run_dir: Path, backends: dict[str, tuple[int, float]]) -> dict[str, float]:
    """BACKEND → its part of the CPU time that all of them used while all were busy."""
    (run_dir / "burns.py").write_text(BURNS)
    engine = RelayedEngine(run_dir)
    await engine.open()
    asked = [each for name, (count, weight) in backends.items() for each in requests(run_dir, name, count, weight)]
    for each in asked:
        engine.start(each)
    ready: dict[str, ReplicaStatus] = {}
    async with asyncio.timeout(40):
        async for status in engine.changes():
            if status.state == "ready":
                ready[status.id] = status
            if len(ready) == len(asked):
                break
    links = [Link(status.address.removeprefix("unix:")) for status in ready.values()]
    for link in links:
        link.greet()
    for link in links:
        link.call({"seconds": 90.0})
    pids = {id: status.pid for id, status in ready.items()}
    levels = {each.id: nice(each.settings) for each in asked}
    idle = used_by(pids)
    until(lambda: all(has_its_level(pids[id], level) for id, level in levels.items()), "each session has its level")
    until(lambda: min(since(idle, pids).values()) > 0.01, "each is at work")
    before = used_by(pids)
    until(lambda: sum(since(before, pids).values()) > WINDOW_S, "enough time to share")  # the measurement itself
    used = since(before, pids)
    for link in links:
        link.close()
    engine.close()
    return {
        name: sum(used[id] for id, status in ready.items() if status.backend == name) / sum(used.values())
        for name in backends
    }


def used_by(pids: dict[str, int]) -> dict[str, float]:
    return {id: cpu((pid,))[0] for id, pid in pids.items()}


def since(before: dict[str, float], pids: dict[str, int]) -> dict[str, float]:
    return {id: used - before[id] for id, used in used_by(pids).items()}


def has_its_level(pid: int, level: int) -> bool:
    """Whether its session, which gave way while it started, no longer does."""
    session = Path(f"/proc/{pid}/autogroup")
    return not session.exists() or session.read_text().endswith(f" nice {level}\n")


@pytest.mark.parametrize(
    "backends",
    [
        {"many": (3, 1.0), "one": (1, 1.0)},
        {"light": (1, 1.0), "heavy": (1, 3.0)},
        {"many": (2, 1.0), "heavy": (1, 2.0)},
    ],
    ids=["three replicas beside one", "weight 3 beside 1", "two replicas of weight 1 beside one of weight 2"],
)
def test_each_backend_has_its_weighted_share(backends) -> None:
    ours = os.sched_getaffinity(0)
    with run_directory() as run_dir:
        os.sched_setaffinity(0, {min(ours)})  # inherited by what starts now
        try:
            with supervised(run_dir, str(RELAY), str(run_dir / "relay.sock")) as process:
                os.sched_setaffinity(0, ours)
                found = asyncio.run(shares(run_dir, backends))
                process.kill()  # they are busy for a while yet; nothing outlives the supervisor
        finally:
            os.sched_setaffinity(0, ours)
    total = sum(weight for _, weight in backends.values())
    for name, (_, weight) in backends.items():
        assert found[name] > 0.8 * weight / total, found
