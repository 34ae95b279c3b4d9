"""What the HTTP side serves: routes, probes, the dispatchers behind them. Must not know HTTP syntax or processes."""

from __future__ import annotations

import asyncio
import random

import msgspec

from muleteer.base.clock import Clock, MonotonicClock
from muleteer.base.errors import BodyTooLarge, ClientError, MethodNotAllowed
from muleteer.base.limits import DEADLINE_TICK_S, REQUEST_TIMEOUT_S_MAX, TICK_S
from muleteer.gateway.call import PRIORITIES, Priority
from muleteer.gateway.dial import Dialer
from muleteer.gateway.dispatch import Dispatcher
from muleteer.gateway.exchange import Exchange, Head, Response
from muleteer.gateway.http.media import check_json_content_type
from muleteer.gateway.http.respond import render_error
from muleteer.gateway.link import Link
from muleteer.gateway.routing import Routes
from muleteer.gateway.shared import Abort, Shared
from muleteer.gateway.statistics import GatewayStatistics
from muleteer.spec.snapshot import EMPTY, ReplicaAddress, Snapshot

_encode = msgspec.json.Encoder().encode
_uniform = random.random


class Probe:
    """The exchange of `/livez` and `/readyz`: the answer is known when the request is."""

    body_max = 0

    def __init__(self, head: Head, response: Response) -> None:
        self._head = head
        self._response = response

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
        clock: for tests.
    """

    def __init__(
        self, *, name: str, payload_max: int, abort: Abort, debug: bool = False, clock: Clock | None = None
    ) -> None:
        self.name = name
        self.draining = False
        self._payload_max = payload_max
        self._clock = clock or MonotonicClock()
        self._shared = Shared(clock=self._clock, abort=abort, render=render_error, debug=debug)
        self._routes = Routes(EMPTY)
        self._dispatchers: dict[str, Dispatcher] = {}
        self._retired: list[Dispatcher] = []
        self._timer: asyncio.TimerHandle | None = None
        self._hangs_due_s = 0.0

    def apply(self, snapshot: Snapshot) -> None:
        """Follow `snapshot`, wholly or not at all. Raises SpecError if it contradicts itself; the old one stays."""
        routes = Routes(snapshot)
        wanted = {backend.name: backend for backend in snapshot.backends}
        self._routes = routes
        for name in [name for name in self._dispatchers if name not in wanted]:
            dispatcher = self._dispatchers.pop(name)
            self._retired.append(dispatcher)
            dispatcher.retire()
        for name, backend in wanted.items():
            known = self._dispatchers.get(name)
            if known is None:
                known = self._dispatchers[name] = Dispatcher(backend, self._shared, self._new_dialer)
            known.update(backend)

    def begin(self, head: Head) -> Exchange:
        """Route and admit. Raises RequestError to refuse before the body is read."""
        if head.path in ("/livez", "/readyz"):
            return self._probe(head)
        endpoint = self._routes.find(head.method, head.path)
        check_json_content_type(head)
        route = endpoint.route
        if head.content_length is not None and head.content_length > route.max_body:
            raise BodyTooLarge(f"the body has {head.content_length} bytes, at most {route.max_body} are taken")
        headers = head.headers
        call = self._dispatchers[endpoint.traffic.choose(_uniform)].begin(
            head,
            deadline_s=head.received_s + timeout_of(headers.get("x-request-timeout-ms"), route.timeout_s),
            priority=priority_of(headers.get("x-priority")),
            body_max=route.max_body,
        )
        if self._timer is None:
            self._tick()
        return call

    def not_ready(self) -> dict[str, str]:
        """Why `/readyz` says 503: backend → reason, for every one with traffic; and this gateway itself if stopping."""
        reasons = {}
        if self.draining:
            reasons[self.name] = "draining"
        elif not self._routes.revision:
            reasons[self.name] = "no routes yet"
        for name in self._routes.backends_with_traffic():
            reason = self._dispatchers[name].unready_reason
            if reason is not None:
                reasons[name] = reason
        return reasons

    @property
    def quiet(self) -> bool:
        """Whether no call is open and no slot is taken."""
        return all(dispatcher.quiet for dispatcher in self._all())

    async def close(self) -> None:
        """Close every link. Calls that are still open fail."""
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
            revision=self._routes.revision,
            draining=self.draining,
            waiting_bytes=self._shared.waiting_bytes,
            backends={name: dispatcher.statistics() for name, dispatcher in self._dispatchers.items()},
        )

    def _all(self) -> list[Dispatcher]:
        return [*self._dispatchers.values(), *self._retired]

    def _probe(self, head: Head) -> Probe:
        if head.method != "GET":
            raise MethodNotAllowed("this route takes GET, HEAD", allow=("GET", "HEAD"))
        reasons = self.not_ready() if head.path == "/readyz" else {}
        state = {"status": "ok"} if not reasons else {"status": "unavailable", "reasons": reasons}
        return Probe(head, Response(503 if reasons else 200, _encode(state)))

    def _new_dialer(self, address: ReplicaAddress, dispatcher: Dispatcher) -> Dialer:
        backend = dispatcher.gate.route.name

        def new_link(replica: str) -> Link:
            return Link(
                backend=backend,
                replica=replica,
                gateway=self.name,
                payload_max=self._payload_max,
                owner=dispatcher,
                clock=self._clock,
            )

        return Dialer(address, new_link)

    def _tick(self) -> None:
        """One timer for all deadlines. It runs only while there is something to watch."""
        now = self._shared.now()
        for call in self._shared.wheel.expired(now):
            call.owner.expire(call)
        if now >= self._hangs_due_s:
            self._hangs_due_s = now + TICK_S
            self._retired = [dispatcher for dispatcher in self._retired if dispatcher.fleet.links]
            for dispatcher in self._all():
                dispatcher.abort_hung(now)
        idle = not self._shared.wheel and self.quiet
        self._timer = None if idle else asyncio.get_running_loop().call_later(DEADLINE_TICK_S, self._tick)


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
