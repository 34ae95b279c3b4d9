"""All HTTP connections of a gateway: cap, sweep of deadlines, draining, counters. Must not know what is served."""

from __future__ import annotations

import asyncio
import itertools
import resource
import secrets
import socket
import time
from collections.abc import Sequence

import msgspec

from muleteer.base.errors import TooManyConnections
from muleteer.base.limits import LISTEN_BACKLOG
from muleteer.gateway.exchange import Application
from muleteer.gateway.http.bounds import HttpBounds
from muleteer.gateway.http.ports import Connection
from muleteer.gateway.http.protocol import HttpProtocol
from muleteer.gateway.http.respond import date_line
from muleteer.gateway.http.takeover import Takeover
from muleteer.gateway.http.tally import Tally

REFUSED_CONNECTIONS_MIN = 8
"""Connections over the cap that may be open at once to read their 503; more are dropped without a word."""


class HttpStatistics(msgspec.Struct, frozen=True):
    """What `HttpServer.statistics()` returns; `received == sum(by_status) + client_gone + exchanges`, always."""

    received: int
    by_status: dict[int, int]
    by_code: dict[str, int]
    client_gone: int
    connections: int
    connections_max: int
    connections_dropped: int
    exchanges: int
    draining: bool


class HttpServer:
    """Serves `application` on a listening socket.

    Args:
        application: routes, admits and answers.
        bounds: limits of each connection.
        connections_max: the cap; None takes half the limit of file descriptors; the rest is for links.
    """

    def __init__(
        self, application: Application, *, bounds: HttpBounds | None = None, connections_max: int | None = None
    ) -> None:
        self.application = application
        self.bounds = bounds or HttpBounds()
        self.connections_max = connections_max or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self.tally = Tally()
        self.draining = False
        self.date_line = b""
        self._date_s = 0
        self._connections: set[Connection] = set()
        self._dropped = 0
        self._listener: asyncio.Server | None = None
        self._takeover: Takeover | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._ids = itertools.count(1)
        self._id_prefix = secrets.token_hex(4) + "-"  # two gateways, or two lives of one, never give the same id

    async def open(self, sock: socket.socket, others: Sequence[socket.socket] = ()) -> None:
        """Accept from `sock`, which listens already, and from `others` what their gateways leave waiting. All are
        closed with the server.

        When descriptors run out, libuv closes a spare one, accepts, and drops what it accepted: the loop does not spin.
        """
        self._tick()
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: HttpProtocol(self), sock=sock, backlog=LISTEN_BACKLOG
        )
        self._takeover = Takeover(others, lambda: HttpProtocol(self))
        self._takeover.open()

    async def drain(self) -> None:
        """Accept nothing more, let every request that has begun be answered, and return when no connection is left.

        Has no deadline of its own beyond those of the requests: wrap it in one, then `close`.
        """
        self.draining = True
        self._accept_no_more()
        for connection in list(self._connections):
            connection.drain()
        if self._connections:
            self._empty.clear()
            await self._empty.wait()

    async def close(self) -> None:
        """Drop everything at once, and return when it is gone."""
        self.draining = True
        self._accept_no_more()
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            self._empty.clear()
            await self._empty.wait()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def statistics(self) -> HttpStatistics:
        """A frozen snapshot."""
        tally = self.tally
        return HttpStatistics(
            received=tally.received,
            by_status=dict(tally.by_status),
            by_code=dict(tally.by_code),
            client_gone=tally.client_gone,
            connections=len(self._connections),
            connections_max=self.connections_max,
            connections_dropped=self._dropped,
            exchanges=tally.in_progress,
            draining=self.draining,
        )

    # what a connection calls

    def opened(self, connection: Connection) -> None:
        """A new connection; over the cap it is refused, far over the cap dropped."""
        self._connections.add(connection)
        over = len(self._connections) - self.connections_max
        if over > max(REFUSED_CONNECTIONS_MIN, self.connections_max // 4):
            self._dropped += 1
            connection.abort()
        elif over > 0:
            connection.fail(TooManyConnections(f"all {self.connections_max} connections are in use"))

    def closed(self, connection: Connection) -> None:
        """The end of a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def next_request_id(self) -> str:
        """An id of our own."""
        return f"{self._id_prefix}{next(self._ids)}"

    def _accept_no_more(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._takeover is not None:
            self._takeover.close()
            self._takeover = None

    def _tick(self) -> None:
        """Find the connections that are due. One pass over all (60 ns each) is cheaper than a timer per request."""
        self._sweep = asyncio.get_running_loop().call_later(self.bounds.tick_s, self._tick)
        wall_s = int(time.time())
        if wall_s != self._date_s:
            self._date_s = wall_s
            self.date_line = date_line(wall_s)
        now = time.monotonic()
        for connection in [each for each in self._connections if each.read_by <= now or each.outlet.write_by <= now]:
            connection.due(now)
