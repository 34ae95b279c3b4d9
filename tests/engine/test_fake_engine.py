"""The fake passes the suite, and the suite can fail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from muleteer.engine.port import Engine, ReplicaRequest, ReplicaStatus
from muleteer.supervise.process import LastExit
from muleteer.testing.engine import FakeEngine, FakeWorld, check_engine


class FakeRig:
    good = ReplicaRequest(
        id="m-1", backend="m", generation=3, fingerprint="f00", target="good.py:M", base_dir="/models"
    )
    bad = ReplicaRequest(id="bad-1", backend="bad", generation=1, target="bad.py:M", base_dir="/models")

    def __init__(self, kind: type[FakeEngine], wait_s: float) -> None:
        self.wait_s = wait_s
        self.world = FakeWorld()
        self.world.failing["bad.py:M"] = "SyntaxError"
        self.kind = kind

    def connect(self) -> Engine:
        return self.kind(self.world)

    async def crash(self, status: ReplicaStatus) -> None:
        self.world.crash(status.id, LastExit(reason="killed", signal="SIGKILL", was_ready=True))


def rig_of(kind: type[FakeEngine], wait_s: float):
    @asynccontextmanager
    async def make():
        yield FakeRig(kind, wait_s)

    return make


def test_the_fake_passes() -> None:
    asyncio.run(check_engine(rig_of(FakeEngine, 10.0)))


class AdoptsNothing(FakeEngine):
    async def open(self):
        await super().open()
        return ()


class StartsTwice(FakeEngine):
    def start(self, request):
        return self._world.start(request)


class StopsInSilence(FakeEngine):
    def stop(self, id):
        self._world.replicas.pop(id, None)


class NeverRetries(FakeEngine):
    def retry(self, id):
        pass


class StartsWithoutDevices(FakeEngine):
    def start(self, request):
        settings = msgspec.structs.replace(request.settings, gpus=0.0)
        return super().start(msgspec.structs.replace(request, settings=settings))


class OneAddress(FakeEngine):
    async def changes(self):
        async for status in super().changes():
            yield msgspec.structs.replace(status, address="unix:/fake/one.sock")


@pytest.mark.parametrize(
    "kind", [AdoptsNothing, StartsTwice, StopsInSilence, NeverRetries, OneAddress, StartsWithoutDevices]
)
def test_the_suite_finds_a_broken_engine(kind: type[FakeEngine]) -> None:
    with pytest.raises((AssertionError, TimeoutError, ValueError, KeyError)):
        asyncio.run(check_engine(rig_of(kind, 0.2)))
