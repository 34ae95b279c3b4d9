"""The local engine passes the suite with the real supervisor, real replicas and real kills."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from muleteer.engine.line_stream import LineStream
from muleteer.engine.local import LocalEngine
from muleteer.engine.port import Engine, ReplicaRequest, ReplicaStatus
from muleteer.testing.engine import check_engine
from tests.engine.supervised import run_directory, supervised

RELAY = Path(__file__).with_name("relay.py")


class RelayedEngine(LocalEngine):
    """Reaches the supervisor through the relay; a new connection is a new controller."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(self._to_supervisor, str(run_dir))
        self._path = str(run_dir / "relay.sock")
        self._stream: LineStream | None = None

    async def open(self) -> tuple[ReplicaStatus, ...]:
        self._stream = LineStream(self.receive, lambda: None)
        while True:
            try:
                await asyncio.get_running_loop().create_unix_connection(lambda: self._stream, self._path)
            except OSError:  # the relay is being restarted
                await asyncio.sleep(0.02)
            else:
                return await super().open()

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _to_supervisor(self, message: dict[str, object]) -> None:
        self._stream.send(message)


class LocalRig:
    wait_s = 90.0  # five failed starts and the pauses between them take 20 s on an idle machine

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.good = self._request("good", "class Model:\n    def predict(self, x: int):\n        return x\n")
        self.bad = self._request("bad", "raise RuntimeError('no weights')\n")

    def _request(self, name: str, source: str) -> ReplicaRequest:
        (self.run_dir / f"{name}.py").write_text(source)
        target = f"{name}.py:Model"
        return ReplicaRequest(id=f"{name}-1", backend=name, generation=5, target=target, base_dir=str(self.run_dir))

    def connect(self) -> Engine:
        return RelayedEngine(self.run_dir)

    async def crash(self, status: ReplicaStatus) -> None:
        os.kill(status.pid, signal.SIGKILL)


@asynccontextmanager
async def rig():
    with run_directory() as run_dir, supervised(run_dir, str(RELAY), str(run_dir / "relay.sock")):
        yield LocalRig(run_dir)


@pytest.mark.timeout(300)  # twenty starts, one after the other
def test_the_local_engine_passes() -> None:
    asyncio.run(check_engine(rig))
