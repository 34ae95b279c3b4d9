"""The gateway's control socket: whoever connects may publish a snapshot or ask for statistics (docs/processes.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from muleteer.base.errors import SpecError, WireError
from muleteer.spec.snapshot import Snapshot
from muleteer.telemetry.log import log
from muleteer.wire.lines import LineDecoder, encode_line

Apply = Callable[[Snapshot], None]
"""Raises SpecError for a snapshot that contradicts itself."""
Statistics = Callable[[], dict[str, Any]]
"""Names to what msgspec can encode."""


class Steering(asyncio.Protocol):
    """One connection. The socket is private to the user: whoever connects is believed."""

    def __init__(self, apply: Apply, statistics: Statistics) -> None:
        self._apply = apply
        self._statistics = statistics
        self._lines = LineDecoder()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every line, in order. A broken one ends the connection."""
        assert self._transport is not None
        try:
            for message in self._lines.feed(data):
                self._transport.write(encode_line(self.answer(message)))
        except WireError as error:
            log("the control socket was sent no control line", error=str(error))
            self._transport.abort()

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply to one message."""
        kind = message["type"]
        if kind == "statistics":
            return {"type": "statistics", "statistics": self._statistics()}
        if kind != "snapshot":
            return {"type": "refused", "error": f"no message is called {kind!r}"}
        try:
            snapshot = msgspec.convert(message.get("snapshot"), Snapshot)
            self._apply(snapshot)
        except (msgspec.ValidationError, SpecError) as error:
            log("snapshot refused", error=str(error))
            return {"type": "refused", "error": str(error)}
        return {"type": "applied", "revision": snapshot.revision}
