"""One HTTP/1.1 connection: bytes in, exchanges and ordered answers out. Must not know routes, queues or models.

Laws:
1. A request is counted as received when its head is complete, or when it is refused with an answer; from then on it
   has a `Turn`, and leaves the `Line` in exactly two ways: with its status, or as `client_gone`. A client that goes
   away in the middle of a head has made no request: nothing is counted.
2. Answers leave in the order of the requests. Those that are ready together leave in one write.
3. End of stream before the answer means that the client is gone. A client that only half-closes looks the same, and
   most that look like that are gone: the calls of both are cancelled.
4. After a head or a framing that broke a rule nothing more is read as a request. The answer is sent, our side is shut,
   and what still arrives is swallowed for a while: closing at once would reset the connection under the answer.
5. The body of a refused request is swallowed if it is small and on its way, and the connection goes on; else law 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from math import inf
from time import monotonic
from typing import Final, cast

from muleteer.base.errors import InternalError, RequestError, RequestTimeout
from muleteer.gateway.exchange import Head
from muleteer.gateway.http import respond
from muleteer.gateway.http.body import BodyReader, Chunks, NullSink, Sized, open_sink, too_large
from muleteer.gateway.http.head import RequestHead, acceptable_request_id, check_partial_head, parse_head
from muleteer.gateway.http.line import Line
from muleteer.gateway.http.media import content_coding
from muleteer.gateway.http.outlet import Outlet
from muleteer.gateway.http.ports import Server
from muleteer.gateway.http.turn import Turn, log_fault


class State(IntEnum):
    """What the next bytes of a connection are."""

    HEAD = 0  # a head, or nothing yet
    BODY = 1  # the body of `_reading`
    SWALLOW = 2  # the rest of a refused body, then a head
    SPENT = 3  # of no interest: the connection ends when the answers are written
    LINGER = 4  # of no interest: our side is shut, the client reads its answer
    CLOSED = 5  # none: closed, or closing


class HttpProtocol(asyncio.Protocol):
    """One connection of `server`.

    Attributes:
        read_by: monotonic seconds at which `due` is to be called for want of input.
        outlet: the way out; `outlet.write_by` is the same for want of a reader.
    """

    _transport: asyncio.Transport
    outlet: Outlet
    _line: Line

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bounds = server.bounds
        self._client = ""
        self._state = State.HEAD
        self.read_by = inf
        # input: `_data[_pos:]` is unread, and came at `_arrived`; a head in it is checked up to `_checked`
        self._data = b""
        self._pos = 0
        self._checked = 0
        self._arrived = 0.0
        self._blank = False  # an empty line before the next head was skipped
        self._feeding = False
        self._paused = False
        self._unread = False  # input was left unread, or may still come
        self._swallowed = 0  # bytes of no interest
        # the request whose body is not in yet
        self._reading: Turn | None = None
        self._length: int | None = None  # as announced; None is chunked
        self._body: BodyReader | None = None

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: a connection must come to its first head within the header deadline."""
        self._transport = cast("asyncio.Transport", transport)
        self.outlet = Outlet(self._transport, self._bounds.write_stall_s)
        self._line = Line(self._server, self.outlet)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._arrived = monotonic()
        self.read_by = self._arrived + self._bounds.header_timeout_s
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Read as many requests as are complete and may be begun."""
        if self._pos < len(self._data):
            data = self._data[self._pos :] + data
            self._checked -= self._pos
        else:
            self._arrived = monotonic()
            self._checked = 0
        self._data = data
        self._pos = 0
        self._feed()

    def eof_received(self) -> None:
        """The client is gone (law 3). Returning None makes the transport close, after what it still has to write."""
        self._leave()
        self.outlet.watch()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The end, whoever wanted it."""
        self._leave()
        self.outlet.unwatch()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The client reads too slowly: begin nothing new for it, and watch whether it reads at all."""
        self.outlet.stalled = True
        self.outlet.watch()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.outlet.stalled = False
        if self._state is not State.CLOSED:
            self.outlet.unwatch()
            if not self._feeding:
                self._go_on()

    # what the server calls

    def fail(self, error: RequestError) -> None:
        """Refuse what is no request, or not yet one; nothing more is read (law 4)."""
        turn = Turn(self, self._server.next_request_id(), head_only=False, http10=False, last=True)
        self._line.join(turn)
        self._state = State.SPENT
        self._unread = True
        turn.respond(respond.render_error(error, turn.request_id))

    def drain(self) -> None:
        """Close now if idle; else the answer to the last request will say so."""
        if self._state is State.HEAD and not self._line.turns and self._pos >= len(self._data):
            self._close()

    def abort(self) -> None:
        """Drop everything at once."""
        self._leave()
        self._transport.abort()

    def due(self, now: float) -> None:
        """A deadline has passed, or may have: a body's moves with its bytes."""
        if self.outlet.write_by <= now and self.outlet.is_stuck():
            self.abort()
        if self.read_by > now:
            return
        if self._reading is not None:
            if self._body is not None:
                self.read_by = self._body.due_by(self._bounds)
            if self.read_by <= now:
                self._overrule(self._reading, RequestTimeout("the body did not arrive in time"))
        elif self._state is State.HEAD and self._pos < len(self._data):
            self._pos = len(self._data)
            self.fail(RequestTimeout(f"the headers did not arrive within {self._bounds.header_timeout_s:g} s"))
        else:  # idle, SWALLOW, LINGER
            self._close()

    # what a turn calls

    def answered(self, turn: Turn) -> None:
        """`turn.response` is known."""
        if turn is self._reading:
            self._leave_body(turn)
        if self._line.turns[0] is turn:
            self._advance()
        if not self._feeding:
            self._go_on()

    # input

    def _feed(self) -> None:
        self._feeding = True
        while self._pos < len(self._data) and not self._holds() and _FEEDS[self._state](self):
            pass
        self._feeding = False
        if self._pos >= len(self._data):
            self._data = b""
            self._pos = 0
        self._rest()

    def _go_on(self) -> None:
        """An answer has left or a pause is over: begin what waited for it."""
        if self._pos < len(self._data):
            self._feed()
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing more can be read for now: write, then set pace and deadline."""
        self.outlet.write()
        if self._state is State.HEAD and self._pos >= len(self._data) and not self._paused:  # the usual case
            if self._line.turns:
                self.read_by = inf
            elif self._server.draining:
                self._close()
            else:
                self.read_by = monotonic() + self._bounds.keep_alive_s
        elif self._state is State.SPENT and not self._line.turns:
            self._finish()
        else:
            self._pace()
            if self._state is State.HEAD:
                self.read_by = inf if self._paused else self._arrived + self._bounds.header_timeout_s
            elif self._state is State.SPENT:
                self.read_by = inf

    def _holds(self) -> bool:
        """Whether no further request may be begun."""
        return self._state is State.HEAD and (self.outlet.stalled or len(self._line.turns) >= self._bounds.pipeline_max)

    def _pace(self) -> None:
        """Read only what can be used: TCP makes the sender wait for the rest. Meanwhile its end goes unnoticed; that of
        the calls is bounded by their deadlines.
        """
        pause = (self._pos < len(self._data) and self._holds()) or (
            self._state is State.SPENT and self._swallowed > self._bounds.linger_bytes_max
        )
        if pause is self._paused or self._state is State.CLOSED:
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._arrived = monotonic()  # what is left waited for us, not for the client
            self._transport.resume_reading()

    def _feed_head(self) -> bool:
        data = self._data
        start = self._pos
        if not self._blank and data.startswith(b"\r\n", start):  # RFC 9112, 2.2: after a body of some old clients
            self._blank = True
            self._pos = start + 2
            return True
        end = data.find(b"\r\n\r\n", max(start, self._checked - 3))
        try:
            if end < 0:
                check_partial_head(data, start, self._checked, self._bounds)
                self._checked = len(data)
                return False
            head = parse_head(data[start : end + 2], self._bounds)
        except RequestError as error:
            self._pos = len(data)
            self.fail(error)
            return False
        self._pos = self._checked = end + 4
        self._blank = False
        self._begin(head)
        return True

    def _begin(self, head: RequestHead) -> None:
        server = self._server
        request_id = head.headers.get("x-request-id")
        if request_id is None or not acceptable_request_id(request_id):
            request_id = server.next_request_id()
        turn = Turn(self, request_id, head_only=head.method == "HEAD", http10=head.http10, last=not head.keep_alive)
        length: int | None = None if head.chunked else head.content_length or 0
        turn.continues = head.expects_continue and length != 0 and self._pos >= len(self._data)
        self._line.join(turn)
        self._reading = turn
        self._length = length
        self._state = State.BODY
        try:
            coding = "identity" if length == 0 else content_coding(head.headers)
            exchange = server.application.begin(
                Head(
                    method="GET" if turn.head_only else head.method,
                    path=head.path,
                    query=head.query,
                    headers=head.headers,
                    content_length=head.content_length,
                    request_id=request_id,
                    client=self._client,
                    received_s=self._arrived,
                    respond=turn.respond,
                )
            )
        except RequestError as error:
            self._overrule(turn, error)
            return
        except Exception:  # noqa: BLE001
            # boundary: begin. A fault there is one request's 500, not the connection's end
            log_fault("begin", request_id)
            self._overrule(turn, InternalError("the request could not be begun"))
            return
        if self._reading is not turn:  # answered already
            return
        turn.exchange = exchange
        if length is not None and length > exchange.body_max:
            self._overrule(turn, too_large(exchange.body_max))
        elif length is not None and coding == "identity" and len(self._data) - self._pos >= length:
            start, self._pos = self._pos, self._pos + length
            self._run(turn, self._data[start : self._pos])
        else:
            framing = Chunks() if length is None else Sized(length)
            self._body = body = BodyReader(framing, open_sink(coding, exchange.body_max), monotonic())
            self.read_by = body.due_by(self._bounds)
            if self._line.turns[0] is turn:
                self._advance()  # 100 Continue

    def _feed_body(self) -> bool:
        turn, body = self._reading, self._body
        assert turn is not None
        assert body is not None
        try:
            self._pos = body.feed(self._data, self._pos)
            if body.sink.size > (self._length or 0):
                assert turn.exchange is not None
                turn.exchange.hold(body.sink.size)
            if not body.framing.over:
                return False
            whole = body.sink.finish()
        except RequestError as error:
            self._overrule(turn, error)
        else:
            self._run(turn, whole)
        return True

    def _run(self, turn: Turn, body: bytes) -> None:
        """The body is in: the next bytes are the next request's."""
        self._reading = self._body = None
        self._state = State.SPENT if turn.last else State.HEAD
        turn.continues = False
        exchange = turn.exchange
        assert exchange is not None
        try:
            exchange.run(body)
        except RequestError as error:
            self._overrule(turn, error)
        except Exception:  # noqa: BLE001
            # boundary: run. A fault there is one request's 500, not the connection's end
            log_fault("run", turn.request_id)
            self._overrule(turn, InternalError("the request could not be carried out"))

    def _overrule(self, turn: Turn, error: RequestError) -> None:
        turn.overrule(respond.render_error(error, turn.request_id))

    def _leave_body(self, turn: Turn) -> None:
        """`turn` was answered before its body was read (law 5)."""
        unread = self._length if self._body is None else self._body.unread
        self._reading = self._body = None
        if unread == 0:
            self._state = State.SPENT if turn.last else State.HEAD
        elif unread is None or unread > self._bounds.linger_bytes_max or turn.last or turn.continues:
            turn.last = self._unread = True
            self._state = State.SPENT
        else:
            now = monotonic()
            self._state = State.SWALLOW
            self._body = BodyReader(Sized(unread), NullSink(), now)
            self.read_by = now + self._bounds.linger_s

    def _feed_swallowed(self) -> bool:
        assert self._body is not None
        self._pos = self._body.feed(self._data, self._pos)
        if not self._body.framing.over:
            return False
        self._body = None
        self._state = State.HEAD
        return True

    def _feed_nothing(self) -> bool:
        self._swallowed += len(self._data) - self._pos
        self._pos = len(self._data)
        self._unread = True
        if self._state is State.LINGER and self._swallowed > self._bounds.linger_bytes_max:
            self._close()
        return False

    # output

    def _advance(self) -> None:
        if self._line.advance(closing=self._server.draining and self._state is State.HEAD):
            self._state = State.SPENT

    def _finish(self) -> None:
        """Every answer is written and no request follows."""
        if not (self._unread and self._transport.can_write_eof()):
            self._close()
            return
        self._state = State.LINGER
        self._swallowed = 0
        self.read_by = monotonic() + self._bounds.linger_s
        self._transport.write_eof()
        self._pace()

    def _close(self) -> None:
        """Close after what is still to be written; the sweep aborts if nobody reads it."""
        self._leave()
        self.outlet.watch()
        self._transport.close()

    def _leave(self) -> None:
        """No request of this connection can be answered any more. May come more than once."""
        self._state = State.CLOSED
        self._data = b""
        self._pos = 0
        self._reading = self._body = None
        self.read_by = inf
        self._line.leave()


_FEEDS: Final[tuple[Callable[[HttpProtocol], bool], ...]] = (
    HttpProtocol._feed_head,
    HttpProtocol._feed_body,
    HttpProtocol._feed_swallowed,
    HttpProtocol._feed_nothing,  # SPENT
    HttpProtocol._feed_nothing,  # LINGER
    HttpProtocol._feed_nothing,  # CLOSED
)
"""By State: reads some of `_data` from `_pos` on; True if there may be more to do with the rest."""
