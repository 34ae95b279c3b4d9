"""An event loop in which time passes only while nothing else happens, however slow or busy the machine is.

For tests in which both ends of every socket live in one loop: what one end wrote the other can read at once, so where
nothing is ready nothing is on its way either, and the next timer is what happens next. A machine that stands still for
seconds lets no deadline pass, and waiting for one takes no time.
"""

import asyncio
import selectors

TURN_S = 0.0001
"""What one turn of the loop takes: no service takes no time at all, and a loop that never rests sees its timers due."""


class UnhurriedLoop(asyncio.SelectorEventLoop):
    """asyncio's, but for its time."""

    def __init__(self):
        self._now_s = 1000.0
        super().__init__(_Impatient(self))

    def time(self):
        return self._now_s

    def pass_time(self, seconds):
        self._now_s += seconds


class _Impatient(selectors.DefaultSelector):
    """Instead of waiting it tells the loop for how long it would have."""

    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        ready = super().select(0 if timeout is not None else None)
        self._loop.pass_time(max(TURN_S, 0.0 if ready else timeout or 0.0))
        return ready


class LoopClock:
    """The clock port, by the running loop."""

    def now(self):
        return asyncio.get_running_loop().time()
