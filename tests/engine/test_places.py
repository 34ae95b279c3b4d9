"""Replicas and GPUs: real ones, on devices that are only names; and the engine alone, where order matters."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from muleteer.engine.local import LocalEngine
from muleteer.engine.port import ReplicaRequest, ReplicaStatus
from muleteer.spec.settings import BackendSettings, ServerSettings
from muleteer.supervise.process import ProcessSpec
from tests.engine.supervised import run_directory, supervised
from tests.engine.test_local_supervised import RELAY, RelayedEngine
from tests.replica.processes import Link

TELLS = """
import os
class Model:
    def predict(self):
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MODEL_CPUS")
        return {"nice": os.nice(0), **{name: os.environ.get(name) for name in names}}
"""


def request(id: str, gpus: float, **settings: object) -> ReplicaRequest:
    return ReplicaRequest(
        id=id,
        backend="m",
        generation=1,
        target="tells.py:Model",
        base_dir="/",
        settings=BackendSettings(gpus=gpus, **settings),
    )


def engine_on(devices: str) -> tuple[LocalEngine, list[dict]]:
    sent: list[dict] = []
    engine = LocalEngine(sent.append, "/run", ServerSettings(gpu_devices=devices, cpu_budget=4.0))
    engine.receive({"type": "processes", "processes": []})
    return engine, sent


def told(engine: LocalEngine, sent: list[dict], index: int, state: str) -> None:
    """The supervisor's row of what was asked `index`-th."""
    spec = msgspec.convert(sent[index]["process"], ProcessSpec)
    row = {"id": spec.id, "state": state, "pid": 7, "restarts": 0, "since_s": 0.0, "labels": spec.labels}
    engine.receive({"type": "process", "process": row})


def changes(engine: LocalEngine) -> list[ReplicaStatus]:
    async def read() -> list[ReplicaStatus]:
        engine.close()
        return [status async for status in engine.changes()]

    return asyncio.run(read())


def test_one_waits_until_a_device_is_free_and_starts_then() -> None:
    engine, sent = engine_on("0")
    assert engine.start(request("m-1", 1)).gpus == ("0",)
    waiting = engine.start(request("m-2", 0.5))
    assert waiting.state == "backoff"
    assert waiting.last_exit.reason == "no_gpu"
    assert "0 are taken by m-1" in waiting.last_exit.message
    assert [message["process"]["id"] for message in sent] == ["m-1"], "never without its device"
    told(engine, sent, 0, "stopping")
    assert len(sent) == 1, "not while it still holds it"
    told(engine, sent, 0, "stopped")
    assert sent[1]["process"]["env"]["CUDA_VISIBLE_DEVICES"] == "0"
    last = changes(engine)[-1]
    assert (last.id, last.state, last.gpus, last.last_exit) == ("m-2", "starting", ("0",), None)


def test_what_can_never_be_is_failed_and_may_be_retried_or_stopped() -> None:
    engine, sent = engine_on("")
    failed = engine.start(request("m-1", 1))
    assert failed.state == "failed"
    assert "this machine has none" in failed.last_exit.message
    engine.retry("m-1")
    engine.stop("m-1")
    assert sent == []
    assert [status.state for status in changes(engine)] == ["gone"]
    assert engine.statistics().replicas == {}


def test_a_successor_knows_what_is_taken() -> None:
    first, sent = engine_on("0,1")
    first.start(request("m-1", 0.5))
    first.start(request("m-2", 1))
    rows = [
        {"id": each["process"]["id"], "state": "ready", "pid": 7, "restarts": 0, "since_s": 0.0, "labels": each["process"]["labels"]}
        for each in sent
    ]  # fmt: skip
    successor = LocalEngine(sent.append, "/run", ServerSettings(gpu_devices="0,1"))
    successor.receive({"type": "processes", "processes": rows})
    assert {status.id: status.gpus for status in asyncio.run(successor.open())} == {"m-1": ("0",), "m-2": ("1",)}
    assert successor.start(request("m-3", 0.6)).state == "backoff"
    assert successor.start(request("m-4", 0.5)).gpus == ("0",)


def test_capacity_is_what_was_declared() -> None:
    engine = LocalEngine(lambda _: None, "/run", ServerSettings(gpu_devices="3,5", cpu_budget=1.5, memory_budget=10**9))
    found = engine.capacity()
    assert (found.cpus, found.memory_bytes, found.gpus, found.available_bytes) == (1.5, 10**9, ("3", "5"), None)


def test_memory_that_is_not_there_is_not_given() -> None:
    there = LocalEngine(lambda _: None, "/run").capacity().memory_bytes
    engine = LocalEngine(lambda _: None, "/run", ServerSettings(memory_budget=1 << 60))
    assert engine.capacity().memory_bytes == there


def test_capacity_is_else_what_the_machine_has() -> None:
    found = LocalEngine(lambda _: None, "/run").capacity()
    assert 0 < found.cpus <= (os.cpu_count() or 1)
    assert 0 < found.available_bytes <= found.memory_bytes


def ask(address: str) -> dict:
    link = Link(address.removeprefix("unix:"))
    try:
        link.greet()
        value, error = link.outcome(link.call({}))
    finally:
        link.close()
    assert error is None
    return value


class PlacedEngine(RelayedEngine):
    """The relayed one, on three devices and four cores."""

    def __init__(self, run_dir: Path) -> None:
        LocalEngine.__init__(self, self._to_supervisor, str(run_dir), ServerSettings(gpu_devices="4,5,6", cpu_budget=4))
        self._path = str(run_dir / "relay.sock")
        self._stream = None


def test_real_replicas_are_told_where_they_are() -> None:
    async def run(run_dir: Path) -> None:
        (run_dir / "tells.py").write_text(TELLS)
        engine = PlacedEngine(run_dir)
        await engine.open()
        base = {"base_dir": str(run_dir)}
        wanted = {
            "a-1": request("a-1", 2, replicas=2),
            "a-2": request("a-2", 0.5, replicas=2),
            "b-1": request("b-1", 0.5, cpus=3),
            "c-1": request("c-1", 0, replicas=4),
        }
        found: dict[str, dict] = {}
        for each in wanted.values():
            engine.start(msgspec.structs.replace(each, **base))
        late = engine.start(msgspec.structs.replace(request("d-1", 1), **base))
        assert late.state == "backoff"
        async with asyncio.timeout(60):
            async for status in engine.changes():
                if status.state == "ready" and status.id not in found:
                    found[status.id] = await asyncio.to_thread(ask, status.address)
                    if len(found) == len(wanted):
                        engine.stop("a-1")
                if status.id == "d-1" and status.state == "ready":
                    found["d-1"] = await asyncio.to_thread(ask, status.address)
                    break
        devices = {id: each["CUDA_VISIBLE_DEVICES"] for id, each in found.items()}
        outside = os.environ.get("CUDA_VISIBLE_DEVICES")
        assert devices == {"a-1": "4,5", "a-2": "6", "b-1": "6", "c-1": outside, "d-1": "4"}
        cpus = {id: each["MODEL_CPUS"] for id, each in found.items()}
        assert cpus == {"a-1": "2", "a-2": "2", "b-1": "3", "c-1": "1", "d-1": "4"}
        assert found["b-1"]["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "3")
        assert found["c-1"]["nice"] > found["b-1"]["nice"], "one of four has a quarter of the time"
        engine.close()

    with run_directory() as run_dir, supervised(run_dir, str(RELAY), str(run_dir / "relay.sock")):
        asyncio.run(run(run_dir))
