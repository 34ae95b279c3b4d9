"""Thousands of backends: what a change and a step cost."""

from __future__ import annotations

import time
from typing import Any

from tests.control.rig import asynchronous, running

BACKENDS = 1000


def file(count: int) -> dict[str, Any]:
    return {
        "backends": {f"b{number}": {"model": "m.py:M", "replicas": 0} for number in range(count)},
        "endpoints": {f"e{number}": {"route": f"/e/{number}", "backend": f"b{number}"} for number in range(count)},
    }


@asynchronous
async def test_a_thousand_backends_are_applied_in_two_seconds_and_a_change_of_one_costs_little() -> None:
    """The promise is 2 s; the limits here are of CPU time, and leave room for a slow machine."""
    async with running() as rig:
        await rig.done("GET", "/v1/health")  # the server is imported
        used = time.process_time()
        await rig.done("POST", "/v1/apply", {"declared": file(BACKENDS), "base_dir": rig.run_dir})
        await rig.until(lambda: rig.controller.statistics().settled)
        took_s = time.process_time() - used
        assert took_s < 6, "the promise is 2"
        assert len(rig.gateway.snapshots[-1]["backends"]) == BACKENDS

        used = time.process_time()
        await rig.done("PATCH", "/v1/backends/b500", {"replicas": 1})
        await rig.until(lambda: "b500-1" in rig.world.replicas)
        assert time.process_time() - used < 2

        await rig.settled()
        steps, used = rig.controller.statistics().steps, time.process_time()
        for _ in range(100):
            rig.controller.step()
        assert (time.process_time() - used) / 100 < 0.01, "a step with nothing to do costs next to nothing"
        assert rig.controller.statistics().steps >= steps + 100
        print(f"apply and settle {took_s:.2f} s")
