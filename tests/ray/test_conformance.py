"""The Ray engine passes the suite that the local one passes, on a real cluster of two nodes."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

from muleteer.engine.port import Engine, ReplicaRequest, ReplicaStatus
from muleteer.engine.ray.engine import RayEngine
from muleteer.spec.settings import BackendSettings
from muleteer.testing.engine import check_engine
from tests.ray.cluster import BridgeProcess

KEY = b"conformance"


class RayRig:
    wait_s = 60.0

    def __init__(self, bridge: BridgeProcess, folder) -> None:
        self._bridge = bridge
        self._folder = folder
        self.good = self._request("good", "class Model:\n    def predict(self, x: int):\n        return x\n")
        self.bad = self._request("bad", "raise RuntimeError('no weights')\n")

    def _request(self, name: str, source: str) -> ReplicaRequest:
        (self._folder / f"{name}.py").write_text(source)
        return ReplicaRequest(
            id=f"{name}-1",
            backend=name,
            generation=5,
            fingerprint="f00",
            target=f"{name}.py:Model",
            base_dir=str(self._folder),
            settings=BackendSettings(cpus=0.5),
        )

    def connect(self) -> Engine:
        return RayEngine(self._bridge.path, KEY, print)

    async def crash(self, status: ReplicaStatus) -> None:
        os.kill(status.pid, signal.SIGKILL)


def test_the_ray_engine_passes(cluster, tmp_path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    bridge = BridgeProcess(cluster, tmp_path)

    @asynccontextmanager
    async def rig():
        yield RayRig(bridge, folder)

    try:
        asyncio.run(check_engine(rig))
    finally:
        bridge.close()
