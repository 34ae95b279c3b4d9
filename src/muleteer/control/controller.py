"""The controller: after every event and every tick, one step from what is observed towards what is declared. Must not
know the supervisor, processes or HTTP: it knows an engine, and gateways that take snapshots.

It holds nothing that a successor could not find out again, so it may be killed at any moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.errors import MuleteerError
from muleteer.base.limits import ACKNOWLEDGE_S_MAX, TICK_S
from muleteer.control.backend import Backend, replica_number
from muleteer.control.problems import Problems
from muleteer.control.proc import resident_bytes
from muleteer.control.publish import Publisher, PublisherStatistics
from muleteer.control.reconcile import Condition, Seen, Wanted, plan
from muleteer.control.routes import snapshot
from muleteer.control.wear import Measured, Wear
from muleteer.engine.port import Capacity, Engine, EngineStatistics, ReplicaRequest, ReplicaState, ReplicaStatus
from muleteer.spec.settings import Declared
from muleteer.spec.units import format_bytes

_CONDITIONS: dict[ReplicaState, Condition] = {
    "starting": "starting",
    "backoff": "starting",
    "ready": "ready",
    "failed": "failed",
}


class Observed(msgspec.Struct):
    """One replica: what the engine told last, when its state began (controller's clock), and its memory."""

    status: ReplicaStatus
    since_s: float
    rss_bytes: int | None = None


class Leaving(msgspec.Struct):
    """A replica on its way out: no snapshot names it, the gateways acknowledge that, then it is stopped.

    Attributes:
        since_s: when that was decided.
        revision: the first snapshot without it; None until published.
        stopped: whether the engine was told.
    """

    since_s: float
    revision: int | None = None
    stopped: bool = False


class ReplicaStatistics(msgspec.Struct, frozen=True):
    """One replica as the controller sees it. `state_s`: seconds in its state."""

    status: ReplicaStatus
    state_s: float
    rss_bytes: int | None
    leaving: bool
    worn: bool


class BackendStatistics(msgspec.Struct, frozen=True):
    """One declared backend."""

    name: str
    generation: int
    wanted: int
    replicas: tuple[ReplicaStatistics, ...]


class ControllerStatistics(msgspec.Struct, frozen=True):
    """Everything the controller knows. `problems`: name → message of what does not work now."""

    backends: tuple[BackendStatistics, ...]
    steps: int
    problems: dict[str, str]
    publisher: PublisherStatistics
    engine_name: str
    engine: EngineStatistics
    capacity: Capacity


class EngineLostError(MuleteerError):
    """The engine's changes ended: nothing can be observed any more."""


class Controller:
    """Reconciles one server.

    Args:
        run_dir: for the snapshot and the gateways' sockets.
        gateways: names of the gateways.
        notice: says one line to the person in the foreground.
    """

    def __init__(
        self,
        declared: Declared,
        engine: Engine,
        *,
        run_dir: str,
        gateways: tuple[str, ...],
        notice: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.declared = declared
        self._engine = engine
        self._notice = notice
        self._clock = clock
        self._wake = asyncio.Event()
        self.problems = Problems()
        self.publisher = Publisher(run_dir, gateways, self.problems, self._wake.set)
        self._backends = {spec.name: Backend(spec) for spec in declared.backends}
        self._replicas: dict[str, Observed] = {}
        self._leaving: dict[str, Leaving] = {}
        self._wear = Wear()
        self._tick_at = 0.0
        self._steps = 0

    async def run(self, on_published: Callable[[], None]) -> None:
        """Adopt what runs, publish, call `on_published`, and go on until cancelled. Raises EngineLostError."""
        for status in await self._engine.open():
            self._observe(status)
        self.publisher.open()
        try:
            self.step()
            on_published()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_engine())
                tasks.create_task(self._step_for_ever())
        finally:
            await self.publisher.close()

    def retry(self, name: str) -> list[str] | None:
        """Start the failed replicas of a backend afresh; their ids, or None if there is no such backend."""
        if name not in self._backends:
            return None
        failed = [seen.status.id for seen in self._of(name) if seen.status.state == "failed"]
        for id in failed:
            self._engine.retry(id)
        return failed

    def step(self) -> None:
        """One step. What fails in one part of it is reported in `problems` and does not keep the rest from running."""
        now = self._clock.now()
        self._wake.clear()
        self._steps += 1
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            for backend in self._backends.values():
                self._guarded(f"files of {backend.spec.name}", partial(self._look_at_files, backend, now))
                self._guarded(f"memory of {backend.spec.name}", partial(self._measure, backend, now))
        for name in dict.fromkeys((*self._backends, *(seen.status.backend for seen in self._replicas.values()))):
            self._guarded(f"reconcile {name}", partial(self._reconcile, name, now))
        self._guarded("publish", self._publish)
        self._guarded("stop", partial(self._stop_leaving, now))
        for backend in self._backends.values():
            replicas = [seen.status for seen in self._of(backend.spec.name)]
            self._guarded("notices", partial(backend.report_reload, now, replicas, self._notice))

    def statistics(self) -> ControllerStatistics:
        """A frozen snapshot."""
        now = self._clock.now()
        return ControllerStatistics(
            backends=tuple(self._backend_statistics(backend, now) for backend in self._backends.values()),
            steps=self._steps,
            problems=self.problems.statistics(),
            publisher=self.publisher.statistics(),
            engine_name=self._engine.name,
            engine=self._engine.statistics(),
            capacity=self._engine.capacity(),
        )

    async def _follow_engine(self) -> None:
        async for status in self._engine.changes():
            self._observe(status)
            self._wake.set()
        raise EngineLostError("the engine tells nothing any more")

    async def _step_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self.step()

    def _guarded(self, name: str, part: Callable[[], None]) -> None:
        """The boundary of the control step: an error becomes visible state, and the next step tries again."""
        try:
            part()
        except Exception as error:  # noqa: BLE001
            self.problems.begin(name, f"{type(error).__name__}: {error}")
        else:
            self.problems.end(name)

    def _observe(self, status: ReplicaStatus) -> None:
        if status.state == "gone":
            self._replicas.pop(status.id, None)
            self._leaving.pop(status.id, None)
            self._wear.forget(status.id)
            return
        self._replicas[status.id] = Observed(status, self._clock.now() - status.since_s)
        backend = self._backends.get(status.backend)
        if backend is not None:
            backend.observe(status)

    def _of(self, name: str) -> list[Observed]:
        return [seen for seen in self._replicas.values() if seen.status.backend == name]

    def _staying(self, name: str) -> list[Observed]:
        return [
            seen for seen in self._of(name) if seen.status.id not in self._leaving and seen.status.state in _CONDITIONS
        ]

    def _look_at_files(self, backend: Backend, now: float) -> None:
        if self.declared.server.reload:
            backend.look_at_files(now, self._notice)

    def _measure(self, backend: Backend, now: float) -> None:
        for seen in self._of(backend.spec.name):
            seen.rss_bytes = resident_bytes(seen.status.pid) if seen.status.pid is not None else None
        max_rss = backend.spec.settings.max_rss
        worn = self._wear.examine(
            max_rss,
            (
                Measured(seen.status, now - seen.since_s if seen.status.state == "ready" else 0.0, seen.rss_bytes)
                for seen in self._staying(backend.spec.name)
            ),
        )
        if worn is not None and worn.rss_bytes is not None and max_rss is not None:
            size, bound = format_bytes(worn.rss_bytes), format_bytes(max_rss)
            self._notice(f"replacing {worn.replica.id}: it holds {size}, more than max_rss {bound}")

    def _reconcile(self, name: str, now: float) -> None:
        backend = self._backends.get(name)
        wanted = Wanted(backend.spec.settings.replicas, backend.generation) if backend is not None else Wanted(0, 0)
        action = plan(wanted, tuple(self._seen(seen.status) for seen in self._staying(name)))
        for id in action.drain:
            self._leaving[id] = Leaving(now)
        if backend is not None:
            for _ in range(action.start):
                self._observe(self._engine.start(self._request(backend)))

    def _seen(self, status: ReplicaStatus) -> Seen:
        return Seen(
            id=status.id,
            number=replica_number(status.id),
            generation=status.generation,
            condition=_CONDITIONS[status.state],
            worn=self._wear.worn(status.id),
        )

    def _request(self, backend: Backend) -> ReplicaRequest:
        return ReplicaRequest(
            id=backend.next_id(),
            backend=backend.spec.name,
            generation=backend.generation,
            target=backend.spec.target,
            base_dir=backend.spec.base_dir,
            settings=backend.spec.settings,
            debug=self.declared.server.debug,
            grace_s=self.declared.server.grace,
        )

    def _publish(self) -> None:
        content = snapshot(self.declared, (seen.status for seen in self._replicas.values()), leaving=self._leaving)
        revision = self.publisher.publish(content)
        for leaving in self._leaving.values():
            if leaving.revision is None:
                leaving.revision = revision

    def _stop_leaving(self, now: float) -> None:
        for id, leaving in self._leaving.items():
            if leaving.stopped or leaving.revision is None:
                continue
            if self.publisher.acknowledged(leaving.revision) or now - leaving.since_s >= ACKNOWLEDGE_S_MAX:
                leaving.stopped = True
                self._engine.stop(id)

    def _backend_statistics(self, backend: Backend, now: float) -> BackendStatistics:
        return BackendStatistics(
            name=backend.spec.name,
            generation=backend.generation,
            wanted=backend.spec.settings.replicas,
            replicas=tuple(
                ReplicaStatistics(
                    status=seen.status,
                    state_s=max(0.0, now - seen.since_s),
                    rss_bytes=seen.rss_bytes,
                    leaving=seen.status.id in self._leaving or seen.status.state == "stopping",
                    worn=self._wear.worn(seen.status.id),
                )
                for seen in self._of(backend.spec.name)
            ),
        )
