"""What several gateways change: on this machine with processes, and in virtual time where its cores would hide it.

The simulation runs the real dispatchers, links, frames and sessions with a clock that jumps: gateways before replicas
that work on one call at a time, a message between them taking TRIP_S. A gateway spends `cpu_s` on each request and does
nothing else meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import measure, wrk
from bench.load import quantile
from bench.report import Figure, Section, median
from bench.sections import MODELS, REPLICAS, of
from bench.server import Server
from muleteer.base.errors import RequestError
from muleteer.base.limits import TICK_S
from muleteer.gateway.call import Priority
from muleteer.gateway.dispatch import Dispatcher
from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.http.respond import render_error
from muleteer.gateway.link import Link, LinkOwner
from muleteer.gateway.shared import Shared
from muleteer.gateway.versions import Version
from muleteer.gateway.way import Way
from muleteer.replica.answer import Answer
from muleteer.replica.session import Ready, Session
from muleteer.replica.sharing import Sharing
from muleteer.spec.snapshot import BackendRoute, ReplicaAddress
from muleteer.testing.clock import FakeClock
from muleteer.wire.frames import FrameType, join_payload

TRIP_S = 0.0001
"""From one process to another: what a woken process takes on this machine."""
DEADLINE_S = 10.0
COUNTS = (1, 2, 4)
SIMULATED = {"replicas": 8, "service_s": 0.005, "calls": 20_000}
LOADS = (0.5, 0.8, 0.95)


class Seen(NamedTuple):
    """What came of a run. `answers_s`: from arrival to answer; `lost_s`: the longest time that a call stood at a busy
    replica while another idled; `refused`: calls without an answer; `took_s`: from the first arrival to the end.
    """

    answers_s: list[float]
    lost_s: float
    refused: int
    took_s: float


class _World:
    """The clock, what is to come, and everybody."""

    def __init__(self, gateways: int, replicas: int, service_s: Callable[[], float], *, told: bool) -> None:
        self.clock = FakeClock()
        self.service_s = service_s
        self.told = told
        self.lost_s = 0.0
        self._lost_since_s: float | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.replicas = [_Replica(self, f"m-{number}") for number in range(replicas)]
        self.fronts = [_Front(self, gateways if told else 1) for _ in range(gateways)]

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.now() + seconds, next(self._order), what))

    def run(self, seconds: float) -> None:
        until_s = self.clock.now() + seconds
        while self._events and self._events[0][0] <= until_s:
            when_s, _, what = heapq.heappop(self._events)
            self.clock.advance(max(0.0, when_s - self.clock.now()))
            what()
        self.clock.advance(max(0.0, until_s - self.clock.now()))

    def changed(self) -> None:
        """At a replica: whether a call stands at one while another idles."""
        lost = any(replica.stands for replica in self.replicas) and any(replica.idle for replica in self.replicas)
        now = self.clock.now()
        if lost and self._lost_since_s is None:
            self._lost_since_s = now
        elif not lost and self._lost_since_s is not None:
            self.lost_s = max(self.lost_s, now - self._lost_since_s)
            self._lost_since_s = None


class _Replica:
    """One call at a time, links in turns: `serve_sync` without its sockets."""

    def __init__(self, world: _World, id: str) -> None:
        self.id = id
        self._world = world
        self._links: deque[tuple[Session, Link]] = deque()
        self._running: Session | None = None
        self._sharing = Sharing()

    @property
    def idle(self) -> bool:
        return self._running is None

    @property
    def stands(self) -> bool:
        return self._running is not None and any(session.has_work for session, _ in self._links)

    def accept(self, link: Link) -> Session:
        session = Session(Ready("m", self.id, 1, 1), payload_max=2**20)
        self._links.append((session, link))
        return session

    def receive(self, session: Session, data: bytes) -> None:
        session.receive(data, self._world.clock.now())
        if self._running is None:
            self._next()
        self._flush()
        self._world.changed()

    def _next(self) -> None:
        for _ in range(len(self._links)):
            session, _ = self._links[0]
            self._links.rotate(-1)
            calls = session.next_batch(self._world.clock.now())
            if calls:
                self._running = session
                self._tell()
                took_s = self._world.service_s()
                self._world.after(took_s, partial(self._done, session, calls, took_s))
                return
        self._tell()

    def _done(self, session: Session, calls: list[Any], took_s: float) -> None:
        self._running = None
        self._sharing.took(took_s)
        answers = [Answer(FrameType.REPLY, join_payload(b"", call.body), int(took_s * 1e6)) for call in calls]
        session.settle(calls, answers)
        self._next()
        self._flush()
        self._world.changed()

    def _tell(self) -> None:
        if self._world.told and len(self._links) > 1:
            sessions = [session for session, _ in self._links]
            self._sharing.tell(sessions, [int(session is self._running) for session in sessions])

    def _flush(self) -> None:
        for session, link in self._links:
            if data := session.take():
                self._world.after(TRIP_S, partial(link.data_received, data))


class _Wire:
    """One gateway's dialer of one replica, and the transport of its link."""

    def __init__(self, world: _World, replica: _Replica, address: ReplicaAddress, owner: LinkOwner) -> None:
        self.address = address
        self.link: Link | None = None
        self._world, self._replica, self._owner = world, replica, owner

    def open(self) -> None:
        self.link = Link(
            backend="m", replica=self._replica.id, gateway="g", payload_max=2**20, owner=self._owner,
            clock=self._world.clock,
        )  # fmt: skip
        self._session = self._replica.accept(self.link)
        self.link.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self._world.after(TRIP_S, lambda: self._replica.receive(self._session, data))

    def retire(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class _Front:
    """One gateway: a dispatcher, and the time that each request takes of it."""

    def __init__(self, world: _World, gateways: int) -> None:
        self._world = world
        self._free_s = 0.0
        shared = Shared(
            clock=world.clock, abort=lambda *_: None, render=render_error, place=_nowhere, later=_later(world)
        )
        replicas = {replica.id: replica for replica in world.replicas}
        route = BackendRoute(name="m", replicas=tuple(ReplicaAddress(id, f"unix:/{id}") for id in replicas))
        self.dispatcher = Dispatcher(
            route, shared, lambda address, owner: _Wire(world, replicas[address.id], address, owner)
        )
        self.dispatcher.gate.capacity.divide(gateways)
        self.dispatcher.update(route)
        self._way = Way(self.dispatcher, Version())
        self._tick()

    def _tick(self) -> None:
        self.dispatcher.links.abort_hung(self._world.clock.now())
        self._world.after(TICK_S, self._tick)

    def take(self, cpu_s: float, respond: Callable[[Response], None]) -> None:
        """A request has arrived."""
        now = self._world.clock.now()
        self._free_s = max(now, self._free_s) + cpu_s
        self._world.after(self._free_s - now, lambda: self._begin(now, respond))

    def _begin(self, received_s: float, respond: Callable[[Response], None]) -> None:
        head = Head(
            method="POST", path="/", query=b"", headers={}, content_length=2, request_id="r", client="c",
            received_s=received_s, respond=respond,
        )  # fmt: skip
        try:
            call = self.dispatcher.begin(
                head, self._way, deadline_s=received_s + DEADLINE_S, priority=Priority.NORMAL, body_max=2
            )
        except RequestError as error:
            respond(render_error(error, "r"))
        else:
            call.run(b"{}")


def simulate(
    *,
    gateways: int,
    replicas: int,
    service_s: float,
    load: float,
    calls: int,
    seed: int,
    cpu_s: float = 0.0,
    told: bool = True,
) -> Seen:
    """So many `calls`, Poisson arrivals at `load` of what the replicas can do, exponential services, each request to a
    random gateway, which spends `cpu_s` on it. Without `told` replicas are silent, as if each gateway were alone.
    """
    dice, services = random.Random(seed), random.Random(seed + 1)
    world = _World(gateways, replicas, lambda: services.expovariate(1 / service_s), told=told)
    world.run(0.1)
    answers: list[float] = []
    refused, begun_s, last_s = 0, world.clock.now(), 0.0

    def responded(sent_s: float, response: Response) -> None:
        nonlocal refused, last_s
        last_s = world.clock.now() - begun_s
        if response.status == 200:
            answers.append(world.clock.now() - sent_s)
        else:
            refused += 1

    def arrive(left: int) -> None:
        now = world.clock.now()
        dice.choice(world.fronts).take(cpu_s, lambda response: responded(now, response))
        if left:
            world.after(dice.expovariate(load * replicas / service_s), lambda: arrive(left - 1))

    arrive(calls - 1)
    world.run(calls * service_s / replicas / load + 5 * DEADLINE_S)
    assert len(answers) + refused == calls, f"{len(answers)} answers and {refused} refusals of {calls} calls"
    return Seen(answers, world.lost_s, refused, last_s)


def _later(world: _World) -> Callable[[float, Callable[[], None]], Any]:
    """Timers in virtual time; nothing here cancels one."""
    return world.after


def _nowhere(_head: Head, _body: bytes) -> Any:
    raise NotImplementedError


def section(folder: Path, dice: random.Random, *, rounds: int, seconds: int) -> Section:
    """One gateway and two, in turns; then in virtual time."""
    found = Section(
        "Several gateways",
        f"{REPLICAS} replicas behind one gateway and behind two; wrk with 64 connections, in turns. Where cores are "
        "busy another gateway adds nothing, so the CPU of a request counts. Then simulated, a core for everybody: "
        f"{SIMULATED['replicas']} replicas, services exponential around 5 ms, Poisson arrivals, {TRIP_S * 1e6:.0f} µs "
        "between processes; lost: the longest time that a call stood at a busy replica while another idled. Last, more "
        "requests than one gateway has CPU for.",
    )
    spent: dict[str, float] = {}
    for model in ("DoNothing", "FancyModel"):
        _measured(found, folder, model, spent, rounds=rounds, seconds=seconds)
    seed = dice.randrange(10**6)
    for load in LOADS:
        alone_s = 0.0
        for gateways in COUNTS:
            seen = simulate(gateways=gateways, load=load, seed=seed, **SIMULATED)  # type: ignore[arg-type]
            p99_s = quantile(seen.answers_s, 0.99)
            alone_s = alone_s or p99_s
            name = f"simulated, {load:.0%} load, {gateways} of them"
            found.add(
                Figure(f"{name}: p99", 1e3 * p99_s, "ms"), Figure(f"{name}: p99 ÷ that of one", p99_s / alone_s, "")
            )
            if gateways > 1:
                found.add(Figure(f"{name}: lost", 1e3 * seen.lost_s, "ms", target=1.0))
        blind = simulate(gateways=2, load=load, seed=seed, told=False, **SIMULATED)  # type: ignore[arg-type]
        name = f"simulated, {load:.0%} load, 2 that hear nothing of each other"
        found.add(
            Figure(f"{name}: p99 ÷ that of one", quantile(blind.answers_s, 0.99) / alone_s, ""),
            Figure(f"{name}: lost", 1e3 * blind.lost_s, "ms"),
        )
    cpu_s = spent["gateway"]
    more = {"replicas": 64, "service_s": 0.002, "calls": 10_000, "load": 1.5 / cpu_s * 0.002 / 64}
    one_s = 0.0
    for gateways in COUNTS:
        seen = simulate(gateways=gateways, seed=seed, cpu_s=cpu_s, **more)  # type: ignore[arg-type]
        one_s = one_s or seen.took_s
        name = f"simulated, 1.5 × what one can do, {gateways} of them"
        found.add(
            Figure(f"{name}: requests/s ÷ those of one", one_s / seen.took_s, ""),
            Figure(f"{name}: p99", 1e3 * quantile(seen.answers_s, 0.99), "ms"),
        )
    return found


def _measured(found: Section, folder: Path, model: str, spent: dict[str, float], *, rounds: int, seconds: int) -> None:
    """The real ones, before one model."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    p99s: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[tuple[int, str], list[float]] = {(n, role): [] for n in rates for role in ("gateway", "replica")}
    with ExitStack() as stack:
        servers = {}
        for number in rates:
            place = folder / f"{model}{number}"
            place.mkdir()
            options = ("--route", "/predict", "--replicas", str(REPLICAS), "--gateways", str(number))
            servers[number] = stack.enter_context(Server(place, f"{MODELS}:{model}", *options))
        for turn in range(rounds + 1):
            for number, server in servers.items():
                pids = {role: server.pids(role) for role in ("gateway", "replica")}
                before = {role: measure.cpu_s(each) for role, each in pids.items()}
                figures = wrk.run(f"http://127.0.0.1:{server.port}/predict", connections=64, seconds=seconds)
                if turn == 0:
                    continue  # until services are known
                rates[number].append(figures.rate)
                p99s[number].append(figures.p99_us / 1e3)
                for role, start in before.items():
                    used = measure.cpu_s(pids[role]) - start
                    cpu[number, role].append(1e6 * used / max(1, figures.requests))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    found.add(of(f"{model}: requests/s of two ÷ of one", "", ratios))
    for number, rate in rates.items():
        found.add(
            of(f"{model}, {number}: requests", "/s", rate),
            of(f"{model}, {number}: p99", "ms", p99s[number]),
            of(f"{model}, {number}: CPU of the gateways", "µs a request", cpu[number, "gateway"]),
            of(f"{model}, {number}: CPU of the replicas", "µs a request", cpu[number, "replica"]),
        )
    spent.setdefault("gateway", median(cpu[1, "gateway"]) / 1e6)
