"""The seam inside the gateway: the HTTP protocol on one side, the application (routing, queue, dispatch) on the other.

For each request the protocol builds a `Head` and asks `Application.begin(head)` before it reads a byte of the body:
- an `Exchange`: the body is read, decompressed, and handed over whole by `Exchange.run(body)`; the application answers
  once, at any time from then on (or even before), through `head.respond(response)`;
- raising RequestError: refused; answered at once, the body is never read (lingering close where one was announced).
If the client goes away or breaks the protocol before the answer, `Exchange.abandon()` is called, once, instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class Response(msgspec.Struct, frozen=True, gc=False):
    """One answer. `headers` are complete lines, each ending in CRLF, made only of values we wrote or checked; the
    protocol adds Date, Content-Type, Content-Length, x-request-id and Connection. `code` is that of an error, for the
    counters.
    """

    status: int
    body: bytes
    headers: bytes = b""
    content_type: bytes = b"application/json"
    code: str = ""


class Head:
    """What is known of a request when its headers are complete.

    Attributes:
        method: upper case, e.g. "POST". HEAD arrives as GET; the protocol leaves the body of the answer out.
        path: percent-decoded and checked, without the query.
        query: raw, without the question mark.
        headers: lower-case names; repeated fields are joined with ", ".
        content_length: None if chunked or without a body.
        request_id: the client's if acceptable, else ours.
        client: the peer's address, for quotas.
        received_s: monotonic seconds when the first byte of the request arrived.
        respond: call exactly once. After `abandon` it does nothing.
    """

    __slots__ = (
        "client",
        "content_length",
        "headers",
        "method",
        "path",
        "query",
        "received_s",
        "request_id",
        "respond",
    )

    def __init__(
        self,
        *,
        method: str,
        path: str,
        query: bytes,
        headers: dict[str, str],
        content_length: int | None,
        request_id: str,
        client: str,
        received_s: float,
        respond: Callable[[Response], None],
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.content_length = content_length
        self.request_id = request_id
        self.client = client
        self.received_s = received_s
        self.respond = respond


class Exchange(Protocol):
    """One admitted request, between its head and its answer."""

    body_max: int
    """Largest body in bytes, after decompression; the protocol answers 413 above it."""

    def hold(self, size: int) -> None:
        """The body has grown to `size` bytes, more than were announced. Raises RequestError if they are too many."""
        ...

    def run(self, body: bytes) -> None:
        """The whole body is in."""
        ...

    def abandon(self) -> None:
        """The client is gone, or the protocol answered for us (408, 413, …): free everything, answer nothing."""
        ...


class Application(Protocol):
    """What the HTTP protocol serves."""

    def begin(self, head: Head) -> Exchange:
        """Route and admit. Raises RequestError to refuse before the body is read."""
        ...
