"""JSON lines on one asyncio connection, for both ends of the bridge. Must not know what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from muleteer.base.errors import WireError
from muleteer.telemetry.log import log
from muleteer.wire.lines import LineDecoder, encode_line


class Lines(asyncio.Protocol):
    """Args:
    on_message: called with each message, in order; WireError from it ends the connection.
    on_end: called once, when it is gone.
    """

    def __init__(self, on_message: Callable[[Lines, dict[str, Any]], None], on_end: Callable[[Lines], None]) -> None:
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
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        try:
            for message in self._decoder.feed(data):
                self._on_message(self, message)
        except WireError as error:
            log("line refused", error=str(error))
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self._transport = None
        self._on_end(self)
