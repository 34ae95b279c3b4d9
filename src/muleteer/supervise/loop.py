"""The turn of the supervisor: descriptors, timers, signals. Single-threaded; must not know what they are for."""

from __future__ import annotations

import heapq
import itertools
import selectors
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

from muleteer.base.clock import Clock

_TURN_S_MAX = 3600.0


class Descriptor(Protocol):
    """What can be watched."""

    def fileno(self) -> int:
        """An open descriptor."""
        ...


class Timer:
    """One thing to do later. `cancel()` may be called at any time, also after it ran."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """It will not run."""
        self.call = None


class Loop:
    """Watches descriptors and runs timers. `open()` before the first turn, `close()` after the last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()

    def open(self, signals: Iterable[signal.Signals], on_signal: Callable[[signal.Signals], None]) -> None:
        """Take over `signals` of this process: each one calls `on_signal` in a turn, never in between."""
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._on_signal = on_signal
        self._selector.register(self._wake_read, selectors.EVENT_READ, (self._take_signals, None))
        self._wakeup_before = signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        self._signals_before = {number: signal.signal(number, _noted) for number in signals}

    def close(self) -> None:
        """Give the signals back and close everything that is ours."""
        for number, before in self._signals_before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup_before)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def watch(self, what: Descriptor, on_read: Callable[[], None], on_write: Callable[[], None] | None = None) -> None:
        """Call `on_read` in each turn in which there is something to read. `on_write` sleeps until `want_write`."""
        self._selector.register(what, selectors.EVENT_READ, (on_read, on_write))

    def want_write(self, what: Descriptor, wanted: bool) -> None:
        """Whether the writing side of a watched descriptor is awake."""
        key = self._selector.get_key(what)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        if key.events != events:
            self._selector.modify(what, events, key.data)

    def forget(self, what: Descriptor) -> None:
        """No longer watch it. To be called before it is closed; harmless if it is not watched."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(what)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Run `call` once, in the first turn that begins `seconds` from now or later."""
        timer = Timer(call)
        heapq.heappush(self._timers, (self._clock.now() + seconds, next(self._sequence), timer))
        return timer

    def turn(self) -> None:
        """Wait for something to happen and deal with all of it once."""
        for key, events in self._selector.select(self._pause()):
            # an earlier callback of this turn may have closed this one, and its number may be another's by now
            if self._selector.get_map().get(key.fd) != key:
                continue
            on_read, on_write = key.data
            if events & selectors.EVENT_WRITE and on_write is not None:
                on_write()
            if events & selectors.EVENT_READ:
                on_read()
        now = self._clock.now()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                call()

    def _pause(self) -> float:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return _TURN_S_MAX
        return min(_TURN_S_MAX, max(0.0, self._timers[0][0] - self._clock.now()))

    def _take_signals(self) -> None:
        for number in self._wake_read.recv(4096):
            self._on_signal(signal.Signals(number))


def _noted(_number: int, _frame: FrameType | None) -> Any:
    """The handler of every signal: the interpreter has written its number to the wake-up socket already."""
