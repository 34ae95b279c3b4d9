"""What many endpoints cost: a request among thousands of backends beside one alone, and taking in such a snapshot.

In one process and without sockets, so that a microsecond can be seen: the gateway's own application, dispatchers, links
and frames; the replicas are a few lines in memory that echo.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import Callable

import msgspec
import uvloop

from bench.report import Figure, Section, median
from muleteer.gateway.application import Application
from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.link import Link
from muleteer.gateway.routing import Context, Routes
from muleteer.gateway.steering import Steering
from muleteer.gateway.versions import EndpointCounts
from muleteer.gateway.way import Mirror
from muleteer.spec.snapshot import BackendRoute, EndpointRoute, ReplicaAddress, Snapshot
from muleteer.wire.connection import Connection, Role
from muleteer.wire.frames import FrameType
from muleteer.wire.lines import LineDecoder, encode_line

ENDPOINTS, VERSIONS = 1000, 3
BATCH = 2000
BODY = b'{"nonce": 7}'
PAYLOAD_MAX = 2**20
_ROUTING = ("routing, alone", "routing, among", "routing, more among many")
_PAIRS = 20


class Echo:
    """A replica with its link and the transport between them."""

    def __init__(self, address: ReplicaAddress, new_link: Callable[[str], Link]) -> None:
        self.address = address
        self.link: Link | None = None
        self._new_link = new_link
        self._wire = Connection(Role.REPLICA, payload_max=PAYLOAD_MAX)
        self._received: list[bytes] = []

    def open(self) -> None:
        """Connect and introduce."""
        link = self.link = self._new_link(self.address.id)
        link.connection_made(self)
        self._wire.receive(self._received.pop())
        backend = self.address.id.rpartition("-")[0]
        ready = {"backend": backend, "replica": self.address.id, "pid": 1, "concurrency": 1}
        link.data_received(self._wire.send(FrameType.READY, payload=msgspec.json.encode(ready)))

    def answer(self) -> None:
        """Every call that was written."""
        assert self.link is not None
        for data in self._received:
            for frame in self._wire.receive(data):
                self.link.data_received(self._wire.send(FrameType.REPLY, id=frame.id, budget=5, payload=frame.payload))
        self._received.clear()

    def retire(self) -> None:
        """No more calls."""

    async def close(self) -> None:
        """The end."""

    def write(self, data: bytes) -> None:
        """From the link."""
        self._received.append(data)


class Rig:
    """A gateway in front of echoes, with `endpoints` of `versions` backends each, all of them ready."""

    def __init__(self, endpoints: int, versions: int) -> None:
        self.echoes: dict[str, Echo] = {}
        self.paths = [f"/e{number}".encode() for number in range(endpoints)]
        self.application = new_application(self._dial)
        published = snapshot(endpoints, versions, replicas=1)
        self.application.apply(published)
        self.routes = Routes(published, Context(self.echoes.__getitem__, no_mirror))

    def _dial(self, address: ReplicaAddress, new_link: Callable[[str], Link]) -> Echo:
        echo = self.echoes[address.id.rpartition("-")[0]] = Echo(address, new_link)
        return echo

    def route(self, dice: random.Random) -> float:
        """µs of CPU from a path to the backend that was chosen for it, the mean of a batch."""
        paths = dice.choices(self.paths, k=BATCH)
        find, headers = self.routes.find, dict[str, str]()
        began = time.thread_time()
        for path in paths:
            endpoint = find("POST", path.decode())
            endpoint.way(endpoint.split.choose(headers, random.random)).backend  # noqa: B018 - looked up, not used
        return (time.thread_time() - began) / BATCH * 1e6

    def ask(self, dice: random.Random, endpoints: int | None = None) -> float:
        """µs of CPU of one whole call, the mean of a batch that goes to the first `endpoints`, or to all."""
        answers: list[Response] = []
        paths = dice.choices(self.paths[:endpoints], k=BATCH)
        began = time.thread_time()
        for path in paths:
            head = Head(
                method="POST",
                path=path.decode(),
                query=b"",
                headers={},
                content_length=len(BODY),
                request_id="r-1",
                client="127.0.0.1",
                received_s=time.monotonic(),
                respond=answers.append,
            )
            call = self.application.begin(head)
            call.run(BODY)
            self.echoes[call.owner.gate.route.name].answer()
        took_s = time.thread_time() - began
        assert all(answer.status == 200 for answer in answers)
        assert len(answers) == BATCH
        return took_s / BATCH * 1e6


def no_mirror(route: EndpointRoute, counts: EndpointCounts) -> Mirror:
    """Nobody has a shadow here."""
    raise NotImplementedError


def new_application(dial: Callable[[ReplicaAddress, Callable[[str], Link]], Echo]) -> Application:
    """Without replicas yet."""
    return Application(name="gateway-b", payload_max=PAYLOAD_MAX, abort=print, new_dialer=dial)


def snapshot(endpoints: int, versions: int, *, replicas: int, revision: int = 1) -> Snapshot:
    """All traffic split evenly."""
    names = [[f"b{endpoint}.{version}" for version in range(versions)] for endpoint in range(endpoints)]
    return Snapshot(
        revision,
        tuple(
            EndpointRoute(name=f"e{number}", route=f"/e{number}", traffic=dict.fromkeys(backends, 1.0))
            for number, backends in enumerate(names)
        ),
        tuple(
            BackendRoute(
                name=name,
                expected_s=0.001,
                replicas=tuple(ReplicaAddress(f"{name}-{n}", f"unix:/tmp/{name}-{n}") for n in range(replicas)),
            )
            for backends in names
            for name in backends
        ),
    )


def taking_in(rounds: int) -> list[Figure]:
    """How long the event loop stands still while such a snapshot comes in, from bytes to routes, and what it weighs."""
    took: dict[str, list[float]] = {"all of it is new": [], "one endpoint of it is new": []}
    gc.collect()  # what was measured before is none of its business
    for _ in range(rounds):
        application = new_application(Echo)
        steering = Steering(application.apply, dict)
        for what, versions, revision in (("all of it is new", VERSIONS, 1), ("one endpoint of it is new", VERSIONS, 2)):
            whole = snapshot(ENDPOINTS, versions, replicas=0, revision=revision)
            if revision == 2:
                changed = msgspec.structs.replace(whole.endpoints[0], traffic={"b0.0": 1.0})
                whole = msgspec.structs.replace(whole, endpoints=(changed, *whole.endpoints[1:]))
            line = encode_line({"type": "snapshot", "snapshot": whole})
            began = time.perf_counter()
            for message in LineDecoder().feed(line):
                assert steering.answer(message) == {"type": "applied", "revision": revision}
            took[what].append((time.perf_counter() - began) * 1e3)
    tracemalloc.start()
    application = new_application(Echo)
    whole = snapshot(ENDPOINTS, VERSIONS, replicas=0)
    before = tracemalloc.get_traced_memory()[0]
    application.apply(whole)
    weight = (tracemalloc.get_traced_memory()[0] - before) / (ENDPOINTS * VERSIONS)
    tracemalloc.stop()
    shape = f"{ENDPOINTS} endpoints × {VERSIONS} backends without replicas"
    figures = [
        Figure(f"{shape}, {what}", median(rounds), "ms", target=100.0, rounds=tuple(rounds))
        for what, rounds in took.items()
    ]
    return [*figures, Figure("memory of a backend without replicas, its share of the endpoint included", weight, "B")]


async def _requests(dice: random.Random, rounds: int) -> dict[str, list[float]]:
    alone, among = Rig(1, 1), Rig(ENDPOINTS, VERSIONS)
    calls: dict[str, Callable[[], float]] = {
        "call, alone": lambda: alone.ask(dice),
        "call, one busy": lambda: among.ask(dice, 1),
        "call, all busy": lambda: among.ask(dice),
    }
    found: dict[str, list[float]] = {what: [] for what in (*_ROUTING, *calls)}
    for _ in range(rounds):  # apart: routing is to find its own objects cold, not all that a call touches
        pairs = [(alone.route(dice), among.route(dice)) for _ in range(_PAIRS)]
        differences = [other - one for one, other in pairs]
        for what, values in zip(_ROUTING, (*zip(*pairs, strict=True), differences), strict=True):
            found[what].append(median(list(values)))
    for measure in calls.values():
        measure()
    for _ in range(rounds):
        for what, measure in calls.items():
            found[what].append(measure())
    for rig in (alone, among):
        await rig.application.close()
    return found


def section(dice: random.Random, *, rounds: int) -> Section:
    """The whole measurement, in a few seconds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(_requests(dice, rounds))
    found = Section(
        "What many endpoints cost",
        f"CPU time of one process without sockets, batches of {BATCH:,} in turns. Alone: one endpoint, one backend; "
        f"among: {ENDPOINTS:,} endpoints × {VERSIONS} backends. Routing: from a path to the chosen backend. A call: "
        "all that the gateway does but HTTP, and an echo. All busy: every call goes to another backend, of which "
        "nothing is in the processor's cache.",
    )
    found.add(
        *(
            Figure(what, median(values), "µs", target=3.0 if what == _ROUTING[-1] else None, rounds=tuple(values))
            for what, values in took.items()
        ),
        *taking_in(rounds),
    )
    return found
