"""One connection that carries JSON lines, on asyncio. Must not know what the messages mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from muleteer.base.errors import WireError
from muleteer.telemetry.log import log
from muleteer.wire.lines import LineDecoder, encode_line


class LineStream(asyncio.Protocol):
    """Used with `loop.create_unix_connection` and its like.

    Args:
        on_message: called with each message, in order; WireError from it ends the connection.
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
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        try:
            for message in self._decoder.feed(data):
                self._on_message(message)
        except WireError as error:
            log("line refused", error=str(error))
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self._transport = None
        self._on_end()
