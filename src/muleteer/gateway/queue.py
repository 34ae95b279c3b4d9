"""The line in front of a backend: FIFO within a priority. Pure; must not know links or admission."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

from muleteer.gateway.call import Priority


class Queueable(Protocol):
    """What the queue reads of its members."""

    deadline_s: float
    size: int
    priority: Priority

    @property
    def client(self) -> str:
        """Whose call it is."""
        ...


C = TypeVar("C", bound=Queueable)


class CallQueue(Generic[C]):
    """Every operation is O(1), removal from the middle included.

    Attributes:
        depth: calls that wait.
        bytes: of their bodies.
    """

    __slots__ = ("_below", "_lines", "_waiting", "bytes", "depth")

    def __init__(self) -> None:
        self._lines: tuple[OrderedDict[C, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._below = tuple(self._lines[:priority:-1] for priority in Priority)  # the lowest first
        self._waiting: dict[str, int] = {}
        self.depth = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[C]:
        """In the order of service."""
        return chain(*self._lines)

    def push(self, call: C, *, front: bool = False) -> None:
        """Last of its priority, or first: a call that comes back has waited already."""
        line = self._lines[call.priority]
        assert call not in line
        line[call] = None
        if front:
            line.move_to_end(call, last=False)
        self.depth += 1
        self.bytes += call.size
        self._waiting[call.client] = self._waiting.get(call.client, 0) + 1

    def first(self) -> C:
        """The call that is next; it stays. The queue must not be empty."""
        return next(iter(next(line for line in self._lines if line)))

    def remove(self, call: C) -> None:
        """Take a waiting call out, from wherever it stands. It must be here."""
        del self._lines[call.priority][call]
        self.depth -= 1
        self.bytes -= call.size
        left = self._waiting[call.client] - 1
        if left:
            self._waiting[call.client] = left
        else:
            del self._waiting[call.client]

    def ahead_of(self, priority: Priority) -> int:
        """Calls that are served before a new one of `priority`."""
        ahead = self.depth
        for line in self._below[priority]:
            ahead -= len(line)
        return ahead

    def newest_below(self, priority: Priority) -> C | None:
        """The first to be shed for a call of `priority`: the newest of the lowest class below it, or None."""
        for line in self._below[priority]:
            if line:
                return next(reversed(line))
        return None

    def others_wait(self, client: str) -> bool:
        """Whether a call of another client waits."""
        return self.depth > self._waiting.get(client, 0)
