"""The controller and backends that may sleep, on a fake engine and a gateway's control socket: who is woken, who is not,
what the gateways are told, and what a new controller makes of what it finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from muleteer.control.scaling import HOLD_S_MIN
from muleteer.engine.port import Capacity
from muleteer.testing.engine import FakeEngine
from tests.control.rig import Rig, asynchronous, running

SLEEPER = {"model": "m.py:M", "replicas": {"min": 0, "max": 3}, "idle": 1.0}


async def declared(rig: Rig, **backends: dict[str, Any]) -> None:
    """These, each behind an endpoint of its own."""
    endpoints = {name: {"route": f"/{name}", "backend": name} for name in backends}
    await rig.done(
        "POST", "/v1/apply", {"declared": {"backends": backends, "endpoints": endpoints}, "base_dir": rig.run_dir}
    )
    await rig.until(lambda: rig.gateway.snapshots and len(rig.gateway.snapshots[-1]["backends"]) == len(backends))


def route(rig: Rig, name: str = "m") -> dict[str, Any]:
    (found,) = [row for row in rig.gateway.snapshots[-1]["backends"] if row["name"] == name]
    return found


def states(rig: Rig) -> dict[str, str]:
    return {id: replica.state for id, replica in rig.world.replicas.items()}


@asynccontextmanager
async def calling(rig: Rig, name: str) -> AsyncIterator[None]:
    """Calls come for it, and wait while it has no replica."""

    async def repeat() -> None:
        while True:
            rig.gateway.demand(name)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()


async def backend(rig: Rig, name: str = "m") -> dict[str, Any]:
    (found,) = [row for row in (await rig.status())["backends"] if row["name"] == name]
    return found


@asynchronous
async def test_nothing_runs_until_a_call_comes_and_nothing_again_after_the_last() -> None:
    async with running() as rig:
        await declared(rig, m=SLEEPER)
        await rig.until(lambda: rig.controller.statistics().settled)
        found = await backend(rig)
        assert (found["state"], found["wanted"], found["bounds"]) == ("asleep", 0, {"min": 0, "max": 3})
        assert states(rig) == {}
        assert (route(rig)["unavailable"], route(rig)["replicas"], route(rig)["start_s"]) == ("asleep", [], None)

        rig.world.load_s = None
        rig.gateway.demand("m")
        await rig.until(lambda: states(rig) == {"m-1": "starting"})
        rig.gateway.demand("m")
        await rig.until(lambda: rig.gateway.replicas("m") == ["m-1"])
        assert route(rig)["unavailable"] == "asleep", "calls wait for it"
        assert (await backend(rig))["state"] == "loading"
        rig.world.finish_loading("m-1")
        await rig.until(lambda: route(rig)["start_s"] is not None)
        await rig.until(lambda: states(rig) == {} and rig.controller.statistics().settled)
        assert (await backend(rig))["state"] == "asleep"
        assert route(rig)["start_s"] is not None, "measured, and told while it sleeps"


@asynchronous
async def test_a_wake_up_that_fails_is_told_and_tried_again_by_a_later_call() -> None:
    async with running() as rig:
        rig.world.failing["m.py:M"] = "ImportError: no module named x"
        await declared(rig, m=SLEEPER)
        with rig.clock.held():  # nor is its idle time over
            rig.gateway.demand("m")
            await rig.until(lambda: route(rig)["unavailable"] == "crash_loop")
            found = await backend(rig)
            assert (found["state"], found["reason"]) == ("failed", "ImportError: no module named x")
        await rig.until(lambda: states(rig) == {})
        await rig.until(lambda: route(rig)["unavailable"] == "asleep")  # whoever comes later tries again
        rig.world.failing.clear()
        rig.gateway.demand("m")
        await rig.until(lambda: states(rig) == {"m-2": "ready"})


@asynchronous
async def test_an_update_of_a_sleeper_starts_nothing_and_the_next_call_gets_the_new_one() -> None:
    async with running() as rig:
        await declared(rig, m=SLEEPER)
        await rig.done("PATCH", "/v1/backends/m", {"concurrency": 2})
        await rig.until(lambda: rig.controller.statistics().settled)
        assert states(rig) == {}
        rig.gateway.demand("m")
        await rig.until(lambda: states(rig) == {"m-1": "ready"})
        assert rig.world.requests["m-1"].settings.concurrency == 2


@asynchronous
async def test_a_rollout_wakes_the_new_version_and_keeps_it_awake() -> None:
    async with running() as rig:
        await declared(rig, m={"model": "m.py:M"}, n=SLEEPER)
        await rig.until(lambda: states(rig) == {"m-1": "ready"})
        await rig.done("POST", "/v1/endpoints/m/rollout", {"to": "n", "steps": [50, 100], "interval_s": 30})
        await rig.until(lambda: states(rig) == {"m-1": "ready", "n-1": "ready"})
        await asyncio.sleep(1.5)  # beyond its idle time
        assert "n-1" in states(rig)
        await rig.done("POST", "/v1/endpoints/m/rollout/abort", {})
        await rig.until(lambda: states(rig) == {"m-1": "ready"})


@asynchronous
async def test_a_killed_controller_leaves_the_number_as_it_was_and_knows_how_long_starts_take() -> None:
    async with running() as rig:
        (rig.dir / "other.py").write_text((rig.dir / "m.py").read_text())
        other = {**SLEEPER, "model": "other.py:M"}  # or each start of one would tell of the other's, too
        await declared(rig, m={"model": "m.py:M", "replicas": {"min": 1, "max": 3}, "slo": {"p99": 0.1}}, n=other)
        rig.gateway.demand("n")
        await rig.until(lambda: states(rig) == {"m-1": "ready", "n-1": "ready"})
        await rig.until(lambda: route(rig, "n")["start_s"] is not None)
        ticks = 0
        async with asyncio.timeout(40.0):
            while states(rig).get("m-3") != "ready":
                ticks += 1
                rig.gateway.loads = {"m": called(50, ticks)}
                await asyncio.sleep(0.5)  # a tick
        kept = {id: row.pid for id, row in rig.world.replicas.items() if row.backend == "m"}
        assert len(kept) == 3, "no more were declared, whatever the last load says"
        told_s = route(rig, "n")["start_s"]

        await rig.close()
        await rig.open()
        assert rig.controller.statistics().backends[0].wanted == len(kept)
        await rig.until(lambda: rig.controller.statistics().steps > 8)
        assert {id: row.pid for id, row in rig.world.replicas.items() if row.backend == "m"} == kept
        known_s = route(rig, "n")["start_s"]
        assert known_s is not None
        assert known_s == told_s or states(rig).get("n-1") != "ready", "it has started again since"


class _SmallEngine(FakeEngine):
    """Memory for two replicas of 100 MB."""

    def capacity(self) -> Capacity:
        return Capacity(cpus=4.0, memory_bytes=250_000_000)


@asynchronous
async def test_what_has_no_room_is_not_started_and_what_nobody_uses_gives_way() -> None:
    async with running(engine=_SmallEngine) as rig:
        sized = {"memory": 100_000_000}
        await declared(
            rig, a={**SLEEPER, **sized, "idle": 60.0}, b={"model": "m.py:M", **sized}, c={**SLEEPER, **sized}
        )
        rig.gateway.demand("a")
        await rig.until(lambda: states(rig) == {"a-1": "ready", "b-1": "ready"})
        async with calling(rig, "c"):
            await rig.until(lambda: states(rig) == {"b-1": "ready", "c-1": "ready"})
        await rig.until(lambda: route(rig, "a")["unavailable"] == "asleep")

        await rig.done("PATCH", "/v1/backends/b", {"replicas": 2})
        await rig.until(lambda: states(rig) == {"b-1": "ready", "b-2": "ready"})
        async with calling(rig, "c"):
            await rig.until(lambda: route(rig, "c")["unavailable"] == "memory")
        await rig.done("PATCH", "/v1/backends/b", {"replicas": 3})
        await rig.until(lambda: rig.controller.statistics().backends[1].limited)
        found = await backend(rig, "b")
        assert (found["state"], found["wanted"]) == ("degraded", 3)
        assert "one more takes" in found["reason"]
        assert len(states(rig)) == 2


@asynchronous
async def test_an_update_without_room_for_two_lets_the_old_one_go_first() -> None:
    async with running(engine=_SmallEngine) as rig:
        await declared(rig, b={"model": "m.py:M", "memory": 150_000_000})
        await rig.until(lambda: states(rig) == {"b-1": "ready"})
        await rig.done("PATCH", "/v1/backends/b", {"concurrency": 2})
        await rig.until(lambda: states(rig) == {"b-2": "ready"})


def test_a_gateway_says_what_the_controller_reads() -> None:
    """Both ends of the message in one place: a field renamed on one side only is found here."""
    from muleteer.control.measure import Load as Read
    from muleteer.gateway.load import Load as Told

    told, read = ({field.name for field in msgspec.structs.fields(each)} for each in (Told, Read))
    assert read <= told


def called(rate: float, tick: int, **more: Any) -> dict[str, Any]:
    """What a gateway tells of a backend that gets so many calls/s of 50 ms, at its n-th answer."""
    count = int(rate * 0.5 * tick)
    return {
        "arrivals": count,
        "open_calls": 1,
        "slots": 1,
        "served": 1000 + count,
        "services": [[0.05, 1000]],
        **more,
    }


@asynchronous
async def test_an_update_starts_with_the_number_that_runs_and_a_target_out_of_reach_is_said() -> None:
    async with running() as rig:
        await declared(rig, m={"model": "m.py:M", "slo": {"p99": 0.04}, "replicas": {"min": 1, "max": 4}})
        ticks = 0

        async def until(holds: Callable[[], Any]) -> None:
            nonlocal ticks
            async with asyncio.timeout(40.0):
                while not holds():
                    ticks += 1
                    rig.gateway.loads = {"m": called(50, ticks)}
                    await asyncio.sleep(0.5)  # a tick

        await until(lambda: list(states(rig).values()).count("ready") >= 3)
        await until(lambda: "slo of m" in rig.problems())
        assert "p99 40ms is out of reach with any number of replicas" in rig.problems()["slo of m"]
        before, began = set(states(rig)), rig.clock.now()
        await rig.done("PATCH", "/v1/backends/m", {"concurrency": 2})
        await until(lambda: not before & set(states(rig)))
        # fewer are enough with two calls at a time; later than this a late machine has rightly given one up
        least = len(before) if rig.clock.now() - began < HOLD_S_MIN else 1
        assert list(states(rig).values()).count("ready") >= least, "replaced one by one, none missing"
        assert {rig.world.requests[id].settings.concurrency for id in states(rig)} == {2}
