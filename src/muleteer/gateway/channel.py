"""The gateway's end of the control channel: what it tells the supervisor, and leaving at once when that one dies."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, cast

from muleteer.wire.lines import encode_line

_ORPHANED = 70  # exit status nobody is left to read


class Channel(asyncio.Protocol):
    """Lines out. Nothing is said to a gateway yet, so what comes in is read over."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None

    async def open(self, sock: socket.socket) -> None:
        """From now on the end of the supervisor is the end of this process."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def ready(self) -> None:
        """HTTP is served."""
        self._send({"type": "ready", "info": {}})

    def abort(self, replica: str, pid: int, reason: str) -> None:
        """Have a replica killed, with a stack dump, unless that pid is gone already."""
        self._send({"type": "abort", "process": replica, "pid": pid, "reason": reason})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """The supervisor is gone: nobody would restart us, and the port must not stay bound."""
        os._exit(_ORPHANED)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._transport is not None
        self._transport.write(encode_line(message))
