"""Backends that calls came for and that nothing serves: remembered until something does, and told to whoever watches.
Must not know calls, nor who watches or what they do about it.

A demand is told at once, several together, and again every DEMAND_REPEAT_S while it stands: so it survives a controller
that is away, and one that was killed just after it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from muleteer.base.clock import Clock
from muleteer.base.limits import DEMAND_KEPT_S, DEMAND_REPEAT_S

Tell = Callable[[list[str]], None]
"""Told the names of all backends that are wanted."""


class Demand:
    """Of one gateway. Lives in one event loop.

    Args:
        waits: whether calls wait for a backend now: then the demand stands, else for DEMAND_KEPT_S after the last.
    """

    def __init__(self, clock: Clock, waits: Callable[[str], bool]) -> None:
        self._now = clock.now
        self._waits = waits
        self._called_s: dict[str, float] = {}
        self._watchers: list[Tell] = []
        self._timer: asyncio.Handle | None = None

    def want(self, backend: str) -> None:
        """A call came, and nothing serves it."""
        new = backend not in self._called_s
        self._called_s[backend] = self._now()
        if new:
            self._tell_in(0.0)

    def keep(self, unserved: Callable[[str], bool]) -> None:
        """The world has changed: demands of backends that are served now, or gone, are over."""
        for backend in [name for name in self._called_s if not unserved(name)]:
            del self._called_s[backend]

    def watch(self, tell: Tell) -> None:
        """Tell what stands, and from now on what comes."""
        self._watchers.append(tell)
        if self._called_s:
            tell([*self._called_s])

    def unwatch(self, tell: Tell) -> None:
        """No more; one that does not watch is ignored."""
        if tell in self._watchers:
            self._watchers.remove(tell)

    def close(self) -> None:
        """Tell nobody any more."""
        self._watchers.clear()
        self._called_s.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _tell_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tell)

    def _tell(self) -> None:
        self._timer = None
        now = self._now()
        self.keep(lambda name: now - self._called_s[name] < DEMAND_KEPT_S or self._waits(name))
        if self._called_s:
            names = [*self._called_s]
            for tell in self._watchers:
                tell(names)
            self._tell_in(DEMAND_REPEAT_S)
