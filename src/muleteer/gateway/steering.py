"""The gateway's control socket: whoever connects may publish a snapshot, ask for statistics and loads, and watch what
backends are wanted (docs/processes.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from muleteer.base.errors import SpecError, WireError
from muleteer.gateway.demand import Demand
from muleteer.gateway.load import Load
from muleteer.spec.snapshot import Snapshot
from muleteer.telemetry.log import log
from muleteer.wire.lines import LineDecoder, encode_line

Statistics = Callable[[], dict[str, Any]]
"""Names to what msgspec can encode."""


class Steered(Protocol):
    """What is steered: the application."""

    demand: Demand

    @property
    def epoch(self) -> str:
        """See Application."""
        ...

    def apply(self, snapshot: Snapshot) -> None:
        """Raises SpecError for a snapshot that contradicts itself."""
        ...

    def loads(self, told: dict[str, int]) -> dict[str, Load]:
        """See Application."""
        ...


class Steering(asyncio.Protocol):
    """One connection. The socket is private to the user: whoever connects is believed."""

    def __init__(self, steered: Steered, statistics: Statistics) -> None:
        self._steered = steered
        self._statistics = statistics
        self._lines = LineDecoder()
        self._told: dict[str, int] = {}
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called by the loop."""
        self._steered.demand.unwatch(self._tell)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer every line, in order; `watch` is answered by what is wanted, if anything. A broken line ends the
        connection.
        """
        assert self._transport is not None
        try:
            for message in self._lines.feed(data):
                if message["type"] == "watch":
                    self._steered.demand.unwatch(self._tell)
                    self._steered.demand.watch(self._tell)
                else:
                    self._transport.write(encode_line(self.answer(message)))
        except WireError as error:
            log("the control socket was sent no control line", error=str(error))
            self._transport.abort()

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply to one message."""
        kind = message["type"]
        if kind == "statistics":
            return {"type": "statistics", "statistics": self._statistics()}
        if kind == "load":
            return {"type": "load", "epoch": self._steered.epoch, "backends": self._steered.loads(self._told)}
        if kind != "snapshot":
            return {"type": "refused", "error": f"no message is called {kind!r}"}
        try:
            snapshot = msgspec.convert(message.get("snapshot"), Snapshot)
            self._steered.apply(snapshot)
        except (msgspec.ValidationError, SpecError) as error:
            log("snapshot refused", error=str(error))
            return {"type": "refused", "error": str(error)}
        return {"type": "applied", "revision": snapshot.revision}

    def _tell(self, backends: list[str]) -> None:
        if self._transport is not None:
            self._transport.write(encode_line({"type": "demand", "backends": backends}))
