"""The local engine as a translator: messages in, messages out."""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from muleteer.engine.local import LocalEngine
from muleteer.engine.port import ReplicaRequest
from muleteer.spec.settings import BackendSettings
from muleteer.supervise.process import ProcessSpec

REQUEST = ReplicaRequest(
    id="lr:v1-1",
    backend="lr:v1",
    generation=2,
    fingerprint="f00",
    target="lr.py:LR",
    base_dir="/",
    settings=BackendSettings(concurrency=3, max_body=1000, load_timeout=7.0),
    debug=True,
    grace_s=3.0,
)


def row(id: str, state: str, **more: object) -> dict[str, object]:
    labels = {"backend": "m", "generation": "1", "address": f"unix:/run/sockets/{id[-1]}.sock"}
    return {"id": id, "state": state, "pid": 9, "restarts": 0, "since_s": 1.5, "labels": labels, **more}


def engine_with(*rows: dict[str, object]) -> tuple[LocalEngine, list[dict[str, object]]]:
    sent: list[dict[str, object]] = []
    engine = LocalEngine(sent.append, "/run")
    engine.receive({"type": "processes", "processes": list(rows)})
    return engine, sent


def changes_of(engine: LocalEngine) -> list[object]:
    async def read() -> list[object]:
        engine.close()
        return [status async for status in engine.changes()]

    return asyncio.run(read())


def test_start_asks_the_supervisor_for_a_replica() -> None:
    engine, sent = engine_with()
    status = engine.start(REQUEST)
    assert (status.state, status.address, status.generation) == ("starting", "unix:/run/sockets/1.sock", 2)
    (message,) = sent
    assert message["type"] == "ensure"
    spec = msgspec.convert(message["process"], ProcessSpec)
    assert spec.id == "lr:v1-1"
    assert spec.argv[:4] == (sys.executable, "-P", "-m", "muleteer.replica")
    assert json.loads(spec.argv[4]) == {
        "backend": "lr:v1",
        "replica": "lr:v1-1",
        "target": "lr.py:LR",
        "base_dir": "/",
        "concurrency": 3,
        "max_body": 1000,
        "debug": True,
        "batch": "auto",
    }
    assert spec.sockets == {"link": "unix:/run/sockets/1.sock"}
    assert spec.labels == {
        "backend": "lr:v1",
        "generation": "2",
        "fingerprint": "f00",
        "address": "unix:/run/sockets/1.sock",
    }
    assert (spec.ready_timeout_s, spec.grace_s, spec.starts_max, spec.stop_rank) == (7.0, 3.0, 5, 1)
    assert engine.start(REQUEST) == status
    assert len(sent) == 1


def test_rows_become_changes_and_other_processes_do_not() -> None:
    engine, _ = engine_with()
    for state, more in (("ready", {"info": {"files": ["/m.py"]}}), ("stopping", {}), ("stopped", {})):
        engine.receive({"type": "process", "process": row("m-1", state, **more)})
    engine.receive({"type": "process", "process": {**row("gateway-0", "ready"), "labels": {}}})
    ready, stopping, gone = changes_of(engine)
    assert (ready.state, ready.files, ready.since_s, ready.pid) == ("ready", ("/m.py",), 1.5, 9)
    assert (stopping.state, gone.state) == ("stopping", "gone")
    assert engine.statistics().replicas == {}


def test_adopts_and_never_gives_a_socket_twice() -> None:
    engine, sent = engine_with(row("m-4", "ready"), row("m-7", "stopping"), {**row("gateway-0", "ready"), "labels": {}})
    assert {status.id for status in asyncio.run(engine.open())} == {"m-4", "m-7"}
    assert engine.start(REQUEST).address == "unix:/run/sockets/8.sock"
    assert len(sent) == 1


def test_only_what_is_known_is_stopped_and_only_what_failed_is_retried() -> None:
    engine, sent = engine_with(row("m-1", "ready"), row("m-2", "failed"))
    for id in ("m-1", "m-2", "nobody-1"):
        engine.retry(id)
        engine.stop(id)
    assert sent == [
        {"type": "remove", "process": "m-1"},
        {"type": "retry", "process": "m-2"},
        {"type": "remove", "process": "m-2"},
    ]
