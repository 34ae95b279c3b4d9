"""The load generator: HTTP/1.1 over keep-alive connections, one nonce per request, one record per request.

Open loop: requests are due at fixed moments whether or not earlier ones were answered, and latency counts from the
moment a request was due, so a server that stalls cannot hide it. Must not know what it measures.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

now = time.monotonic


@dataclass(slots=True)
class Record:
    """One request. Times are monotonic seconds.

    Attributes:
        due: when it should have been sent; `sent`: when it was.
        done: when its outcome was known.
        status: HTTP status, 0 without an answer.
        failure: why there is no answer: `connect`, `reset`, `timeout`, `protocol`, `unsent` (no connection was free).
    """

    nonce: int
    due: float
    sent: float = 0.0
    done: float = 0.0
    status: int = 0
    failure: str = ""
    head: bytes = b""
    body: bytes = b""

    @property
    def latency_s(self) -> float:
        """From due to done."""
        return self.done - self.due

    def header(self, name: bytes) -> bytes:
        """The value of a response header, or nothing. `name` in lower case."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip()
        return b""


@dataclass
class Target:
    """Where requests go and what they look like. `body(nonce)` must hold the nonce for the answer to be checked;
    `source` is the caller's address.
    """

    port: int
    path: str
    body: Callable[[int], bytes]
    host: str = "127.0.0.1"
    headers: str = ""
    timeout_s: float = 30.0
    connections_max: int = 1024
    source: str | None = None

    def route(self, _nonce: int) -> str:
        """Where this request goes; the same for all, here."""
        return self.path

    def request(self, nonce: int) -> bytes:
        """The bytes of one request."""
        body = self.body(nonce)
        head = (
            f"POST {self.route(nonce)} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{self.headers}\r\n"
        )
        return head.encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._record: Record | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, record: Record, data: bytes) -> None:
        """Send one request; its record is settled exactly once."""
        assert self._transport is not None
        self._record = record
        record.sent = now()
        self._transport.write(data)
        if self._buffer:  # it was answered before it was asked
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        record = self._record
        if record is None:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        length = _content_length(head)
        if length is None:
            self.abort("protocol")
            return
        stop = end + 4 + length
        if len(self._buffer) < stop:
            return
        record.status, record.head, record.body = int(head[9:12]), head, self._buffer[end + 4 : stop]
        self._buffer = self._buffer[stop:]
        self._record = None
        self._load.settle(record)
        if b"connection: close" in head.lower():
            self.abort("reset")
        else:
            self._load.idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._load.forget(self)
        self._fail("reset")
        if self._buffer.startswith((b"HTTP/1.1 503", b"HTTP/1.1 408")):
            self._load.turned_away += 1
        else:
            self._load.stray_bytes += len(self._buffer)

    def expire(self, before: float) -> None:
        """Give up if the request on its way was sent before that moment."""
        if self._record is not None and self._record.sent < before:
            self.abort("timeout")

    def abort(self, failure: str) -> None:
        """End the connection; the request on its way, if any, failed for that reason."""
        self._fail(failure)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, failure: str) -> None:
        record, self._record = self._record, None
        if record is not None:
            record.failure = failure
            self._load.settle(record)


def _content_length(head: bytes) -> int | None:
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at < 0:
        return None
    value = lower[at + 17 :].split(b"\r\n", 1)[0].strip()
    return int(value) if value.isdigit() else None


@dataclass
class Load:
    """A source of requests. `records` holds one entry per request, in the order they were due.

    Attributes:
        stray_bytes: bytes that answered no request: an answer too many.
        turned_away: connections that were refused with a 503, or ended with a 408, before a request was sent on them.
    """

    target: Target
    first_nonce: int = 1
    records: list[Record] = field(default_factory=list)
    idle: deque[Connection] = field(default_factory=deque)
    stray_bytes: int = 0
    turned_away: int = 0
    _stopped: bool = False
    _open: set[Connection] = field(default_factory=set)
    _connecting: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _unsettled: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)
    _on_settle: Callable[[Record], None] | None = None

    async def open_loop(self, rate: float, seconds: float) -> list[Record]:
        """`rate` requests/s at even distances for `seconds`, or until `stop`; returns when each has its outcome."""
        return await self.timed([count / rate for count in range(max(1, math.floor(rate * seconds)))])

    async def timed(self, offsets: Sequence[float]) -> list[Record]:
        """One request due at each of these moments, ascending seconds from now; ends as `open_loop` does."""
        await self.prepare(min(64, self.target.connections_max))
        start = now()
        done = 0
        while done < len(offsets) and not self._stopped:
            since = now() - start
            while done < len(offsets) and offsets[done] <= since:
                self._begin(start + offsets[done])
                done += 1
            self._expire()
            if done < len(offsets):
                await asyncio.sleep(max(0.0005, start + offsets[done] - now()))
        return await self._finish()

    def stop(self) -> None:
        """No more requests; those on their way are waited for. May be called from another thread."""
        self._stopped = True

    async def closed_loop(self, connections: int, seconds: float) -> list[Record]:
        """`connections` callers, each sending its next request when the last one is answered."""
        await self.prepare(connections)
        end = now() + seconds

        def following(_: Record) -> None:
            if now() < end:
                asyncio.get_running_loop().call_soon(lambda: self._begin(now()))

        self._on_settle = following
        for _ in range(connections):
            self._begin(now())
        while now() < end:
            await asyncio.sleep(0.05)
            self._expire()
        self._on_settle = None
        return await self._finish()

    async def prepare(self, connections: int) -> None:
        """Open connections before the clock starts."""
        await asyncio.gather(*(self._connect(None) for _ in range(connections - len(self._open))))

    def settle(self, record: Record) -> None:
        """The one place where a request gets its outcome."""
        assert not record.done, "settled twice"
        record.done = now()
        self._unsettled -= 1
        if not self._unsettled:
            self._settled.set()
        if self._on_settle is not None:
            self._on_settle(record)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def close(self) -> None:
        """End every connection."""
        for connection in tuple(self._open):
            connection.abort("reset")

    def _begin(self, due: float) -> None:
        record = Record(self.first_nonce + len(self.records), due)
        self.records.append(record)
        self._unsettled += 1
        self._settled.clear()
        if self.idle:
            self.idle.pop().send(record, self.target.request(record.nonce))
        elif len(self._open) + self._connecting < self.target.connections_max:
            task = asyncio.get_running_loop().create_task(self._connect(record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            record.failure = "unsent"
            self.settle(record)

    async def _connect(self, record: Record | None) -> None:
        self._connecting += 1
        try:
            async with asyncio.timeout(self.target.timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self),
                    self.target.host,
                    self.target.port,
                    local_addr=(self.target.source, 0) if self.target.source else None,
                )
        except (OSError, TimeoutError):
            if record is not None:
                record.failure = "connect"
                self.settle(record)
            return
        finally:
            self._connecting -= 1
        if connection.alive:
            self._open.add(connection)
            if record is not None:
                connection.send(record, self.target.request(record.nonce))
            else:
                self.idle.append(connection)
        elif record is not None:  # closed before it was used
            record.failure = "connect"
            self.settle(record)

    def _expire(self) -> None:
        if len(self.records) % 16 == 0 or self._on_settle is not None:
            before = now() - self.target.timeout_s
            for connection in tuple(self._open):
                connection.expire(before)

    async def _finish(self) -> list[Record]:
        while self._unsettled:
            before = now() - self.target.timeout_s
            for connection in tuple(self._open):
                connection.expire(before)
            try:
                async with asyncio.timeout(0.1):
                    await self._settled.wait()
            except TimeoutError:
                pass
        self.close()
        await asyncio.sleep(0)
        return self.records


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` of all at or below it; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
