"""A server that never comes back: what it left on the cluster ends by itself, and not before its time."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

from bench.server import wait_until
from muleteer.engine.port import ReplicaRequest
from muleteer.engine.ray.engine import RayEngine
from muleteer.spec.secret import instance_of
from muleteer.spec.settings import BackendSettings
from muleteer.wire.lines import encode_line
from tests.ray.cluster import BridgeProcess
from tests.ray.served import alive, parent

KEY = b"orphans"
LEASE_S = 6.0
"""A bridge that stands still for less loses nothing."""
TRIES = 5
MODEL = "class Model:\n    def predict(self):\n        return 1\n"


@asynccontextmanager
async def engine_of(bridge):
    engine = RayEngine(bridge.path, KEY, lambda _problem: None)
    try:
        async with asyncio.timeout(200):
            yield engine, await engine.open()
    finally:
        engine.close()


async def start(engine, folder):
    """Its process, once it is ready."""
    engine.start(
        ReplicaRequest(
            id="orphan-1",
            backend="orphan",
            generation=1,
            fingerprint="f",
            target="model.py:Model",
            base_dir=str(folder),
            settings=BackendSettings(),
        )
    )
    async for status in engine.changes():
        if status.state == "ready":
            return status.pid
    raise AssertionError("the engine was closed")


def test_an_actor_ends_itself_when_no_server_asks_for_it_any_more(cluster, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(MODEL)
    bridge = BridgeProcess(cluster, tmp_path, orphan_s=LEASE_S)

    async def while_there_is_a_server():
        async with engine_of(bridge) as (engine, found):
            assert found == ()
            pid = await start(engine, tmp_path / "code")
            await asyncio.sleep(LEASE_S + 1)  # nothing is to happen in this time
            return pid

    async def found_by_the_next():
        async with engine_of(bridge) as (_, found):
            return found

    try:
        model = asyncio.run(while_there_is_a_server())
        actor = parent(parent(model))
        assert alive(model)
        bridge.kill()
        wait_until(lambda: not alive(model) and not alive(actor), "the actor ends, with its model", seconds=90)
        logs = cluster.folder / "session_latest" / "logs"
        said = [
            file.name for file in logs.glob("*.err") if f"no server has asked for {LEASE_S:g} s" in file.read_text()
        ]
        assert said
        bridge.start()
        assert asyncio.run(found_by_the_next()) == (), "Ray has started it anew"
    finally:
        bridge.close()


def test_what_a_server_has_not_found_again_ends_with_it_all_the_same(cluster, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(MODEL)
    bridge = BridgeProcess(cluster, tmp_path)

    async def serve():
        async with engine_of(bridge) as (engine, _):
            return await start(engine, tmp_path / "code")

    try:
        model = asyncio.run(serve())
        actor = parent(parent(model))
        bridge.kill()
        for _ in range(TRIES):
            if "an earlier life of this server left there are adopted" not in ended_at_once(bridge):
                break  # else it was not let in within 10 s, so late is this machine, and has said so
        wait_until(lambda: not alive(model), "the model ends", seconds=30)
        wait_until(lambda: not alive(actor), "the actor ends", seconds=30)
    finally:
        bridge.close()


def ended_at_once(bridge):
    """What is said by a bridge that is told to end when it has only begun to join the cluster."""
    with socket.socket(socket.AF_UNIX) as controller:
        controller.connect(bridge.path)
        controller.sendall(
            encode_line({"type": "open", "instance": instance_of(KEY), "key": KEY.hex(), "gateways": None})
        )
        bridge.start()
        bridge.wait_ready()
        bridge.process.terminate()
        assert bridge.process.wait(90) == 0
        said = bridge.last_words()
        bridge.kill()
        return said
