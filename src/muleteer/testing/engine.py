"""An engine in memory, and the conformance suite that every engine passes. Must not know any particular engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from muleteer.engine.port import Capacity, Engine, EngineStatistics, ReplicaRequest, ReplicaStatus
from muleteer.supervise.process import LastExit


class FakeWorld:
    """Where the replicas of a FakeEngine live; it outlives the engine, as processes outlive a controller.

    Attributes:
        failing: TARGET → message of the replicas that do not start; change it at any time.
        load_s: seconds from start to ready; None leaves replicas starting until `finish_loading`.
    """

    def __init__(self, *, load_s: float | None = 0.0) -> None:
        self.load_s = load_s
        self.failing: dict[str, str] = {}
        self.replicas: dict[str, ReplicaStatus] = {}
        self.requests: dict[str, ReplicaRequest] = {}
        self.tell: Callable[[ReplicaStatus], None] = _nobody
        self._pids = 1_000_000_000  # above any real one, so that nothing measures or kills a stranger

    def start(self, request: ReplicaRequest) -> ReplicaStatus:
        """A new replica begins its first life."""
        self.requests[request.id] = request
        first = ReplicaStatus.first(request, address=f"unix:/fake/{request.id}.sock")
        first = msgspec.structs.replace(first, pid=self._next_pid())
        if request.settings.gpus:
            last_exit = LastExit(reason="no_gpu", message="this world has no GPUs")
            first = msgspec.structs.replace(first, state="failed", pid=None, last_exit=last_exit)
        else:
            self._load(first.id)
        self.replicas[request.id] = first
        return first

    def crash(self, id: str, last_exit: LastExit) -> None:
        """The process dies; another life begins at once."""
        replica = self.replicas[id]
        self._put(
            msgspec.structs.replace(
                replica,
                state="starting",
                pid=self._next_pid(),
                restarts=replica.restarts + 1,
                last_exit=last_exit,
            )
        )
        self._load(id)

    def finish_loading(self, id: str) -> None:
        """A starting replica becomes ready, or fails if its target does."""
        replica = self.replicas.get(id)
        if replica is None or replica.state != "starting":
            return
        message = self.failing.get(self.requests[id].target)
        if message is None:
            self._put(msgspec.structs.replace(replica, state="ready"))
        else:
            last_exit = LastExit(reason="import_error", code=1, message=message)
            self._put(msgspec.structs.replace(replica, state="failed", pid=None, last_exit=last_exit))

    def retry(self, id: str) -> None:
        """A failed one starts afresh."""
        replica = self.replicas.get(id)
        if replica is not None and replica.state == "failed":
            self._put(msgspec.structs.replace(replica, state="starting", pid=self._next_pid()))
            self._load(id)

    def stop(self, id: str) -> None:
        """It stops, then is gone."""
        replica = self.replicas.get(id)
        if replica is not None and replica.state != "stopping":
            self._put(msgspec.structs.replace(replica, state="stopping"))
            asyncio.get_running_loop().call_soon(self._remove, id)

    def _remove(self, id: str) -> None:
        replica = self.replicas.pop(id)
        self.tell(msgspec.structs.replace(replica, state="gone", pid=None))

    def _load(self, id: str) -> None:
        if self.load_s is not None:
            asyncio.get_running_loop().call_later(self.load_s, self.finish_loading, id)

    def _put(self, replica: ReplicaStatus) -> None:
        self.replicas[replica.id] = replica
        self.tell(replica)

    def _next_pid(self) -> int:
        self._pids += 1
        return self._pids


def _nobody(_status: ReplicaStatus) -> None:
    """No engine is connected."""


class FakeEngine:
    """An engine over a FakeWorld. A second one over the same world takes it over, as a new controller's does."""

    name = "fake"

    def __init__(self, world: FakeWorld) -> None:
        self._world = world
        self._changes: asyncio.Queue[ReplicaStatus | None] = asyncio.Queue()

    async def open(self) -> tuple[ReplicaStatus, ...]:
        """See `Engine.open`."""
        self._world.tell = self._changes.put_nowait
        return tuple(self._world.replicas.values())

    async def changes(self) -> AsyncIterator[ReplicaStatus]:
        """See `Engine.changes`."""
        while (status := await self._changes.get()) is not None:
            yield status

    def start(self, request: ReplicaRequest) -> ReplicaStatus:
        """See `Engine.start`."""
        return self._world.replicas.get(request.id) or self._world.start(request)

    def stop(self, id: str) -> None:
        """See `Engine.stop`."""
        self._world.stop(id)

    def retry(self, id: str) -> None:
        """See `Engine.retry`."""
        self._world.retry(id)

    def capacity(self) -> Capacity:
        """Four cores, no memory limit, no GPUs."""
        return Capacity(cpus=4.0, memory_bytes=None)

    def close(self) -> None:
        """See `Engine.close`."""
        self._world.tell = _nobody
        self._changes.put_nowait(None)

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`."""
        return EngineStatistics(dict(Counter(replica.state for replica in self._world.replicas.values())))


class EngineRig(Protocol):
    """What the conformance suite needs of a place that it tests.

    Attributes:
        good: a request that becomes ready within seconds; the suite varies its id.
        bad: one whose start fails.
        wait_s: how long one change may take.
    """

    good: ReplicaRequest
    bad: ReplicaRequest
    wait_s: float

    def connect(self) -> Engine:
        """A new engine over the same place; the one before it has been closed."""
        ...

    async def crash(self, status: ReplicaStatus) -> None:
        """Kill the replica's process as a fault would."""
        ...


class _Watcher:
    """Reads an engine's changes into a table."""

    def __init__(self, rig: EngineRig) -> None:
        self.engine = rig.connect()
        self._wait_s = rig.wait_s
        self.history: list[ReplicaStatus] = []
        self._changed = asyncio.Event()

    async def open(self) -> tuple[ReplicaStatus, ...]:
        adopted = await self.engine.open()
        self._task = asyncio.create_task(self._follow())
        return adopted

    async def close(self) -> None:
        self.engine.close()
        await self._task

    async def state(self, id: str, *states: str, restarts: int = 0, after: int = 0) -> ReplicaStatus:
        """The first change to one of `states`, after so many restarts; of all since `open`, or after so many."""
        async with asyncio.timeout(self._wait_s):
            while True:
                for status in self.history[after:]:
                    if status.id == id and status.state in states and status.restarts >= restarts:
                        return status
                self._changed.clear()
                await self._changed.wait()

    async def _follow(self) -> None:
        async for status in self.engine.changes():
            self.history.append(status)
            self._changed.set()


async def check_engine(make_rig: Callable[[], AbstractAsyncContextManager[EngineRig]]) -> None:
    """Hold an engine to the laws of `muleteer.engine.port`, each in a fresh place. Raises AssertionError."""
    for law in (
        _starts_and_stops,
        _restarts_what_dies,
        _tells_why_a_start_failed,
        _is_adopted,
        _ignores_the_unknown,
        _keeps_replicas_apart,
        _never_starts_without_its_devices,
    ):
        async with make_rig() as rig:
            await law(rig)


async def _starts_and_stops(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    assert await watch.open() == ()
    first = watch.engine.start(rig.good)
    for name in ("id", "backend", "generation", "fingerprint"):
        assert getattr(first, name) == getattr(rig.good, name), name
    assert first.state == "starting"
    ready = await watch.state(rig.good.id, "ready")
    assert ready.address, "a ready replica has an address"
    assert first.address in ("", ready.address)
    assert watch.engine.start(rig.good).state == "ready", "a known id is left alone"
    early = msgspec.structs.replace(rig.good, id=f"{rig.good.id}-early")
    watch.engine.start(early)
    watch.engine.stop(early.id)
    await watch.state(early.id, "gone")
    watch.engine.stop(rig.good.id)
    await watch.state(rig.good.id, "gone")
    assert watch.history[-1].state == "gone", "gone is the last word"
    assert watch.engine.statistics().replicas == {}
    await watch.close()


async def _restarts_what_dies(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    await watch.open()
    watch.engine.start(rig.good)
    before = await watch.state(rig.good.id, "ready")
    await rig.crash(before)
    after = await watch.state(rig.good.id, "ready", restarts=1)
    assert (after.id, after.address) == (before.id, before.address)
    assert after.pid is None or after.pid != before.pid
    assert after.last_exit is not None
    assert after.last_exit.was_ready
    watch.engine.stop(rig.good.id)
    await watch.state(rig.good.id, "gone")
    await watch.close()


async def _tells_why_a_start_failed(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    await watch.open()
    watch.engine.start(rig.bad)
    failed = await watch.state(rig.bad.id, "failed")
    assert failed.last_exit is not None
    assert failed.last_exit.reason
    assert not failed.last_exit.was_ready
    seen = len(watch.history)
    watch.engine.retry(rig.bad.id)
    await watch.state(rig.bad.id, "starting", after=seen)
    watch.engine.stop(rig.bad.id)
    await watch.state(rig.bad.id, "gone")
    await watch.close()


async def _is_adopted(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    await watch.open()
    watch.engine.start(rig.good)
    before = await watch.state(rig.good.id, "ready")
    await watch.close()
    successor = _Watcher(rig)
    (adopted,) = await successor.open()
    for name in ("id", "backend", "generation", "fingerprint", "address", "state", "pid", "restarts", "files"):
        assert getattr(adopted, name) == getattr(before, name), name
    assert successor.engine.start(rig.good).pid == before.pid, "adopted, not started again"
    successor.engine.stop(rig.good.id)
    await successor.state(rig.good.id, "gone")
    await successor.close()


async def _ignores_the_unknown(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    await watch.open()
    watch.engine.stop("nobody-1")
    watch.engine.retry("nobody-1")
    watch.engine.start(rig.good)
    await watch.state(rig.good.id, "ready")
    watch.engine.retry(rig.good.id)  # not failed: left alone
    watch.engine.stop(rig.good.id)
    watch.engine.stop(rig.good.id)
    await watch.state(rig.good.id, "gone")
    assert {status.id for status in watch.history} == {rig.good.id}
    assert max(status.restarts for status in watch.history) == 0
    await watch.close()


async def _keeps_replicas_apart(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    await watch.open()
    ids = [f"{rig.good.id}-{number}" for number in range(3)]
    for id in ids:
        watch.engine.start(msgspec.structs.replace(rig.good, id=id))
    ready = [await watch.state(id, "ready") for id in ids]
    assert len({status.address for status in ready}) == 3
    watch.engine.stop(ids[1])
    await watch.state(ids[1], "gone")
    assert watch.engine.statistics().replicas == {"ready": 2}
    assert watch.engine.capacity().cpus > 0
    for id in (ids[0], ids[2]):
        watch.engine.stop(id)
        await watch.state(id, "gone")
    await watch.close()


async def _never_starts_without_its_devices(rig: EngineRig) -> None:
    watch = _Watcher(rig)
    await watch.open()
    settings = msgspec.structs.replace(rig.good.settings, gpus=1000.0)
    status = watch.engine.start(msgspec.structs.replace(rig.good, settings=settings))
    if status.state not in ("backoff", "failed"):
        status = await watch.state(rig.good.id, "backoff", "failed")
    assert status.last_exit is not None
    assert status.last_exit.message, "says what is missing"
    watch.engine.stop(rig.good.id)
    await watch.state(rig.good.id, "gone")
    assert not [told for told in watch.history if told.state == "ready"]
    assert watch.engine.statistics().replicas == {}
    await watch.close()
