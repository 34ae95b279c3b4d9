"""The gateway's control socket: whoever connects may publish a snapshot, ask for statistics and loads, and watch what
backends are wanted (docs/processes.md). On a network only who shows the secret is heard.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from muleteer.base.errors import SpecError, WireError
from muleteer.base.limits import HELLO_BYTES_MAX, HELLO_S_MAX, STRANGERS_MAX
from muleteer.gateway.aborts import Aborts
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
    """One connection. Without a secret the socket is private to the user: whoever connects is believed.

    Args:
        steered: the application.
        statistics: what it counts, and more.
        aborts: told to who watches; None: the supervisor hears them.
        secret: what the first line must show.
        strangers: connections that have not shown it yet, of all.
    """

    def __init__(
        self,
        steered: Steered,
        statistics: Statistics,
        *,
        aborts: Aborts | None = None,
        secret: str = "",
        strangers: set[Steering] | None = None,
    ) -> None:
        self._steered = steered
        self._statistics = statistics
        self._aborts = aborts
        self._secret = secret
        self._stranger = bool(secret)
        self._strangers = strangers if strangers is not None else set()
        self._unproven_bytes = 0
        self._lines = LineDecoder()
        self._told: dict[str, int] = {}
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.WriteTransport, transport)
        if not self._stranger:
            return
        if len(self._strangers) >= STRANGERS_MAX:
            self._transport.abort()
            return
        self._strangers.add(self)
        asyncio.get_running_loop().call_later(HELLO_S_MAX, self._end_stranger)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called by the loop."""
        self._steered.demand.unwatch(self._tell)
        if self._aborts is not None:
            self._aborts.unwatch(self._say)
        self._strangers.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer every line, in order; `watch` is answered by what is wanted, if anything. A broken line ends the
        connection.
        """
        assert self._transport is not None
        try:
            if self._stranger:
                self._unproven_bytes += len(data)
                if self._unproven_bytes > HELLO_BYTES_MAX:
                    raise WireError("too much before the secret was shown")
            for message in self._lines.feed(data):
                if self._stranger:
                    self._introduced(message)
                elif message["type"] == "watch":
                    self._watch()
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

    def _introduced(self, message: dict[str, Any]) -> None:
        shown = message.get("secret")
        if message["type"] != "hello" or not isinstance(shown, str):
            raise WireError("hello with the secret comes first")
        if not hmac.compare_digest(shown.encode(), self._secret.encode()):
            raise WireError("the secret is wrong")
        self._stranger = False
        self._strangers.discard(self)

    def _end_stranger(self) -> None:
        if self._stranger and self._transport is not None:
            self._transport.abort()

    def _watch(self) -> None:
        self._steered.demand.unwatch(self._tell)
        self._steered.demand.watch(self._tell)
        if self._aborts is not None:
            self._aborts.unwatch(self._say)
            self._aborts.watch(self._say)

    def _tell(self, backends: list[str]) -> None:
        self._say({"type": "demand", "backends": backends})

    def _say(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(encode_line(message))
