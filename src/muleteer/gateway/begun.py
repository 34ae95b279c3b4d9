"""Which of the things that were sent to a replica it can have begun. Pure; must not know calls, batches or sockets.

A replica begins what one gateway sends in the order in which it came, as far as it has room: its slots, less those that
other gateways' calls take. What it cannot have begun stands there `SENT_AHEAD`: it does not run, so it is neither
hung nor a suspect when the replica dies, and it may be taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
SENT_AHEAD = math.inf
"""`started_s` of what waits at the replica behind others."""


class Begun(Generic[T]):
    """Those of one link.

    Args:
        room: so many can be begun at once.
        begin: called with each that can be begun, and since when; with `SENT_AHEAD` for one that cannot (any more).
    """

    __slots__ = ("_ahead", "_begin", "_begun", "_room")

    def __init__(self, room: int, begin: Callable[[T, float], None]) -> None:
        self._room = room
        self._begin = begin
        self._begun: dict[T, None] = {}  # both in the order in which they were sent
        self._ahead: dict[T, None] = {}

    @property
    def ahead(self) -> list[T]:
        """What was sent ahead, newest first."""
        return [*reversed(self._ahead)]

    def add(self, item: T, now: float) -> None:
        """It is sent."""
        if len(self._begun) < self._room:
            self._begun[item] = None
            self._begin(item, now)
        else:
            self._ahead[item] = None
            self._begin(item, SENT_AHEAD)

    def ended(self, item: T, now: float) -> None:
        """It needs no room any more: the next one that was sent ahead can be begun."""
        if item not in self._begun:  # refused unrun
            del self._ahead[item]
            return
        del self._begun[item]
        if self._ahead:
            self._fill(now)

    def resize(self, room: int, now: float) -> None:
        """There is room for so many: the newest that were thought to be begun are not, or the next ones are."""
        self._room = room
        while len(self._begun) > room:
            item, _ = self._begun.popitem()
            self._ahead = {item: None, **self._ahead}
            self._begin(item, SENT_AHEAD)
        self._fill(now)

    def _fill(self, now: float) -> None:
        while self._ahead and len(self._begun) < self._room:
            item = next(iter(self._ahead))
            del self._ahead[item]
            self._begun[item] = None
            self._begin(item, now)
