"""The loop of a replica that works on one call at a time: blocking, in the main thread, without asyncio.

Each turn takes what has arrived on every link, then runs one batch, which is one call where they come singly. So
CANCEL, DRAIN and a second gateway overtake what is queued. A single caller pays three system calls a request; between
calls that are shorter than looking, nobody looks.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from muleteer.base.errors import WireError
from muleteer.replica.answer import Answer, Call
from muleteer.replica.network import Strangers
from muleteer.replica.session import Session
from muleteer.replica.sharing import Sharing
from muleteer.telemetry.log import log
from muleteer.wire.tcp import tune

_READ_BYTES = 256 * 1024
_ACCEPT_PAUSE_S = 0.01
_LOOK_S = 0.0002  # while calls wait; a call that takes longer is always followed by a look


class _Link:
    """One connected gateway: its socket, its session, and what the socket did not take yet."""

    def __init__(self, channel: socket.socket, session: Session) -> None:
        self.channel = channel
        self.session = session
        self.unsent = memoryview(b"")
        self.blocked = False  # the socket took less than we had: poll tells when it takes more


class SyncServer:
    """Serves until it was asked to drain and every link is finished.

    Args:
        listener: listening socket; links that nobody accepted before the end wait in it for the next process.
        new_session: makes the session of a new link.
        run: the calls of one batch through the model, an answer for each; it never raises.
        sharing: tells several gateways of one another.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        new_session: Callable[[], Session],
        run: Callable[[list[Call]], Sequence[Answer]],
        sharing: Sharing | None = None,
    ) -> None:
        self._listener = listener
        self._new_session = new_session
        self._run = run
        self._links: dict[int, _Link] = {}
        self._turns: deque[_Link] = deque()  # links in the order in which they may run a batch
        self._poll = select.poll()
        self._draining = False
        self._looked_s = 0.0
        self._sharing = sharing if sharing is not None else Sharing()
        self._shared = False  # there was a second link: from then on they hear of one another
        self._strangers: Strangers[_Link] = Strangers(lambda link: link.session.stranger)

    def serve(self, announce: Callable[[], None]) -> None:
        """Answer calls, after `announce()`. SIGTERM begins the drain. The listening socket stays open."""
        wake, woken = socket.socketpair()
        with wake, woken:
            wake.setblocking(False)
            woken.setblocking(False)
            self._listener.setblocking(False)
            self._poll.register(self._listener.fileno(), select.POLLIN)
            self._poll.register(woken.fileno(), select.POLLIN)
            previous = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGTERM, lambda *_: _send_byte(wake))  # again, should the model move the wake-up
            try:
                announce()
                while self._links or not self._draining:
                    self._turn(woken)
            finally:
                signal.set_wakeup_fd(previous)

    def _turn(self, woken: socket.socket) -> None:
        busy = any(link.session.has_work for link in self._turns)
        if self._shared and not busy:
            self._tell(None)
            if self._draining and not self._links:
                return  # that was the last that was owed: nothing would end the wait
        if not busy or time.monotonic() - self._looked_s > _LOOK_S:
            self._look(woken, busy=busy)
        self._run_one()

    def _look(self, woken: socket.socket, *, busy: bool) -> None:
        """Take what has arrived; unless `busy`, wait for it."""
        asked = False
        for fd, events in self._poll.poll(0 if busy else self._strangers.pause_ms(time.monotonic())):
            link = self._links.get(fd)
            if link is not None:
                if events & select.POLLOUT:
                    self._flush(link)
                if events & ~select.POLLOUT:
                    self._read(link)
            elif fd == woken.fileno():
                asked = signal.SIGTERM in woken.recv(64)
            elif fd == self._listener.fileno():
                self._accept()
        if asked:  # after the reads: what had arrived is answered, not sent elsewhere
            self._drain()
        self._looked_s = time.monotonic()
        for link in self._strangers.late(self._looked_s):
            self._close(link)

    def _run_one(self) -> None:
        for _ in range(len(self._turns)):
            link = self._turns[0]
            self._turns.rotate(-1)
            if not link.session.has_work:
                continue
            calls = link.session.next_batch(time.monotonic())
            if calls and self._shared:
                self._tell(link)
                began_s = time.monotonic()
                link.session.settle(calls, self._run(calls))
                self._sharing.took(time.monotonic() - began_s)
                self._tell(next((each for each in self._turns if each.session.has_work), None))
            elif calls:
                link.session.settle(calls, self._run(calls))
            self._flush(link)
            return

    def _tell(self, running: _Link | None) -> None:
        """Each gateway hears of the calls of the others: one of `running` is about to begin, or none. What is said with
        an answer costs a gateway no second look.
        """
        links = list(self._turns)
        told = self._sharing.tell([link.session for link in links], [int(link is running) for link in links])
        for link in links if told else ():
            if link.session in told:
                self._flush(link)

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # the peer is gone again, or no descriptor is left: then this must not become a busy loop
            time.sleep(_ACCEPT_PAUSE_S)
            return
        channel.setblocking(False)
        tune(channel)
        link = _Link(channel, self._new_session())
        if link.session.stranger and not self._strangers.let_in(link, time.monotonic()):
            channel.close()
            return
        self._links[channel.fileno()] = link
        self._turns.append(link)
        self._shared = len(self._turns) > 1 or self._shared
        self._poll.register(channel.fileno(), select.POLLIN)

    def _read(self, link: _Link) -> None:
        try:
            data = link.channel.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(link)
            return
        try:
            link.session.receive(data, time.monotonic())  # a plain method cannot be cancelled while it runs
        except WireError as error:
            log("link broken", error=str(error))
            self._close(link)
            return
        self._flush(link)

    def _flush(self, link: _Link) -> None:
        """Send until the session owes nothing or the socket takes no more."""
        while link.unsent or self._take(link):
            try:
                sent = link.channel.send(link.unsent)
            except BlockingIOError:
                break
            except OSError:
                self._close(link)
                return
            link.unsent = link.unsent[sent:]
        if link.session.finished and not link.unsent:
            self._close(link)
        elif link.blocked != bool(link.unsent):
            link.blocked = not link.blocked
            wanted = select.POLLIN | select.POLLOUT if link.blocked else select.POLLIN
            self._poll.modify(link.channel.fileno(), wanted)

    def _take(self, link: _Link) -> bool:
        link.unsent = memoryview(link.session.take())  # a view: a large answer is not copied at each partial send
        return bool(link.unsent)

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        self._poll.unregister(self._listener.fileno())
        for link in list(self._links.values()):
            link.session.drain()
            self._flush(link)

    def _close(self, link: _Link) -> None:
        if self._links.pop(link.channel.fileno(), None) is not None:
            self._turns.remove(link)
            self._poll.unregister(link.channel.fileno())
            link.session.close()
            link.channel.close()


def _send_byte(wake: socket.socket) -> None:
    with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody is left to wake
        wake.send(bytes([signal.SIGTERM]))
