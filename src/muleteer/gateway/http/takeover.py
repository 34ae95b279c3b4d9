"""Takes the connections that wait for another gateway, which does not accept: it is being replaced, or is very busy.

Each of several gateways has a listening socket of its own on the one port (SO_REUSEPORT), so the kernel spreads new
connections evenly, however many come at once; with one socket for all, whichever process is awake takes a whole burst.
The supervisor holds all of these sockets, so the line of a gateway that died goes on growing; but nobody needs to wait
in it until the next life.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Sequence

from muleteer.base.limits import TAKEOVER_S


class Takeover:
    """Looks at the lines of others; what waits in one for TAKEOVER_S is ours.

    Args:
        listeners: those of the other gateways; closed with this object.
        new_protocol: serves one connection.
    """

    def __init__(self, listeners: Sequence[socket.socket], new_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._new_protocol = new_protocol
        self._poll = select.poll()
        self._waited: set[int] = set()  # lines in which somebody waited at the last look
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def open(self) -> None:
        """Begin to look, in the running loop."""
        for number, listener in self._listeners.items():
            listener.setblocking(False)
            self._poll.register(number, select.POLLIN)
        if self._listeners:
            self._look()

    def close(self) -> None:
        """Take no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TAKEOVER_S, self._look)
        waiting = {number for number, _ in self._poll.poll(0)}
        for number in waiting & self._waited:
            self._take(self._listeners[number], loop)
        self._waited = waiting

    def _take(self, listener: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:  # nobody waits any more, or no descriptor is left: the next look is soon enough
                return
            task = loop.create_task(self._serve(channel, loop))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, channel: socket.socket, loop: asyncio.AbstractEventLoop) -> object:
        try:
            return await loop.connect_accepted_socket(self._new_protocol, channel)
        except OSError:  # it has left meanwhile
            channel.close()
            return None
