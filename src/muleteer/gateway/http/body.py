"""Bodies: sinks that collect (and decompress) one within a bound, and the chunked framing. Must not know sockets."""

from __future__ import annotations

import zlib
from typing import Protocol

import httptools

from muleteer.base.errors import BadEncoding, BodyTooLarge, ClientError
from muleteer.base.limits import CHUNK_EXTENSION_BYTES_MAX
from muleteer.gateway.http.bounds import HttpBounds
from muleteer.gateway.http.media import Coding

CHUNK_LINE_BYTES = 24
"""What one chunk may cost beside its data and extensions: 16 digits and two CRLFs, with a little room."""
_SYNTHETIC_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"\r\n\r\n"


class Sink(Protocol):
    """Where the bytes of one body go."""

    @property
    def size(self) -> int:
        """Bytes that are held."""
        ...

    def feed(self, data: bytes) -> None:
        """Take some. Raises BodyTooLarge or BadEncoding."""
        ...

    def finish(self) -> bytes:
        """The whole body. Raises BadEncoding where the end is missing."""
        ...


def open_sink(coding: Coding, body_max: int) -> Sink:
    """A sink for one body of at most `body_max` bytes, before and after decompression."""
    return PlainSink(body_max) if coding == "identity" else InflatingSink(coding, body_max)


def too_large(body_max: int) -> BodyTooLarge:
    """The 413 of a body over `body_max` bytes."""
    return BodyTooLarge(f"the body is over {body_max} bytes")


class PlainSink:
    """The body as it is. A bytearray, because a list of one-byte pieces would cost more than the body."""

    __slots__ = ("_body", "_body_max")

    def __init__(self, body_max: int) -> None:
        self._body = bytearray()
        self._body_max = body_max

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return len(self._body)

    def feed(self, data: bytes) -> None:
        """Take some. Raises BodyTooLarge."""
        if len(self._body) + len(data) > self._body_max:
            raise too_large(self._body_max)
        self._body += data

    def finish(self) -> bytes:
        """The whole body."""
        return bytes(self._body)


class InflatingSink:
    """gzip or deflate, one member. zlib is never allowed to produce more than what is left of `body_max`.

    `deflate` is the zlib format (RFC 9110, 8.4.1.2); many senders omit its two-byte header, so raw is read as well: the
    low four bits of the first byte of a zlib stream are always 8, which no encoder begins a raw stream with.
    """

    __slots__ = ("_body", "_body_max", "_inflater", "_sent")

    def __init__(self, coding: Coding, body_max: int) -> None:
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS) if coding == "gzip" else None
        self._body = bytearray()
        self._body_max = body_max
        self._sent = 0

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return len(self._body)

    def feed(self, data: bytes) -> None:
        """Take some. Raises BodyTooLarge or BadEncoding."""
        if not data:
            return
        self._sent += len(data)
        if self._sent > self._body_max:
            raise too_large(self._body_max)
        if self._inflater is None:
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        inflater = self._inflater
        if inflater.eof:
            raise BadEncoding("bytes follow the end of the compressed body")
        try:
            # one byte over the bound tells "too large" from "just fits"
            self._body += inflater.decompress(data, self._body_max + 1 - len(self._body))
        except zlib.error:
            raise BadEncoding("the compressed body is corrupt") from None
        if len(self._body) > self._body_max:
            raise too_large(self._body_max)
        if inflater.unused_data:
            raise BadEncoding("bytes follow the end of the compressed body")

    def finish(self) -> bytes:
        """The whole body. Raises BadEncoding where the end is missing."""
        if self._inflater is None or not self._inflater.eof:
            raise BadEncoding("the compressed body is truncated")
        return bytes(self._body)


class NullSink:
    """Swallows the body of a refused request."""

    __slots__ = ()
    size = 0

    def feed(self, data: bytes) -> None:
        """Take some, and forget it."""

    def finish(self) -> bytes:
        """Nothing."""
        return b""


class Framing(Protocol):
    """Where a body ends."""

    over: bool
    remaining: int | None
    """Bytes still to come; None where only reading on would tell."""

    def feed(self, data: bytes, start: int, sink: Sink) -> int:
        """Read `data[start:]` into `sink`; returns where it stopped: at the end of `data`, or of the body (`over`).

        Raises RequestError, after which a chunked stream is out of step.
        """
        ...


class Sized:
    """A body of an announced length, `remaining` of which is still to come."""

    __slots__ = ("over", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining: int | None = length
        self.over = not length

    def feed(self, data: bytes, start: int, sink: Sink) -> int:
        """As in Framing; where the sink raises, the stream stays in step."""
        assert self.remaining is not None
        stop = min(len(data), start + self.remaining)
        sink.feed(data[start:stop])  # first: where it raises, nothing was read
        self.remaining -= stop - start
        self.over = not self.remaining
        return stop


class _Events:
    """What llhttp tells. Apart from Chunks, which holds the parser: a cycle per request would burden the collector."""

    __slots__ = ("chunks", "over", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.chunks = 0
        self.over = False

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self.chunks += 1

    def on_body(self, part: bytes) -> None:
        """Data of a chunk."""
        self.parts.append(part)

    def on_message_complete(self) -> None:
        """The last chunk and its trailers are read."""
        self.over = True


class Chunks:
    """The chunked framing of one body, by llhttp.

    llhttp reads on into the next request and does not say where the body ended. But a chunked body always ends in an
    empty line, so it is fed in pieces that end in one: at the end of a piece it is either over or goes on.
    """

    __slots__ = ("_events", "_fed", "_parser", "_read", "_tail", "over", "remaining")

    def __init__(self) -> None:
        self._events = _Events()
        self._parser = httptools.HttpRequestParser(self._events)
        self._parser.feed_data(_SYNTHETIC_HEAD)
        self._tail = b""  # the last three bytes fed: an empty line may be split between two reads
        self._fed = 0
        self._read = 0
        self.over = False
        self.remaining: int | None = None

    def feed(self, data: bytes, start: int, sink: Sink) -> int:
        """As in Framing."""
        events = self._events
        position = start
        while position < len(data) and not events.over:
            stop = self._piece_end(data, position)
            piece = data[position:stop]
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserError:
                raise ClientError("the chunked framing is broken") from None
            self._fed += len(piece)
            self._tail = (self._tail + piece[-3:])[-3:]
            for part in events.parts:
                self._read += len(part)
                sink.feed(part)
            events.parts.clear()
            if self._fed - self._read > CHUNK_EXTENSION_BYTES_MAX + CHUNK_LINE_BYTES * events.chunks:
                raise ClientError("chunk extensions and trailers are over their limit")
            position = stop
        if events.over:  # only now: where a sink raises, the body is not read to its end
            self.over = True
            self.remaining = 0
        return position

    def _piece_end(self, data: bytes, start: int) -> int:
        joined = self._tail + data[start : start + 3]
        found = joined.find(_END)
        if found >= 0:
            return start + found + len(_END) - len(self._tail)
        found = data.find(_END, start)
        return len(data) if found < 0 else found + len(_END)


class BodyReader:
    """One body on its way, and the time it may take.

    Args:
        framing: where it ends.
        sink: where it goes.
        now: monotonic seconds.
    """

    __slots__ = ("_since", "_taken", "framing", "sink")

    def __init__(self, framing: Framing, sink: Sink, now: float) -> None:
        self.framing = framing
        self.sink = sink
        self._since = now
        self._taken = 0

    def feed(self, data: bytes, start: int) -> int:
        """Read on; returns where it stopped. Raises RequestError."""
        stop = self.framing.feed(data, start, self.sink)
        self._taken += stop - start
        return stop

    @property
    def unread(self) -> int | None:
        """Bytes still to come; None where only reading on would tell."""
        return self.framing.remaining

    def due_by(self, bounds: HttpBounds) -> float:
        """Monotonic seconds by which more must have come: the base time, and what the bytes so far have earned."""
        return self._since + bounds.body_timeout_base_s + self._taken / bounds.body_bytes_per_s_min
