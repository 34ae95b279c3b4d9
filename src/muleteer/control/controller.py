"""The controller: after every event and every tick, one step from what is observed towards what is declared. Must not
know the supervisor, processes, HTTP or where the declaration comes from: it knows an engine, and gateways that take
snapshots.

It holds nothing that a successor could not find out again, so it may be killed at any moment. A step costs by what
changed, not by what there is: only dirty backends are looked at, and a slow sweep makes all of them dirty in turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.errors import MuleteerError
from muleteer.base.limits import ACKNOWLEDGE_S_MAX, ENGINE_SILENT_S, SIZING_TICK_S, SWEEP_MAX, TICK_S
from muleteer.control.account import Account
from muleteer.control.allot import Allotter
from muleteer.control.autoscale import Autoscaler
from muleteer.control.backend import Backend
from muleteer.control.beyond import too_many_cores, too_much_memory
from muleteer.control.fleet import BackendStatistics, Fleet, Hindrance, Leaving
from muleteer.control.gateway_link import OnAbort
from muleteer.control.problems import Problems
from muleteer.control.publish import Elsewhere, Publisher, PublisherStatistics
from muleteer.control.reasons import explained
from muleteer.control.routes import Routes
from muleteer.control.scaling import Room
from muleteer.control.sizing_view import SizingView
from muleteer.engine.port import Capacity, Engine, EngineStatistics, ReplicaRequest, ReplicaStatus
from muleteer.spec.settings import Declared, ServerSettings


class ControllerStatistics(msgspec.Struct, frozen=True):
    """Everything the controller knows. `problems`: name → message of what does not work now. `settled`: everything
    declared runs, nothing else does, and every gateway knows it. `sizings`: why backends have as many replicas as they
    have, of those that are sized or had calls. `account`: what replicas take of the machine; None before it was asked.
    """

    backends: tuple[BackendStatistics, ...]
    steps: int
    problems: dict[str, str]
    publisher: PublisherStatistics
    engine_name: str
    engine: EngineStatistics
    capacity: Capacity
    settled: bool = False
    sizings: dict[str, SizingView] = {}
    account: Account | None = None


class EngineLostError(MuleteerError):
    """The engine's changes ended: nothing can be observed any more."""


class Controller:
    """Reconciles one server.

    Args:
        run_dir: for the snapshot and the gateways' sockets.
        gateways: names of the gateways.
        notice: says one line to the person in the foreground.
        unservable: told once of a backend that cannot run as declared where it is to run, and why.
        problems: where to report what does not work; None: a place of its own.
        server: the settings that this server was started with; None: those declared.
        cookie_key: see Snapshot.
        awake: backends that may not sleep for now.
        own_pids: of the server's processes that are no replicas; their memory is taken off the budget first.

    Attributes:
        adopted: the engine has told what runs.
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
        problems: Problems | None = None,
        server: ServerSettings | None = None,
        cookie_key: str = "",
        awake: Callable[[], Collection[str]] = tuple,
        own_pids: Callable[[], Collection[int]] = tuple,
        unservable: Callable[[str, Hindrance], None] = lambda _backend, _hindrance: None,
    ) -> None:
        self.declared = Declared()
        self._engine = engine
        self._notice = notice
        self._clock = clock
        self._server = server if server is not None else declared.server
        self._wake = asyncio.Event()
        self.adopted = asyncio.Event()
        self.problems = problems if problems is not None else Problems()
        self.publisher = Publisher(run_dir, gateways, self.problems, self._wake.set, self._demanded)
        self._autoscaler = Autoscaler()
        self._allotter = Allotter(engine.capacity, self._autoscaler)
        self._awake = awake
        self._own_pids = own_pids
        self._unservable = unservable
        self._told_unservable: set[str] = set()
        self._unkept: set[str] = set()
        self._unallotted = True
        self._routes = Routes(cookie_key)
        self._fleets: dict[str, Fleet] = {}
        self._leaving: dict[str, Leaving] = {}
        self._numbers_used: dict[str, int] = {}  # of fleets that are gone
        self._dirty: dict[str, None] = {}  # a set that keeps its order
        self._unpublished = True
        self._to_sweep: deque[str] = deque()
        self._tick_at = 0.0
        self._steps = 0
        self.declare(declared)

    async def run(self, on_answering: Callable[[], None]) -> None:
        """Adopt what runs, publish, and go on until cancelled. Raises EngineLostError.

        `on_answering` is called once: then questions can be answered. That is when all is published, or after
        ENGINE_SILENT_S of an engine that cannot tell what runs: until it does nothing is started, ended or published.
        """
        self.publisher.open()
        opening = asyncio.ensure_future(self._engine.open())
        try:
            told, _ = await asyncio.wait({opening}, timeout=ENGINE_SILENT_S)
            if not told:
                on_answering()
            for status in await opening:
                self._observe(status)
            self.adopted.set()
            self._recall()
            self._guarded("memory", self._look)
            self.step()
            if told:
                on_answering()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_engine())
                tasks.create_task(self._step_for_ever())
                tasks.create_task(self._size_for_ever())
        finally:
            opening.cancel()
            await self.publisher.close()

    def declare(self, declared: Declared) -> None:
        """From now on this is declared. Takes effect with the next step, which is at once."""
        before, self.declared = {spec.name: spec for spec in self.declared.backends}, declared
        changed = [spec for spec in declared.backends if before.pop(spec.name, None) != spec]
        for spec in changed:
            self._fleet(spec.name).declare(spec)
            self._dirty[spec.name] = None
        for name in before:
            self._fleets[name].declare(None)
            self._dirty[name] = None
        self._autoscaler.declare(changed, before, lambda name: self._fleets[name].count(), self._clock.now())
        self._unallotted = True
        self._routes.declare(declared)
        self._unpublished = True
        self._wake.set()

    def follow_gateways(self, elsewhere: Sequence[Elsewhere], on_abort: OnAbort) -> None:
        """These are the gateways on other machines; `on_abort` is told of replicas that one of them finds hung."""
        if self.publisher.follow(elsewhere, on_abort):
            self._unpublished = True
            self._wake.set()

    def retry(self, name: str) -> list[str] | None:
        """Start the failed replicas of a backend afresh; their ids, or None if there is no such backend."""
        fleet = self._fleets.get(name)
        if fleet is None or fleet.backend is None:
            return None
        failed = [status.id for status in fleet.statuses() if status.state == "failed"]
        for id in failed:
            self._engine.retry(id)
        return failed

    def backend_statistics(self, name: str) -> BackendStatistics | None:
        """One declared backend; None if there is none of this name."""
        fleet = self._fleets.get(name)
        if fleet is None or fleet.backend is None:
            return None
        return fleet.statistics(self._clock.now(), observed=self.adopted.is_set())

    def step(self) -> None:
        """One step. What fails in one part of it is reported in `problems` and does not keep the rest from running."""
        now = self._clock.now()
        self._wake.clear()
        self._steps += 1
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._sweep(now)
            self.publisher.retry()
        if self._unallotted or any(self._fleets[name].short() for name in self._dirty if name in self._fleets):
            self._guarded("budget", partial(self._allot, now))
        dirty, self._dirty = self._dirty, {}
        for name in dirty:
            if not self._guarded(f"reconcile {name}", partial(self._reconcile, name, now)):
                self._dirty[name] = None
        if self._unpublished:
            self._guarded("publish", self._publish)
        if self._leaving:
            self._guarded("stop", partial(self._stop_leaving, now))

    def statistics(self) -> ControllerStatistics:
        """A frozen snapshot."""
        now = self._clock.now()
        fleets = list(self._fleets.values())
        publisher = self.publisher.statistics()
        adopted = self.adopted.is_set()
        published = adopted and not self._unpublished and self.publisher.acknowledged(publisher.revision)
        return ControllerStatistics(
            backends=tuple(
                self._fleets[spec.name].statistics(now, observed=adopted) for spec in self.declared.backends
            ),
            steps=self._steps,
            problems=self.problems.statistics(),
            publisher=publisher,
            engine_name=self._engine.name,
            engine=self._engine.statistics(),
            capacity=self._engine.capacity(),
            settled=published and not self._dirty and all(fleet.settled() for fleet in fleets),
            sizings={name: view for name in self._fleets if (view := self._sizing(name)) is not None},
            account=self._allotter.account(now, fleets),
        )

    def _sizing(self, name: str) -> SizingView | None:
        fleet, sized, measure = self._fleets[name], self._autoscaler.sized(name), self._autoscaler.measure(name)
        if fleet.backend is None or (sized is None and measure is None and not fleet.replicas):
            return None  # nothing is known of it: one of thousands that sleep
        start_s = self._autoscaler.startups.expected_s(name, fleet.backend.fingerprint)
        memory_bytes = self._allotter.memory_bytes(fleet)
        view = explained(fleet.backend.spec, sized, measure, start_s, memory_bytes=memory_bytes, now=self._clock.now())
        granted = fleet.wanted if fleet.granted is None else min(fleet.wanted, fleet.granted)
        return msgspec.structs.replace(view, wanted=granted, grant=fleet.grant, room=Room(self._autoscaler.cores))

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

    async def _size_for_ever(self) -> None:
        while True:
            loads = await self.publisher.gateway_loads()
            self._guarded("sizing", partial(self._size, loads))
            await asyncio.sleep(SIZING_TICK_S)

    def _size(self, loads: dict[str, dict[str, Any]] | None) -> None:
        """Decide how many replicas there should be, from what the gateways told; None: one of them told nothing."""
        now, autoscaler = self._clock.now(), self._autoscaler
        self._look()
        changed = autoscaler.keep_awake(self._awake())
        if loads is not None:
            for gateway, told in loads.items():
                autoscaler.take(gateway, told, now)
            autoscaler.cores = self._allotter.budget.cores if self._allotter.budget is not None else None
            changed += autoscaler.tick(
                now,
                lambda name: self._fleets[name].present(now),
                lambda name: self._allotter.memory_bytes(self._fleets[name]),
            )
            self._tell_unkept(autoscaler.unkept)
        self._resized(changed)
        starting = autoscaler.startups.under_way & self._fleets.keys()
        self._dirty.update(dict.fromkeys(starting))  # what a start is expected to take may grow
        self._unallotted = True
        self._wake.set()

    def _look(self) -> None:
        """Measure what runs: what nobody has measured counts as nothing."""
        self._allotter.look(self._clock.now(), self._fleets.values(), self._own_pids())

    def _tell_unkept(self, unkept: dict[str, str]) -> None:
        for name in self._unkept - unkept.keys():
            self.problems.end(f"slo of {name}")
        for name, why in unkept.items():
            self.problems.begin(f"slo of {name}", f"{why}: `muleteer explain {name}` tells more")
        self._unkept = set(unkept)

    def _tell_unservable(self, fleet: Fleet) -> None:
        hindrance = fleet.hindrance(elsewhere=self._server.engine != "local")
        if hindrance is None:
            self._told_unservable.discard(fleet.name)
        elif fleet.name not in self._told_unservable:
            self._told_unservable.add(fleet.name)
            self._unservable(fleet.name, hindrance)

    def _demanded(self, names: list[str]) -> None:
        """Calls came for backends that no replica serves."""
        self._resized(self._autoscaler.demand(names, self._clock.now()))

    def _resized(self, names: list[str]) -> None:
        for name in names:
            fleet = self._fleets[name]
            self._dirty[name] = None
            if fleet.backend is not None:
                fleet.wanted = self._autoscaler.wanted(fleet.backend.spec)
        if names:
            self._wake.set()

    def _recall(self) -> None:
        """What an earlier controller knew and is worth keeping: how many run, and how long starts take."""
        for route in self.publisher.last.backends:
            if route.start_s is not None:
                self._autoscaler.startups.recall(route.name, route.start_s)
        for name, fleet in self._fleets.items():
            self._autoscaler.keep(name, fleet.count(), self._clock.now())

    def _allot(self, now: float) -> None:
        """Ask the budget who may have how many replicas, and drain those that it gives up."""
        self._unallotted = False
        for fleet in self._fleets.values():
            if fleet.backend is not None:
                fleet.wanted = self._autoscaler.wanted(fleet.backend.spec)
        allocation = self._allotter.allocate(now, self._fleets)
        victims = set(allocation.victims)
        for name, fleet in self._fleets.items():
            waiting = self._autoscaler.waited_s(name, now) > 0
            if fleet.backend is not None and fleet.allot(allocation, waiting=waiting, now=now):
                self._dirty[name] = None
            for id in victims & fleet.replicas.keys():
                self._drain(fleet, id, now)
                if not fleet.serving():
                    self._autoscaler.given_up(name, now)
        capacity = self._engine.capacity()
        for about, problem in (
            ("memory budget", allocation.problem),
            ("declared memory", too_much_memory(self._server.memory_budget, capacity)),
            ("declared cores", too_many_cores(self.declared.backends, capacity)),
        ):
            if problem is None:
                self.problems.end(about)
            else:
                self.problems.begin(about, problem)

    def _guarded(self, name: str, part: Callable[[], None]) -> bool:
        """The boundary of the control step: an error becomes visible state, and the next step tries again."""
        try:
            part()
        except Exception as error:  # noqa: BLE001
            self.problems.begin(name, f"{type(error).__name__}: {error}")
            return False
        self.problems.end(name)
        return True

    def _fleet(self, name: str) -> Fleet:
        fleet = self._fleets.get(name)
        if fleet is None:
            fleet = self._fleets[name] = Fleet(name, self._leaving, self._numbers_used.pop(name, 0))
        return fleet

    def _observe(self, status: ReplicaStatus) -> None:
        now = self._clock.now()
        self._fleet(status.backend).observe(status, now)
        self._autoscaler.startups.observe(status, now)
        self._dirty[status.backend] = None
        self._unallotted = self._unallotted or status.state == "gone"  # there is room for others

    def _sweep(self, now: float) -> None:
        """Look at some backends whatever was told of them, so that each comes round."""
        if not self._to_sweep:
            self._to_sweep.extend(self._fleets)
        for _ in range(min(SWEEP_MAX, len(self._to_sweep))):
            name = self._to_sweep.popleft()
            fleet = self._fleets.get(name)
            if fleet is None:
                continue
            self._dirty[name] = None
            if self.declared.server.reload and fleet.backend is not None:
                self._guarded(f"files of {name}", partial(fleet.backend.look_at_files, now, self._notice))
            if fleet.replicas:
                self._guarded(f"memory of {name}", partial(fleet.measure, now, self._notice))

    def _reconcile(self, name: str, now: float) -> None:
        fleet = self._fleets[name]
        action = fleet.plan()
        for id in action.drain:
            self._drain(fleet, id, now)
        if action.makes_way:
            last = "" if any(each.state == "ready" for each in fleet.serving()) else "; until it is ready calls wait"
            self._notice(f"{action.makes_way} makes way for its replacement: there is no room for both{last}")
        if fleet.backend is None:
            if not fleet.replicas:
                del self._fleets[name]
                self._told_unservable.discard(name)
                self._numbers_used[name] = fleet.numbers_used
            return
        for _ in range(action.start):
            self._start(fleet, fleet.backend, now)
        refused, unplaced = fleet.refused is not None, fleet.unplaced
        start_s = fleet.start_s(self._autoscaler.startups, now)
        if self._routes.observe(
            fleet.backend.spec, fleet.serving(), refused=refused, unplaced=unplaced, start_s=start_s
        ):
            self._unpublished = True
        self._tell_unservable(fleet)
        fleet.backend.report_reload(now, fleet.statuses(), fleet.wanted, self._notice)

    def _start(self, fleet: Fleet, backend: Backend, now: float) -> None:
        status = self._engine.start(self._request(fleet, backend))
        self._autoscaler.startups.begun(status.id, fleet.name, backend.fingerprint, now)
        self._allotter.started(fleet, status.id)
        fleet.observe(status, now)

    def _drain(self, fleet: Fleet, id: str, now: float) -> None:
        fleet.leave(id, now)
        self._unpublished = True  # one that no gateway knew of leaves like any other
        self._dirty[fleet.name] = None  # there may be room now

    def _request(self, fleet: Fleet, backend: Backend) -> ReplicaRequest:
        return ReplicaRequest(
            id=fleet.next_id(),
            backend=fleet.name,
            generation=backend.generation,
            fingerprint=backend.fingerprint,
            target=backend.spec.target,
            base_dir=backend.spec.base_dir,
            settings=backend.spec.settings,
            debug=self._server.debug,
            grace_s=self._server.grace,
        )

    def _publish(self) -> None:
        revision = self.publisher.publish(self._routes.snapshot())
        self._unpublished = False
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
