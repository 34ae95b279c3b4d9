"""One connection that carries JSON lines, on asyncio. Must not know what the messages mean."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from muleteer.base.errors import WireError
from muleteer.base.limits import LINK_DIAL_S, LINK_SILENCE_S
from muleteer.telemetry.log import log
from muleteer.wire.lines import LineDecoder, encode_line
from muleteer.wire.tls import client_context


class LineStream(asyncio.Protocol):
    """Used with `loop.create_unix_connection`.

    Args:
        on_message: called with each message, in order.
        on_end: called once, when the peer has closed, died or broken the line protocol.
    """

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._decoder = LineDecoder()
        self._transport: asyncio.Transport | None = None

    def send(self, message: Any) -> None:
        """Queue one message; does nothing before and after the connection."""
        if self._transport is not None:
            self._transport.write(encode_line(message))

    def close(self) -> None:
        """Leave at once; `on_end` follows."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        try:
            messages = self._decoder.feed(data)
        except WireError as error:
            log("control line refused", error=str(error))
            self.close()
            return
        for message in messages:
            self._on_message(message)

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self._transport = None
        self._on_end()


async def connect(address: str, new_stream: Callable[[], LineStream]) -> LineStream:
    """Open `unix:path`, `tcp:host:port` or `tls:host:port`; the kernel finds out if the other end falls silent.

    Raises OSError, UsageError where our certificate is of no use.
    """
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        return (await loop.create_unix_connection(new_stream, rest))[1]
    host, _, port = rest.rpartition(":")
    try:
        async with asyncio.timeout(LINK_DIAL_S):
            context = client_context() if scheme == "tls" else None
            transport, stream = await loop.create_connection(
                new_stream, host.strip("[]"), int(port), ssl=context, server_hostname="" if context else None
            )
    except TimeoutError as error:
        raise OSError(f"{rest} does not answer") from error
    channel = transport.get_extra_info("socket")
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int(LINK_SILENCE_S))
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LINK_SILENCE_S * 1000))
    return stream
