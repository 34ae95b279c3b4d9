"""A cluster with Ray's token authentication: served with its token, and without it told why not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from muleteer.engine.ray.engine import RayEngine
from tests.ray.cluster import BridgeProcess, RayCluster
from tests.ray.test_states import KEY, request, watched

TOKEN = "muleteer" * 5


@pytest.fixture(scope="module")
def guarded():
    cluster = RayCluster(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    try:
        cluster.start(cpus=4, nodes=1)
        yield cluster
    finally:
        cluster.stop()


def test_a_replica_is_served_with_the_token(guarded, tmp_path):
    bridge = BridgeProcess(guarded, tmp_path)

    async def test():
        async with watched(bridge) as watch:
            watch.start(request(tmp_path, "let_in-1", cpus=0.1))
            await watch.until(lambda now: now["let_in-1"].state == "ready")

    try:
        asyncio.run(test())
    finally:
        bridge.close()


def test_a_wrong_token_is_a_problem_that_names_it(guarded, tmp_path):
    wrong = guarded.environment | {"RAY_AUTH_TOKEN": TOKEN[::-1]}
    bridge = BridgeProcess(SimpleNamespace(address=guarded.address, environment=wrong), tmp_path)
    problems = []

    async def test():
        told = asyncio.Event()

        def report(text):
            problems.append(text)
            if "cannot join" in text and "RAY_AUTH_TOKEN" in text:
                told.set()

        engine = RayEngine(bridge.path, KEY, report)
        opening = asyncio.create_task(engine.open())
        await asyncio.wait_for(told.wait(), 120)
        opening.cancel()
        engine.close()

    try:
        asyncio.run(test())
    finally:
        bridge.kill()
        bridge.close()
    assert TOKEN[::-1] not in "".join(problems)
