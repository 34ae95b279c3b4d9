"""Rollouts as they are run: counts of a gateway in, traffic and revisions out, over kills of controller and gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muleteer.control.windows import read, window_of_version
from muleteer.telemetry.histogram import Histogram
from muleteer.telemetry.versions import EndpointStatistics, ShadowStatistics, VersionStatistics
from tests.control.rig import Rig, asynchronous, running

QUICK = {"to": "lr:v2", "steps": [10, 50, 100], "interval_s": 0.001, "min_requests": 100}


class Traffic:
    """What the gateway counts, as if requests came in."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.restart()

    def restart(self) -> None:
        """Another life of the gateway: its counts begin again."""
        self.epoch = str(id(self)) + str(getattr(self, "epoch", ""))
        self.outcomes: dict[str, dict[str, int]] = {"lr:v1": {}, "lr:v2": {}}
        self.latency = {"lr:v1": Histogram(), "lr:v2": Histogram()}
        self.copies = ShadowStatistics()
        self.tell()

    def send(
        self, version: str, count: int, *, errors: int = 0, seconds: float = 0.01, code: str = "model_error"
    ) -> None:
        counts = self.outcomes[version]
        counts["ok"] = counts.get("ok", 0) + count - errors
        counts[code] = counts.get(code, 0) + errors
        for number in range(count - errors):
            self.latency[version].record(seconds * (1 + number % 100 / 1000))
        self.tell()

    def both(self, count: int = 400, **new: Any) -> None:
        self.send("lr:v1", count)
        self.send("lr:v2", count, **new)

    def tell(self) -> None:
        versions = {
            name: VersionStatistics(self.outcomes[name], self.latency[name].statistics()) for name in self.outcomes
        }
        endpoint = EndpointStatistics(versions, {"lr:v2": self.copies})
        self.rig.gateway.statistics = msgspec.to_builtins(
            {"epoch": self.epoch, "endpoints": {"e": endpoint}}, str_keys=True
        )


@asynccontextmanager
async def rolling(**policy: Any) -> AsyncIterator[tuple[Rig, Traffic]]:
    async with running() as rig:
        for name in ("lr:v1", "lr:v2"):
            await rig.done("PUT", f"/v1/backends/{name}", {"model": "m.py:M", "base_dir": rig.run_dir})
        await rig.done("PUT", "/v1/endpoints/e", {"route": "/e", "backend": "lr:v1"})
        await rig.settled()
        traffic = Traffic(rig)
        await rig.done("POST", "/v1/endpoints/e/rollout", {**QUICK, **policy})
        yield rig, traffic


def weights(rig: Rig) -> dict[str, float]:
    return rig.declaration.declared.endpoints[0].traffic


async def view(rig: Rig) -> dict[str, Any]:
    return await rig.done("GET", "/v1/endpoints/e/rollout")


@asynchronous
async def test_a_version_as_good_gets_all_the_traffic_step_by_step() -> None:
    async with rolling() as (rig, traffic):
        found = await view(rig)
        assert (found["phase"], found["share"], found["step"]) == ("pending", 0, 0)
        shares = []
        for _ in range(10):
            await rig.rolling.tick()
            shares.append(weights(rig).get("lr:v2", 0))
            traffic.both()
        assert shares == [10, 50, 100, 100, 100, 100, 100, 100, 100, 100]
        found = await view(rig)
        assert (found["phase"], found["ended"], found["share"]) == ("completed", True, 100)
        assert weights(rig) == {"lr:v1": 0, "lr:v2": 100}
        await rig.settled()
        assert rig.gateway.snapshots[-1]["endpoints"][0]["traffic"] == {"lr:v1": 0, "lr:v2": 100}
        history = (await rig.done("GET", "/v1/history?limit=3"))["history"]
        assert {row["who"] for row in history} == {"rollout"}
        assert all(row["what"].startswith("rollout of e to lr:v2: ") for row in history)
        assert [row["phase"] for row in (await rig.done("GET", "/v1/rollouts"))["rollouts"]] == ["completed"]
        assert len([line for line in rig.notices if line.startswith("rollout of e")]) == 3


@pytest.mark.parametrize(
    "harm",
    [
        {"errors": 20},
        {"errors": 20, "code": "deadline"},
        {"errors": 20, "code": "bad_arguments"},
        {"seconds": 0.02},
    ],
    ids=str,
)
@asynchronous
async def test_a_version_that_does_harm_is_rolled_back_at_once(harm: dict[str, Any]) -> None:
    async with rolling(interval_s=3600) as (rig, traffic):
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10
        traffic.both(**harm)
        await rig.rolling.tick()
        assert weights(rig) == {"lr:v1": 1}
        found = await view(rig)
        assert found["phase"] == "rolled_back"
        assert found["windows"]["lr:v2"]["requests"] == 400
        again = await rig.done("POST", "/v1/endpoints/e/rollout", QUICK)
        assert again["rollout"]["phase"] == "pending"


@asynchronous
async def test_what_the_clients_do_wrong_harms_nobody() -> None:
    async with rolling(interval_s=3600) as (rig, traffic):
        await rig.rolling.tick()
        traffic.both(errors=200, code="client_gone")
        traffic.both(errors=200, code="bad_json")
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10
        assert (await view(rig))["windows"]["lr:v2"]["requests"] == 600  # those that went away say nothing


@asynchronous
async def test_it_waits_for_the_new_version_and_gives_up_on_one_that_never_comes() -> None:
    async with rolling() as (rig, traffic):
        rig.able = lambda _name: False
        traffic.both()
        for _ in range(3):
            await rig.rolling.tick()
        assert (await view(rig))["reason"] == "waiting for lr:v2 to be ready"
        rig.able = lambda name: f"{name} does not start: SyntaxError"
        await rig.rolling.tick()
        found = await view(rig)
        assert (found["phase"], found["reason"]) == ("rolled_back", "lr:v2 does not start: SyntaxError")
        assert weights(rig) == {"lr:v1": 1}


@asynchronous
async def test_pause_holds_resume_goes_on_abort_goes_back() -> None:
    async with rolling() as (rig, traffic):
        await rig.rolling.tick()
        paused = await rig.done("POST", "/v1/endpoints/e/rollout/pause")
        assert (paused["rollout"]["phase"], paused["undo"]) == ("paused", "muleteer rollout resume e")
        for _ in range(3):
            traffic.both()
            await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10
        await rig.done("POST", "/v1/endpoints/e/rollout/resume")
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10, "the step begins anew"
        traffic.both()
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 50
        await rig.done("POST", "/v1/endpoints/e/rollout/abort")
        assert weights(rig) == {"lr:v1": 1}
        for verb in ("pause", "resume", "abort"):
            assert (await rig.ask("POST", f"/v1/endpoints/e/rollout/{verb}")).status == 400


@asynchronous
async def test_nobody_else_moves_this_traffic_meanwhile() -> None:
    async with rolling() as (rig, traffic):
        await rig.rolling.tick()
        file = (await rig.done("GET", "/v1/declared"))["declared"]
        await rig.done("POST", "/v1/apply", {"declared": file, "base_dir": "/"})
        file["endpoints"]["e"] = {"route": "/e", "backend": "lr:v1"}
        attempts: list[tuple[str, str, Any]] = [
            ("PUT", "/v1/endpoints/e/traffic", {"lr:v1": 1}),
            ("DELETE", "/v1/endpoints/e", None),
            ("POST", "/v1/apply", {"declared": file, "base_dir": "/"}),
            ("POST", "/v1/rollback", {}),
            ("POST", "/v1/endpoints/e/rollout", QUICK),
        ]
        for method, path, body in attempts:
            answer = await rig.ask(method, path, body)
            assert (answer.status, answer.body["code"]) == (409, "rollout_active"), (path, answer)
        await rig.done("PATCH", "/v1/endpoints/e", {"timeout": "1s"})
        await rig.done("PATCH", "/v1/backends/lr:v2", {"replicas": 2})
        traffic.both()
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 50
        assert rig.declaration.declared.endpoints[0].timeout == 1
        await rig.done("POST", "/v1/endpoints/e/rollout/abort")
        await rig.done("DELETE", "/v1/endpoints/e")
        assert (await rig.done("GET", "/v1/rollouts"))["rollouts"] == []


@asynchronous
async def test_shadow_first_copies_then_steps_and_restores_the_shadow_there_was() -> None:
    async with running() as rig:
        for name in ("lr:v1", "lr:v2", "old"):
            await rig.done("PUT", f"/v1/backends/{name}", {"model": "m.py:M", "base_dir": rig.run_dir})
        shadow = {"backend": "old", "percent": 1}
        await rig.done("PUT", "/v1/endpoints/e", {"route": "/e", "backend": "lr:v1", "shadow": shadow})
        await rig.settled()
        traffic = Traffic(rig)
        await rig.done("POST", "/v1/endpoints/e/rollout", {**QUICK, "shadow_first": True})
        await rig.rolling.tick()
        declared = rig.declaration.declared.endpoints[0]
        assert (declared.shadow.backend, declared.shadow.percent, declared.traffic) == ("lr:v2", 10, {"lr:v1": 1})
        traffic.send("lr:v1", 400)
        await rig.rolling.tick()
        assert (await view(rig))["phase"] == "shadowing", "no copies yet"
        traffic.copies = ShadowStatistics(sent=500, equal=480, different=18, error=2)
        traffic.tell()
        await rig.rolling.tick()
        declared = rig.declaration.declared.endpoints[0]
        assert (declared.shadow.backend, declared.traffic) == ("old", {"lr:v1": 90, "lr:v2": 10})
        await rig.rolling.tick()
        assert (await view(rig))["windows"]["lr:v2"]["requests"] == 0, "copies are not counted as requests"
        traffic.both(150)
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 50


@asynchronous
async def test_a_shadow_that_fails_never_gets_a_request() -> None:
    async with rolling(shadow_first=True) as (rig, traffic):
        await rig.rolling.tick()
        traffic.send("lr:v1", 1000)
        traffic.copies = ShadowStatistics(sent=200, equal=150, error=50)
        traffic.tell()
        await rig.rolling.tick()
        assert ((await view(rig))["phase"], weights(rig)) == ("rolled_back", {"lr:v1": 1})
        assert rig.declaration.declared.endpoints[0].shadow is None


@asynchronous
async def test_a_window_that_spans_a_restart_of_the_gateway_is_dropped() -> None:
    async with rolling() as (rig, traffic):
        await rig.rolling.tick()
        traffic.both(90)
        await rig.rolling.tick()
        traffic.restart()
        traffic.both(95)
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10
        assert (await view(rig))["windows"]["lr:v2"]["requests"] == 0
        traffic.both(99)
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10, "99 of the 100 needed since it was seen anew"
        traffic.both(1)
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 50


@asynchronous
async def test_a_silent_gateway_decides_nothing() -> None:
    async with rolling() as (rig, traffic):
        await rig.rolling.tick()
        traffic.both(errors=200)
        await rig.gateway.close()
        await rig.rolling.tick()
        assert weights(rig)["lr:v2"] == 10
        assert (await rig.ask("POST", "/v1/endpoints/e/rollout/resume")).status == 507
        await rig.done("POST", "/v1/endpoints/e/rollout/abort")
        assert weights(rig) == {"lr:v1": 1}


@asynchronous
async def test_a_successor_goes_on_where_the_controller_was() -> None:
    """At every phase: the store holds all that is needed."""
    async with rolling(shadow_first=True) as (rig, traffic):
        shares, phases = [], []
        for number in range(8):
            traffic.both()
            traffic.copies = ShadowStatistics(sent=(number + 1) * 400, equal=(number + 1) * 400)
            traffic.tell()
            await rig.close()
            await rig.open()
            await rig.until(lambda: rig.controller.publisher.statistics().applied["gateway-0"])
            await rig.rolling.tick()
            shares.append(weights(rig).get("lr:v2", 0))
            phases.append((await view(rig))["phase"])
        assert shares == [0, 10, 50, 100, 100, 100, 100, 100]
        assert phases[:4] == ["shadowing", "stepping", "stepping", "completed"]


@asynchronous
async def test_harm_goes_back_even_when_the_state_cannot_be_written() -> None:
    async with rolling(interval_s=3600) as (rig, traffic):
        await rig.rolling.tick()
        revision = rig.declaration.revision
        blocked = block(rig)
        refused = await rig.ask("PATCH", "/v1/backends/lr:v1", {"replicas": 2})
        assert (refused.status, refused.body["code"]) == (507, "state_unwritable")
        traffic.both(errors=100)
        await rig.rolling.tick()
        assert weights(rig) == {"lr:v1": 1}
        await rig.settled()
        assert rig.gateway.snapshots[-1]["endpoints"][0]["traffic"] == {"lr:v1": 1}
        assert "state" in rig.problems()
        assert rig.declaration.revision == revision
        unblock(blocked)
        rig.declaration.retry()
        assert rig.problems() == {}
        assert rig.declaration.revision == revision + 1
        await rig.close()
        await rig.open()
        assert ((await view(rig))["phase"], weights(rig)) == ("rolled_back", {"lr:v1": 1})


def block(rig: Rig) -> Any:
    """Another process holds the write lock of the state file for good, as one that was stopped would."""
    import sqlite3

    other = sqlite3.connect(Path(rig.run_dir, "state.db"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    rig.declaration._store._connection.execute("PRAGMA busy_timeout = 10")  # not the 5 s of real life
    return other


def unblock(other: Any) -> None:
    other.execute("ROLLBACK")
    other.close()


def test_a_gateway_that_counts_otherwise_is_as_a_silent_one() -> None:
    assert read({"gateway-0": None}) is None
    assert read({"gateway-0": {"endpoints": "another version"}}) is None
    found = read({"gateway-0": {"queue": 3}, "gateway-1": {"epoch": "a"}})
    assert found is not None
    assert found.epochs == {"gateway-0": "", "gateway-1": "a"}


def test_gateways_are_added_up() -> None:
    versions = {"v": {"outcomes": {"ok": 3, "deadline": 1}, "latency": {"counts": {"7": 3}}}}
    one = {"endpoints": {"e": {"versions": versions}}}
    found = read({"a": one, "b": one})
    assert found is not None
    window = window_of_version(found.version("e", "v"))
    assert (window.requests, window.errors, window.latency.counts) == (8, 2, {7: 6})
