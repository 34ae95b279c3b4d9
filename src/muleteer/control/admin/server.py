"""Serves the admin API on listening sockets. Must not know what it answers.

Starlette and uvicorn cost 300 ms and 20 MB, so they are imported when the first client knocks, and in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from muleteer.base.limits import ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_BYTES_MAX
from muleteer.control.admin.operation import Control
from muleteer.control.admin.security import Gate, Guarded

if TYPE_CHECKING:
    from uvicorn import Server


class Listener(msgspec.Struct, frozen=True):
    """A listening socket, and what is let in there."""

    socket: socket.socket
    gate: Gate


class AdminServer:
    """Clients wait in the backlog while the server is being imported.

    Args:
        on_failure: told once if the server ends by itself.
    """

    def __init__(
        self, listeners: Sequence[Listener], control: Control, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._listeners = listeners
        self._control = control
        self._on_failure = on_failure
        self._servers: list[Server] = []
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Wait for the first client."""
        for listener in self._listeners:
            listener.socket.setblocking(False)
            asyncio.get_running_loop().add_reader(listener.socket, self._knock)

    async def close(self) -> None:
        """Answer what is open, for at most a second, and close the sockets."""
        self._ignore_knocks()
        if self._servers and self._task is not None:
            for server in self._servers:
                server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        elif self._task is not None:
            self._task.cancel()
        for listener in self._listeners:
            listener.socket.close()

    def _ignore_knocks(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener.socket)

    def _knock(self) -> None:
        self._ignore_knocks()
        self._task = asyncio.create_task(self._serve())
        self._task.add_done_callback(self._ended)

    async def _serve(self) -> None:
        gates = [listener.gate for listener in self._listeners]
        self._servers = await asyncio.to_thread(_build_servers, self._control, gates)
        async with asyncio.TaskGroup() as tasks:
            for server, listener in zip(self._servers, self._listeners, strict=True):
                tasks.create_task(server.serve(sockets=[listener.socket]))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)


def _build_servers(control: Control, gates: Sequence[Gate]) -> list[Server]:
    import uvicorn

    from muleteer.control.admin.app import build_app

    class QuietServer(uvicorn.Server):
        """Leaves the signals to us."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    app = build_app(control)
    return [
        QuietServer(
            uvicorn.Config(
                Guarded(app, gate),
                http="h11",  # it bounds the head of a request; the other parser of uvicorn does not
                h11_max_incomplete_event_size=ADMIN_HEAD_BYTES_MAX,
                limit_concurrency=ADMIN_CONNECTIONS_MAX,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        for gate in gates
    ]
