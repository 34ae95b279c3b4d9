"""The controller against a fake engine and a gateway's real control socket."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from muleteer.control.controller import Controller
from muleteer.control.status import Server, build
from muleteer.engine.port import ReplicaStatus
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, EndpointSpec, ServerSettings
from muleteer.supervise.process import LastExit
from muleteer.testing.engine import FakeEngine, FakeWorld
from tests.control.gateway_peer import GatewayPeer
from tests.control.rig import HeldClock


class SilentEngine(FakeEngine):
    """One that cannot say what runs until `told`, as where a cluster's head is away."""

    def __init__(self, world: FakeWorld) -> None:
        super().__init__(world)
        self.told = asyncio.Event()

    async def open(self) -> tuple[ReplicaStatus, ...]:
        await self.told.wait()
        return await super().open()


class Rig:
    def __init__(self, run_dir: str, replicas: int, world: FakeWorld) -> None:
        self.run_dir = run_dir
        self.dir = Path(run_dir)
        self.model = self.dir / "m.py"
        self.model.write_text("class M: ...")
        self.world = world
        self.gateway = GatewayPeer(f"{run_dir}/gateway-0.sock")
        self.notices: list[str] = []
        self.clock = HeldClock()
        self.published = asyncio.Event()
        self.declared = Declared(
            server=ServerSettings(reload=True),
            backends=(
                BackendSpec(name="m", target="m.py:M", base_dir=run_dir, settings=BackendSettings(replicas=replicas)),
            ),
            endpoints=(EndpointSpec(name="m", route="/m", traffic={"m": 1.0}),),
        )

    def start_controller(self, engine: FakeEngine | None = None) -> None:
        self.controller = Controller(
            self.declared,
            engine or FakeEngine(self.world),
            run_dir=self.run_dir,
            gateways=("gateway-0",),
            notice=self.notices.append,
            clock=self.clock,
        )
        self._task = asyncio.create_task(self.controller.run(self.published.set))

    async def stop_controller(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def until(self, holds: Callable[[], Any], timeout_s: float = 40.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():
                assert not self._task.done(), self._task
                await asyncio.sleep(0.005)

    def states(self) -> dict[str, str]:
        return {id: replica.state for id, replica in self.world.replicas.items()}

    def status(self, gateways: dict[str, Any] | None = None) -> dict[str, Any]:
        return build(Server(1, 2.0, None), self.declared, self.controller.statistics(), gateways or {}, {})


@asynccontextmanager
async def running(replicas: int = 1, world: FakeWorld | None = None) -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="mul") as run_dir:
        rig = Rig(run_dir, replicas, world or FakeWorld())
        await rig.gateway.open()
        rig.start_controller()
        try:
            yield rig
        finally:
            await rig.stop_controller()
            await rig.gateway.close()


def asynchronous(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@asynchronous
async def test_starts_what_is_declared_and_publishes_it() -> None:
    async with running(3) as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready", "m-2": "ready", "m-3": "ready"})
        await rig.until(lambda: rig.gateway.snapshots and rig.gateway.replicas("m") == ["m-1", "m-2", "m-3"])
        assert rig.published.is_set()
        written = json.loads((rig.dir / "snapshot.json").read_bytes())
        assert (rig.dir / "snapshot.json").stat().st_mode & 0o777 == 0o600, "it holds secrets"
        assert written == rig.gateway.snapshots[-1]
        await rig.until(lambda: rig.status()["backends"][0]["state"] == "ready")


@asynchronous
async def test_a_reload_surges_switches_acknowledges_and_only_then_stops() -> None:
    async with running() as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready"} and rig.controller.publisher.acknowledged(1))
        rig.world.load_s = None
        rig.model.write_text("class M: pass  # new")
        await rig.until(lambda: rig.states() == {"m-1": "ready", "m-2": "starting"})
        await rig.until(lambda: rig.gateway.replicas("m") == ["m-1", "m-2"])
        assert rig.status()["backends"][0]["state"] == "reloading"
        rig.gateway.held = asyncio.Event()
        revision = rig.controller.statistics().publisher.revision
        with rig.clock.held():  # the time after which a gateway is not waited for any more
            rig.world.finish_loading("m-2")
            await rig.until(lambda: rig.controller.statistics().publisher.revision > revision)
            steps = rig.controller.statistics().steps
            await rig.until(lambda: rig.controller.statistics().steps > steps)
            assert rig.states()["m-1"] == "ready", "not acknowledged: another step, and the old one still runs"
            assert rig.status()["backends"][0]["replicas"][0]["state"] == "stopping"
            rig.gateway.held.set()
            await rig.until(lambda: rig.states() == {"m-2": "ready"})
            assert rig.gateway.replicas("m") == ["m-2"]
        await rig.until(lambda: len(rig.notices) == 2)
        assert rig.notices[0] == "reloading m: m.py changed"
        assert rig.notices[1].startswith("reloaded m in ")


@asynchronous
async def test_new_code_that_does_not_start_leaves_the_old_serving_until_mended() -> None:
    async with running(2) as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready", "m-2": "ready"})
        rig.world.failing["m.py:M"] = "SyntaxError: invalid syntax (m.py, line 1)"
        rig.model.write_text("class M(")
        await rig.until(lambda: rig.states() == {"m-1": "ready", "m-2": "ready", "m-3": "failed"})
        await rig.until(lambda: len(rig.notices) == 2)
        assert rig.notices[1] == (
            "m: new code does not start: SyntaxError: invalid syntax (m.py, line 1); the old one keeps serving"
        )
        (backend,) = rig.status()["backends"]
        assert (backend["state"], backend["reason"]) == ("ready", "SyntaxError: invalid syntax (m.py, line 1)")
        del rig.world.failing["m.py:M"]
        rig.model.write_text("class M: mended = True")
        await rig.until(lambda: rig.states() == {"m-4": "ready", "m-5": "ready"})
        await rig.until(lambda: len(rig.notices) == 4)


@asynchronous
async def test_a_backend_that_never_loaded_is_tried_again_when_its_file_changes() -> None:
    world = FakeWorld()
    world.failing["m.py:M"] = "NameError"
    async with running(2, world) as rig:
        await rig.until(lambda: rig.states() == {"m-1": "failed", "m-2": "failed"})
        await rig.until(
            lambda: [last["backends"][0]["unavailable"] for last in rig.gateway.snapshots[-1:]] == ["crash_loop"]
        )
        assert rig.status()["backends"][0]["state"] == "failed"
        world.failing.clear()
        rig.model.write_text("class M: works = True")
        await rig.until(lambda: rig.states() == {"m-3": "ready", "m-4": "ready"})


@asynchronous
async def test_retry_starts_failed_replicas_afresh() -> None:
    world = FakeWorld()
    world.failing["m.py:M"] = "the license server is down"
    async with running(2, world) as rig:
        await rig.until(lambda: rig.status()["backends"][0]["state"] == "failed")
        world.failing.clear()
        assert rig.controller.retry("nobody") is None
        assert rig.controller.retry("m") == ["m-1", "m-2"]
        await rig.until(lambda: rig.states() == {"m-1": "ready", "m-2": "ready"})


@asynchronous
async def test_a_successor_adopts_and_changes_nothing() -> None:
    async with running(2) as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready", "m-2": "ready"})
        await rig.until(lambda: len(rig.gateway.snapshots) > 0 and rig.gateway.replicas("m") == ["m-1", "m-2"])
        before, pushed = dict(rig.world.replicas), rig.gateway.snapshots[-1]
        await rig.stop_controller()
        rig.world.crash("m-2", LastExit(reason="killed", was_ready=True))  # nobody watches
        rig.start_controller()
        await rig.until(lambda: rig.status()["backends"][0]["state"] == "ready")
        await rig.until(lambda: rig.controller.publisher.acknowledged(1))
        assert rig.world.replicas["m-1"] == before["m-1"]
        assert rig.world.replicas["m-2"].restarts == 1
        assert rig.gateway.snapshots[-1] == pushed, "the same content keeps its revision"


@asynchronous
async def test_a_gateway_that_returns_gets_the_last_snapshot() -> None:
    async with running() as rig:
        await rig.until(lambda: rig.gateway.snapshots and rig.gateway.replicas("m") == ["m-1"])
        await rig.gateway.close()
        await rig.until(lambda: not rig.controller.publisher.acknowledged(1))
        (rig.dir / "gateway-0.sock").unlink(missing_ok=True)
        rig.gateway = GatewayPeer(rig.gateway.path)
        await rig.gateway.open()
        await rig.until(lambda: rig.gateway.snapshots and rig.gateway.replicas("m") == ["m-1"])


@asynchronous
async def test_a_gateway_that_stays_away_does_not_hold_up_a_reload() -> None:
    async with running() as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready"})
        await rig.gateway.close()
        rig.model.write_text("class M: pass  # new")
        await rig.until(lambda: rig.states() == {"m-2": "ready"})


@asynchronous
async def test_a_refused_snapshot_and_a_full_disk_are_problems_that_end() -> None:
    async with running() as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready"})
        rig.gateway.answer = "unknown route"
        (rig.dir / "snapshot.tmp").mkdir()  # nothing can be written aside, as on a full disk
        rig.model.write_text("class M: pass  # new")
        await rig.until(lambda: rig.states() == {"m-2": "ready"})
        problems = rig.status()["problems"]
        assert problems["snapshot of gateway-0"] == "unknown route"
        assert "cannot write" in problems["snapshot.json"]
        rig.gateway.answer = "applied"
        (rig.dir / "snapshot.tmp").rmdir()
        rig.model.write_text("class M: pass  # newer")
        await rig.until(lambda: rig.states() == {"m-3": "ready"})
        await rig.until(lambda: rig.status()["problems"] == {})


@asynchronous
async def test_status_has_the_promised_shape() -> None:
    async with running() as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready"})
        rig.world.crash("m-1", LastExit(reason="killed", signal="SIGKILL", was_ready=True, log_tail="bye"))
        await rig.until(lambda: rig.status()["backends"][0]["state"] == "ready" and rig.states() == {"m-1": "ready"})
        rig.gateway.statistics = {
            "http": {"received": 7},
            "backends": {
                "m": {
                    "queue": {"depth": 2, "bound": 9, "bytes": 5},
                    "replicas": {"m-1": {"state": "ready", "in_flight": 1}},
                    "service": {"mean_s": 0.005, "p99_s": 0.006},
                }
            },
        }
        status = json.loads(json.dumps(rig.status(await rig.controller.publisher.gateway_statistics())))
        assert (status["pid"], status["engine"], status["http"]) == (1, "fake", {"received": 7})
        (endpoint,) = status["endpoints"]
        assert (endpoint["name"], endpoint["route"], endpoint["traffic"]) == ("m", "/m", {"m": 1.0})
        assert endpoint["methods"] == ["POST"]
        (backend,) = status["backends"]
        assert (backend["name"], backend["state"]) == ("m", "ready")
        assert backend["queue"] == {"depth": 2, "bound": 9}
        assert backend["service"]["p99_s"] == 0.006
        (replica,) = backend["replicas"]
        assert (replica["id"], replica["state"], replica["in_flight"], replica["restarts"]) == ("m-1", "ready", 1, 1)
        assert replica["pid"] == rig.world.replicas["m-1"].pid
        assert (replica["last_exit"]["signal"], replica["last_exit"]["log_tail"]) == ("SIGKILL", "bye")
        rig.gateway.statistics = {"backends": "another version"}
        assert rig.status(await rig.controller.publisher.gateway_statistics())["backends"][0]["queue"]["depth"] == 0


@asynchronous
async def test_a_replica_over_max_rss_is_replaced_before_it_leaves() -> None:
    async with running() as rig:
        await rig.until(lambda: rig.states() == {"m-1": "ready"})
        await rig.stop_controller()
        # The replica is this very process, ready for long: a real pid with real memory.
        rig.world.replicas["m-1"] = msgspec.structs.replace(rig.world.replicas["m-1"], pid=os.getpid(), since_s=60.0)
        backend = msgspec.structs.replace(rig.declared.backends[0], settings=BackendSettings(max_rss=2**20))
        rig.declared = msgspec.structs.replace(rig.declared, backends=(backend,))
        rig.start_controller()
        await rig.until(lambda: rig.states() == {"m-2": "ready"})
        assert "m-1" in rig.notices[-1]
        assert "more than max_rss 1MiB" in rig.notices[-1]


@asynchronous
async def test_while_the_engine_is_silent_questions_are_answered_and_nothing_is_touched() -> None:
    async with running(2) as rig:
        await rig.until(lambda: rig.gateway.snapshots and rig.gateway.replicas("m") == ["m-1", "m-2"])
        await rig.stop_controller()
        before = (rig.dir / "snapshot.json").read_bytes()
        told, rig.published = len(rig.gateway.snapshots), asyncio.Event()
        engine = SilentEngine(rig.world)
        rig.start_controller(engine)
        await asyncio.wait_for(rig.published.wait(), 40)
        await rig.until(lambda: rig.controller.publisher.statistics().revision)

        status = rig.status(await rig.controller.publisher.gateway_statistics())
        (backend,) = status["backends"]
        assert (backend["state"], backend["settled"], status["settled"]) == ("unknown", False, False)
        assert backend["reason"] == "what runs is not known yet; shown is what the gateways see"
        assert [(row["id"], row["state"], row["restarts"]) for row in backend["replicas"]] == [
            ("m-1", "ready", None),
            ("m-2", "ready", None),
        ]
        more = BackendSettings(replicas=3)
        spec = msgspec.structs.replace(rig.declared.backends[0], settings=more)
        rig.declared = msgspec.structs.replace(rig.declared, backends=(spec,))
        rig.controller.declare(rig.declared)
        await asyncio.sleep(0)
        assert set(rig.world.replicas) == {"m-1", "m-2"}
        assert (len(rig.gateway.snapshots), (rig.dir / "snapshot.json").read_bytes()) == (told, before)

        engine.told.set()
        await rig.until(lambda: rig.controller.statistics().settled)
        assert set(rig.world.replicas) == {"m-1", "m-2", "m-3"}
        (backend,) = rig.status(await rig.controller.publisher.gateway_statistics())["backends"]
        assert (backend["state"], backend["settled"]) == ("ready", True)
