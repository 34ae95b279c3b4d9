"""Through `ray://`, as from a machine that is no node of the cluster: the same states, and found again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from tests.ray.cluster import BridgeProcess
from tests.ray.test_states import request, watched

JOINED_S = 200.0
"""Ray's own server for a client sometimes does not come up within its 30 s: then it is joined once more."""


def test_what_has_no_place_is_told_and_what_has_one_is_adopted(cluster, tmp_path):
    through = SimpleNamespace(address=cluster.client_address, environment=cluster.environment)
    bridge = BridgeProcess(through, tmp_path)

    async def test():
        async with watched(bridge) as watch:
            watch.start(request(tmp_path, "near-1", cpus=5.0))
            await watch.until(lambda now: now["near-1"].state == "ready", JOINED_S)
            assert watch.engine.capacity().cpus == 16.0
            for number in (2, 3):
                watch.start(request(tmp_path, f"near-{number}", cpus=5.0))
            await watch.until(lambda now: [s.state for s in now.values()].count("backoff") == 1)
            (waiting,) = [status for status in watch.now.values() if status.state == "backoff"]
            assert waiting.last_exit.message.startswith("waits for a node with 5 CPUs free; the most that is free on")
            before = watch.now["near-1"]
            await asyncio.to_thread(bridge.kill)
            watch.engine.stop(waiting.id)
            bridge.start()
            await watch.until(lambda now: now[waiting.id].state == "gone", JOINED_S)
            after = watch.now["near-1"]
            assert (after.pid, after.address, after.restarts) == (before.pid, before.address, before.restarts)

    try:
        asyncio.run(test())
    finally:
        bridge.close()
