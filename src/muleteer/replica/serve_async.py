"""The loop of a replica that works on several calls at once: coroutines, or a plain method in threads."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import cast

from muleteer.base.errors import WireError
from muleteer.base.limits import LISTEN_BACKLOG
from muleteer.replica.answer import Answer, Call
from muleteer.replica.network import Strangers
from muleteer.replica.session import CANCELLED, Session
from muleteer.replica.sharing import Sharing
from muleteer.telemetry.log import log
from muleteer.wire.tcp import tune

_Run = asyncio.Future[Sequence[Answer]]


class AsyncServer:
    """Serves until it was asked to drain and every link is finished.

    Args:
        listener: listening socket; links that nobody accepted before the end wait in it for the next process.
        new_session: makes the session of a new link.
        run: the calls of one batch (one call, if they come singly) through the model, an answer for each; it raises
            nothing but CancelledError when it is cancelled.
        concurrency: batches that run at once, over all links.
        cancels: what runs can be cancelled; a thread cannot, and its slot is taken until it ends.
        sharing: tells several gateways of one another.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        new_session: Callable[[], Session],
        run: Callable[[list[Call]], Awaitable[Sequence[Answer]]],
        concurrency: int,
        cancels: bool,
        sharing: Sharing | None = None,
    ) -> None:
        self._listener = listener
        self._new_session = new_session
        self._run = run
        self._slots = concurrency
        self._cancels = cancels
        self._running = 0
        self._sharing = sharing if sharing is not None else Sharing()
        self._shared = False  # there was a second link: from then on they hear of one another
        self._links: list[_Link] = []  # in the order in which they may run a batch
        self._draining = False
        self._empty = asyncio.Event()
        self._strangers: Strangers[_Link] = Strangers(lambda link: link.session.stranger)
        self._watched = False  # a timer rings when the first of them is late

    async def serve(self, announce: Callable[[], None]) -> None:
        """Answer calls, after `announce()`. SIGTERM begins the drain. The listening socket stays open."""
        loop = asyncio.get_running_loop()
        listener = self._listener.dup()  # closing the server must not close the socket that the supervisor lent us
        # not create_unix_server: from Python 3.13 on it would unlink the supervisor's path
        server = await loop.create_server(
            lambda: _Link(self, self._new_session()), sock=listener, backlog=LISTEN_BACKLOG
        )
        loop.add_signal_handler(signal.SIGTERM, self._drain, server)
        announce()
        await self._empty.wait()

    def opened(self, link: _Link) -> None:
        """A gateway has dialled."""
        self._links.append(link)
        self._shared = len(self._links) > 1 or self._shared
        if link.session.stranger:
            now = time.monotonic()
            if not self._strangers.let_in(link, now):
                link.abort()
                return
            if not self._watched:
                self._end_late_strangers()
        if self._draining:
            link.drain()

    def closed(self, link: _Link) -> None:
        """A link is gone, with its calls."""
        self._links.remove(link)
        if self._draining and not self._links:
            self._empty.set()

    def start_calls(self) -> None:
        """Start waiting batches while there are slots, one link after the other."""
        idle = 0
        while self._slots and idle < len(self._links):
            link = self._links.pop(0)
            self._links.append(link)
            calls = link.session.next_batch(time.monotonic())
            if not calls:
                idle += 1
                continue
            idle = 0
            self._slots -= 1
            self._running += 1
            task = asyncio.ensure_future(self._run(calls))
            link.running[task] = {call.id for call in calls}
            task.add_done_callback(partial(self._answered, link, calls, time.monotonic()))
        if self._shared:
            self._tell()
        for link in list(self._links):
            link.flush()

    def cancel(self, tasks: Iterable[_Run]) -> None:
        """Nobody waits for these answers any more."""
        if self._cancels:
            for task in tasks:
                task.cancel()

    def _tell(self) -> None:
        """Each gateway hears of the calls of the others, those of gateways that are gone included."""
        gone = self._running - sum(len(link.running) for link in self._links)
        self._sharing.tell([link.session for link in self._links], [len(link.running) for link in self._links], gone)

    def _answered(self, link: _Link, calls: list[Call], began_s: float, task: _Run) -> None:
        self._slots += 1
        self._running -= 1
        self._sharing.took(time.monotonic() - began_s)
        del link.running[task]
        link.session.settle(calls, [CANCELLED] * len(calls) if task.cancelled() else task.result())
        self.start_calls()

    def _end_late_strangers(self) -> None:
        now = time.monotonic()
        for link in self._strangers.late(now):
            link.abort()
        pause_ms = self._strangers.pause_ms(now)
        self._watched = pause_ms is not None
        if pause_ms is not None:
            # uvloop counts from when its loop last woke, so this may ring before its time: then it is set again
            asyncio.get_running_loop().call_later(pause_ms / 1000, self._end_late_strangers)

    def _drain(self, server: asyncio.Server) -> None:
        if self._draining:
            return
        self._draining = True
        server.close()
        for link in list(self._links):
            link.drain()
        if not self._links:
            self._empty.set()


class _Link(asyncio.Protocol):
    """One connected gateway: its transport, its session, and its running batches with those who still wait for them."""

    def __init__(self, server: AsyncServer, session: Session) -> None:
        self.session = session
        self.running: dict[_Run, set[int]] = {}
        self._server = server
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        channel = transport.get_extra_info("socket")
        if channel is not None:
            tune(channel)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            cancelled = self.session.receive(data, time.monotonic())
        except WireError as error:
            log("link broken", error=str(error))
            self.abort()
            return
        if cancelled:
            self._server.cancel(self._forsaken(cancelled))
        self._server.start_calls()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self.session.close()
        self._server.cancel(list(self.running))
        self._server.closed(self)

    def _forsaken(self, cancelled: list[int]) -> list[_Run]:
        """The batches none of whose calls is waited for any more."""
        for waiting in self.running.values():
            waiting.difference_update(cancelled)
        return [task for task, waiting in self.running.items() if not waiting]

    def abort(self) -> None:
        """Close now; `connection_lost` follows."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """Tell the gateway to stop sending calls."""
        self.session.drain()
        self.flush()

    def flush(self) -> None:
        """Write what the session owes; close the link when that was all."""
        if self._transport is None:
            return
        data = self.session.take()
        if data:
            self._transport.write(data)
        if self.session.finished:
            self._transport.close()
