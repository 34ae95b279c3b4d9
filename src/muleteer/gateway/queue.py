"""The line in front of a backend: priorities one after the other, the clients of one in turn, FIFO for each client.
Pure; must not know links or admission.

Where the backend has a target, calls that have missed it already stand behind those of their priority that may still
keep it, in the order of their deadlines, for as long as those leave time for all who wait (`arrange`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
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
    def arrived_s(self) -> float:
        """When it came, monotonic seconds."""
        ...

    @property
    def client(self) -> str:
        """Whose call it is."""
        ...


C = TypeVar("C", bound=Queueable)


class _Line(Generic[C]):
    """The calls of one priority.

    Attributes:
        calls: as they came.
        turns: the same by client, who is next first.
        most: of how many calls the client with the most waits.
    """

    __slots__ = ("_by_count", "calls", "most", "turns")

    def __init__(self) -> None:
        self.calls: OrderedDict[C, None] = OrderedDict()
        self.turns: OrderedDict[str, OrderedDict[C, None]] = OrderedDict()
        self.most = 0
        self._by_count: dict[int, dict[str, None]] = {}

    def push(self, call: C, *, front: bool) -> None:
        client = call.client
        own = self.turns.setdefault(client, OrderedDict())
        assert call not in own
        self.calls[call] = own[call] = None
        if front:
            self.calls.move_to_end(call, last=False)
            own.move_to_end(call, last=False)
            self.turns.move_to_end(client, last=False)
        self._count(client, len(own) - 1, len(own))

    def remove(self, call: C) -> None:
        client = call.client
        own = self.turns[client]
        del self.calls[call], own[call]
        self._count(client, len(own) + 1, len(own))
        if not own:
            del self.turns[client]

    def waiting(self, client: str) -> int:
        return len(self.turns.get(client, ()))

    def in_turn(self) -> Iterator[C]:
        again: deque[Iterator[C]] = deque()
        for own in self.turns.values():
            calls = iter(own)
            yield next(calls)
            if len(own) > 1:
                again.append(calls)
        while again:
            calls = again.popleft()
            call = next(calls, None)
            if call is not None:
                yield call
                again.append(calls)

    def newest_of_most(self) -> C:
        client = next(iter(self._by_count[self.most]))
        return next(reversed(self.turns[client]))

    def _count(self, client: str, before: int, now: int) -> None:
        if before:
            level = self._by_count[before]
            del level[client]
            if not level:
                del self._by_count[before]
        if now:
            self._by_count.setdefault(now, {})[client] = None
        if now > self.most or self.most not in self._by_count:  # a count moves by one, so this one is the most now
            self.most = now


class CallQueue(Generic[C]):
    """Every operation is O(1), removal from the middle included.

    Attributes:
        depth: calls that wait.
        bytes: of their bodies.
    """

    __slots__ = ("_below", "_late", "_late_lines", "_lines", "_waiting", "bytes", "depth")

    def __init__(self) -> None:
        self._lines: tuple[_Line[C], ...] = tuple(_Line() for _ in Priority)
        self._below = tuple(self._lines[:priority:-1] for priority in Priority)  # the lowest first
        self._late: set[C] = set()
        self._late_lines: tuple[_Line[C], ...] = tuple(_Line() for _ in Priority)
        self._waiting: dict[str, int] = {}
        self.depth = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[C]:
        """By priority, then as they came."""
        lines = zip(self._lines, self._late_lines, strict=True)
        return chain.from_iterable(chain(line.calls, late.calls) for line, late in lines)

    def push(self, call: C, *, front: bool = False) -> None:
        """Last of its client's, or first of all in its priority: a call that comes back has waited already."""
        self._lines[call.priority].push(call, front=front)
        self.depth += 1
        self.bytes += call.size
        self._waiting[call.client] = self._waiting.get(call.client, 0) + 1

    def first(self) -> C:
        """The call that is next; it stays. The queue must not be empty."""
        for line, late in zip(self._lines, self._late_lines, strict=True):
            if line.calls:
                return next(iter(next(iter(line.turns.values()))))
            if late.calls:
                return next(iter(late.calls))
        raise IndexError("nobody waits")

    def arrange(self, arrived_before_s: float, due_before_s: float) -> None:
        """Put calls that came before `arrived_before_s` behind the others of their priority, but for those with a
        deadline before `due_before_s`; of those that stand there, put these first again.
        """
        for line, late in zip(self._lines, self._late_lines, strict=True):
            last_s = next(reversed(late.calls)).deadline_s if late.calls else 0.0
            while line.calls:
                call = next(iter(line.calls))
                if call.arrived_s >= arrived_before_s or call.deadline_s < max(due_before_s, last_s):
                    break  # one with an earlier deadline than those behind stays before them
                line.remove(call)
                late.push(call, front=False)
                self._late.add(call)
                last_s = call.deadline_s
            while late.calls and next(iter(late.calls)).deadline_s < due_before_s:
                call = next(iter(late.calls))
                late.remove(call)
                line.push(call, front=True)
                self._late.remove(call)

    def in_turn(self) -> Iterator[C]:
        """In the order in which they would be served one by one; O(1) each. Nothing may come or go meanwhile."""
        lines = zip(self._lines, self._late_lines, strict=True)
        return chain.from_iterable(chain(line.in_turn(), late.calls) for line, late in lines)

    def served(self, call: C) -> None:
        """`call` is about to run: its client had its turn. A call that is dropped takes no turn."""
        if call not in self._late:
            self._lines[call.priority].turns.move_to_end(call.client)

    def remove(self, call: C) -> None:
        """Take a waiting call out, from wherever it stands. It must be here."""
        if call in self._late:
            self._late.remove(call)
            self._late_lines[call.priority].remove(call)
        else:
            self._lines[call.priority].remove(call)
        self.depth -= 1
        self.bytes -= call.size
        left = self._waiting[call.client] - 1
        if left:
            self._waiting[call.client] = left
        else:
            del self._waiting[call.client]

    def ahead_of(self, priority: Priority, client: str) -> int:
        """At most so many of the calls here are served before a new one of `client`: of each other client in its
        priority as many as it has turns itself.
        """
        line = self._lines[priority]
        above = self.depth - len(line.calls)  # the late ones of its own priority too: they were let in before
        for lower in self._below[priority]:
            above -= len(lower.calls)
        above -= sum(len(late.calls) for late in self._late_lines[priority + 1 :])
        own = line.waiting(client)
        others = len(line.turns) - (own > 0)
        return above + min(len(line.calls), own + others * (own + 1))

    def newest_below(self, priority: Priority) -> C | None:
        """The first to be shed for a call of `priority`: the newest of the lowest class below it, or None."""
        for line in self._below[priority]:
            if line.calls:
                return next(reversed(line.calls))
        for late in reversed(self._late_lines[priority + 1 :]):
            if late.calls:
                return next(reversed(late.calls))
        return None

    def newest_of_most(self, call: C) -> C | None:
        """The first to be shed for `call`, which waits, in its own class: the newest of the client of whom most wait;
        None if that is no other than its own, or has no more.
        """
        line = self._lines[call.priority]
        return line.newest_of_most() if line.most > line.waiting(call.client) else None

    def others_wait(self, client: str) -> bool:
        """Whether a call of another client waits."""
        return self.depth > self._waiting.get(client, 0)
