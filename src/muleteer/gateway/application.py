"""What the HTTP side serves: routes, probes, the dispatchers behind them. Must not know HTTP syntax or processes."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from functools import partial

import msgspec

from muleteer.base.clock import Clock, MonotonicClock
from muleteer.base.errors import BodyTooLarge, ClientError, MethodNotAllowed
from muleteer.base.limits import DEADLINE_TICK_S, REQUEST_TIMEOUT_S_MAX, TICK_S
from muleteer.gateway.call import PRIORITIES, Priority
from muleteer.gateway.demand import Demand
from muleteer.gateway.dial import Dialer
from muleteer.gateway.dispatch import Dispatcher
from muleteer.gateway.exchange import Exchange, Head, Response
from muleteer.gateway.fleet import Dialing
from muleteer.gateway.http.media import check_json_content_type
from muleteer.gateway.http.respond import render_error
from muleteer.gateway.link import Link, LinkOwner
from muleteer.gateway.load import Load
from muleteer.gateway.reception import Reception
from muleteer.gateway.routing import Context, Routes
from muleteer.gateway.sessions import Session
from muleteer.gateway.shadow import EndpointMirror, Shadows
from muleteer.gateway.shared import Abort, Shared, Timer
from muleteer.gateway.statistics import GatewayStatistics
from muleteer.gateway.versions import Version
from muleteer.gateway.way import Way
from muleteer.spec.snapshot import ASLEEP, EMPTY, BackendRoute, ReplicaAddress, Snapshot

NewDialer = Callable[[ReplicaAddress, Callable[[str], Link]], Dialing]
"""Makes what keeps a link to one address; the second argument makes a link, given the replica's id."""

_encode = msgspec.json.Encoder().encode
_uniform = random.random


class Probe:
    """The exchange of `/livez` and `/readyz`: the answer is known when the request is."""

    body_max = 0

    def __init__(self, head: Head, response: Response) -> None:
        self._head = head
        self._response = response

    def hold(self, size: int) -> None:
        """A probe has no body."""

    def run(self, body: bytes) -> None:  # noqa: ARG002 - a probe has no body
        """Answer."""
        self._head.respond(self._response)

    def abandon(self) -> None:
        """Nothing is held."""


class Application:
    """The gateway without HTTP and without a process. Lives in one event loop.

    Args:
        name: of this gateway, told to replicas.
        payload_max: the largest frame accepted from a replica, in bytes: bounds the memory of an answer.
        abort: called with replica, pid and reason when a replica must be killed.
        debug: show the model's traceback to the client.
        clock, new_dialer: for tests and measurements.
    """

    def __init__(
        self,
        *,
        name: str,
        payload_max: int,
        abort: Abort,
        debug: bool = False,
        clock: Clock | None = None,
        new_dialer: NewDialer = Dialer,
    ) -> None:
        self.name = name
        self.draining = False
        self._payload_max = payload_max
        self._clock = clock or MonotonicClock()
        self._new_dialer = new_dialer
        self._epoch = secrets.token_hex(8)
        self.demand = Demand(self._clock, self._waits)
        self._shared = Shared(
            clock=self._clock,
            abort=abort,
            render=render_error,
            place=self._place,
            later=_later,
            demand=self.demand.want,
            debug=debug,
        )
        self._shadows = Shadows(clock=self._clock, start=self._start_copy, soon=_soon, uniform=_uniform)
        self._context = Context(self._dispatcher, lambda route, counts: EndpointMirror(route, counts, self._shadows))
        self._routes: Routes[Dispatcher] = Routes(EMPTY, self._context)
        self._traffic: set[str] = set()
        self._gateways = 1
        self._backends: dict[str, BackendRoute] = {}
        self._dispatchers: dict[str, Dispatcher] = {}
        self._retired: list[Dispatcher] = []
        self._reception = Reception(self._shared)
        self._timer: asyncio.TimerHandle | None = None
        self._hangs_due_s = 0.0

    def apply(self, snapshot: Snapshot) -> None:
        """Follow `snapshot`, wholly or not at all. Raises SpecError if it contradicts itself; the old one stays.

        What stays the same costs a comparison, and a backend without replicas a row: its dispatcher is made when it
        gets a replica or a request.
        """
        self._routes = routes = Routes(snapshot, self._context, self._routes)
        self._traffic = routes.backends_with_traffic()
        for endpoint in routes.endpoints:
            endpoint.counts.keep(routes.backends)
        self._gateways = snapshot.gateways
        for dispatcher in self._dispatchers.values():
            dispatcher.gate.capacity.divide(self._gateways)
        before, self._backends = self._backends, {backend.name: backend for backend in snapshot.backends}
        for name, backend in self._backends.items():
            known = self._dispatchers.get(name)
            if known is not None:
                known.gate.has_traffic = name in self._traffic
                if backend != before.get(name):
                    known.update(backend)
            elif backend.replicas:
                self._dispatcher(name)
        for name in [name for name in self._dispatchers if name not in self._backends]:
            dispatcher = self._dispatchers.pop(name)
            self._retired.append(dispatcher)
            dispatcher.retire()  # last: what waits there goes to the others
        self.demand.keep(lambda name: name in self._backends and not self._backends[name].replicas)

    def begin(self, head: Head) -> Exchange:
        """Route and admit. Raises RequestError to refuse before the body is read."""
        if head.path in ("/livez", "/readyz"):
            return self._probe(head)
        endpoint = self._routes.find(head.method, head.path)
        check_json_content_type(head)
        route, split, headers = endpoint.route, endpoint.split, head.headers
        if head.content_length is not None and head.content_length > route.max_body:
            raise BodyTooLarge(f"the body has {head.content_length} bytes, at most {route.max_body} are taken")
        deadline_s = head.received_s + timeout_of(headers.get("x-request-timeout-ms"), route.timeout_s)
        priority = priority_of(headers.get("x-priority"))
        if split.needs_body and split.wished(headers) is None:
            candidates = [self._dispatcher(name) for name in split.backends]
            call = self._reception.begin(
                head, candidates, deadline_s=deadline_s, priority=priority, body_max=route.max_body
            )
        else:
            choice = split.choose(headers, _uniform)
            way = endpoint.way(choice)
            call = way.backend.begin(
                head,
                way,
                deadline_s=deadline_s,
                priority=priority,
                body_max=route.max_body,
                session=endpoint.session(choice),
            )
        if self._timer is None:
            self._tick()
        return call

    def not_ready(self) -> dict[str, str]:
        """Why `/readyz` says 503: backend → reason, of endpoints that no backend can serve; and this gateway itself if
        stopping. One version of several that is away is no reason: the others would be taken away as well.
        """
        reasons = {}
        if self.draining:
            reasons[self.name] = "draining"
        elif not self._routes.revision:
            reasons[self.name] = "no routes yet"
        for endpoint in self._routes.endpoints:
            away = {name: reason for name in endpoint.split.backends if (reason := self._unready_reason(name))}
            if len(away) == len(endpoint.split.backends):
                reasons |= away
        return reasons

    @property
    def linked(self) -> bool:
        """Whether every routed replica is linked and ready."""
        return all(dispatcher.fleet.linked for dispatcher in self._dispatchers.values())

    @property
    def quiet(self) -> bool:
        """Whether no call is open and no slot is taken."""
        return not self._reception.reading and all(dispatcher.quiet for dispatcher in self._all())

    async def close(self) -> None:
        """Close every link. Calls that are still open fail."""
        self.demand.close()
        self._routes = Routes(EMPTY, self._context)  # nobody takes the calls of those that go
        for dispatcher in self._all():
            dispatcher.retire()
        await asyncio.gather(*(dialer.close() for dispatcher in self._all() for dialer in dispatcher.fleet.dialers))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> GatewayStatistics:
        """A frozen snapshot."""
        return GatewayStatistics(
            name=self.name,
            epoch=self._epoch,
            revision=self._routes.revision,
            draining=self.draining,
            waiting_bytes=self._shared.waiting_bytes,
            reading=self._reception.reading,
            sessions=self._context.sessions.statistics(),
            backends={name: dispatcher.statistics() for name, dispatcher in self._dispatchers.items()},
            endpoints={
                endpoint.route.name: counted
                for endpoint in self._routes.endpoints
                if (counted := endpoint.counts.statistics()) is not None
            },
        )

    def loads(self, told: dict[str, int]) -> dict[str, Load]:
        """Backends with calls now, or with some since the last time, which `told` remembers."""
        found = {}
        for name, dispatcher in self._dispatchers.items():
            arrivals = dispatcher.counts.arrivals
            if dispatcher.ledger.open_calls or told.get(name, 0) != arrivals:
                told[name] = arrivals
                found[name] = dispatcher.load()
        return found

    @property
    def epoch(self) -> str:
        """Another one after every start: all counts began at 0 then."""
        return self._epoch

    def _waits(self, name: str) -> bool:
        known = self._dispatchers.get(name)
        return known is not None and known.ledger.open_calls > 0

    def _dispatcher(self, name: str) -> Dispatcher:
        """That of a backend in the snapshot."""
        found = self._dispatchers.get(name)
        if found is None:
            route = self._backends[name]
            found = self._dispatchers[name] = Dispatcher(route, self._shared, partial(self._dialer, name))
            found.gate.has_traffic = name in self._traffic
            found.gate.capacity.divide(self._gateways)
            found.update(route)
        return found

    def _unready_reason(self, name: str) -> str | None:
        known = self._dispatchers.get(name)
        if known is not None:
            return known.gate.unready_reason()
        unavailable = self._backends[name].unavailable
        return None if unavailable == ASLEEP else unavailable

    def _place(self, head: Head, body: bytes) -> tuple[Way[Dispatcher], Session | None]:
        """Of a call whose body is in, by the traffic as it is now. Raises NotFound if its endpoint is gone."""
        endpoint = self._routes.find(head.method, head.path)
        choice = endpoint.split.choose(head.headers, _uniform, body)
        return endpoint.way(choice), endpoint.session(choice)

    def _start_copy(self, backend: str, head: Head, body: bytes, seconds: float, version: Version) -> bool:
        dispatcher = self._dispatchers.get(backend)
        if dispatcher is None:
            return False
        if not dispatcher.start_copy(head, body, self._shared.now() + seconds, Way(dispatcher, version)):
            return False
        if self._timer is None:
            self._tick()
        return True

    def _all(self) -> list[Dispatcher]:
        return [*self._dispatchers.values(), *self._retired]

    def _probe(self, head: Head) -> Probe:
        if head.method != "GET":
            raise MethodNotAllowed("this route takes GET, HEAD", allow=("GET", "HEAD"))
        reasons = self.not_ready() if head.path == "/readyz" else {}
        state = {"status": "ok"} if not reasons else {"status": "unavailable", "reasons": reasons}
        return Probe(head, Response(503 if reasons else 200, _encode(state)))

    def _dialer(self, backend: str, address: ReplicaAddress, owner: LinkOwner) -> Dialing:
        def new_link(replica: str) -> Link:
            return Link(
                backend=backend,
                replica=replica,
                gateway=self.name,
                payload_max=self._payload_max,
                owner=owner,
                clock=self._clock,
            )

        return self._new_dialer(address, new_link)

    def _tick(self) -> None:
        """One timer for all deadlines. It runs only while there is something to watch."""
        now = self._shared.now()
        for call in self._shared.wheel.expired(now):
            call.owner.expire(call)
        if now >= self._hangs_due_s:
            self._hangs_due_s = now + TICK_S
            self._retired = [dispatcher for dispatcher in self._retired if dispatcher.fleet.links]
            for dispatcher in self._all():
                dispatcher.links.abort_hung(now)
        idle = not self._shared.wheel and self.quiet
        self._timer = None if idle else asyncio.get_running_loop().call_later(DEADLINE_TICK_S, self._tick)


def _soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)


def _later(seconds: float, callback: Callable[[], None]) -> Timer:
    loop = asyncio.get_running_loop()
    return loop.call_later(seconds, callback) if seconds else loop.call_soon(callback)


def timeout_of(header: str | None, default_s: float) -> float:
    """Seconds a request may take. Raises ClientError for anything but a positive number of milliseconds."""
    if header is None:
        return default_s
    if not (header.isascii() and header.isdigit() and len(header) <= 12) or not int(header):
        raise ClientError("x-request-timeout-ms must be a positive whole number of milliseconds")
    return min(int(header) / 1000, REQUEST_TIMEOUT_S_MAX)


def priority_of(header: str | None) -> Priority:
    """Raises ClientError for a word that is no priority."""
    if header is None:
        return Priority.NORMAL
    priority = PRIORITIES.get(header.strip().lower())
    if priority is None:
        raise ClientError(f"x-priority must be one of {', '.join(PRIORITIES)}")
    return priority
