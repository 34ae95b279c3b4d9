"""The line in front of a backend: priorities one after the other, the clients of one in turn, FIFO for each client.
Pure; must not know links or admission.

Where the backend has a target, calls that have missed it already stand behind those of their priority that may still
keep it (`arrange`): until half of their time is gone, or their turn has come, or their deadlines leave no time for all
who wait. Those go to the front, where calls that come back stand from the beginning, and stay there.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

from muleteer.base.limits import LATE_TURN
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


def _half_s(call: Queueable) -> float:
    """When half of its time is gone."""
    return (call.arrived_s + call.deadline_s) / 2


class _Line(Generic[C]):
    """The calls of one priority.

    Attributes:
        calls: as they came; one pushed to the front before the others.
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

    __slots__ = ("_below", "_elsewhere", "_first", "_late", "_lines", "_passed", "_waiting", "bytes", "depth")

    def __init__(self) -> None:
        self._lines: tuple[_Line[C], ...] = tuple(_Line() for _ in Priority)
        self._below = tuple(self._lines[:priority:-1] for priority in Priority)  # the lowest first
        self._first: tuple[_Line[C], ...] = tuple(_Line() for _ in Priority)
        self._late: tuple[_Line[C], ...] = tuple(_Line() for _ in Priority)
        self._elsewhere: dict[C, _Line[C]] = {}  # who stands before or behind the others of its priority, and where
        self._passed = [0 for _ in Priority]  # calls that ran while others stood behind, since a turn of these
        self._waiting: dict[str, int] = {}
        self.depth = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[C]:
        """By priority, then as they came."""
        places = zip(self._first, self._lines, self._late, strict=True)
        return chain.from_iterable(chain(first.calls, line.calls, late.calls) for first, line, late in places)

    def push(self, call: C, *, front: bool = False) -> None:
        """Last of its client's, or first of all in its priority: a call that comes back has waited already, and never
        stands behind again.
        """
        if front:
            self._place(call, self._first[call.priority], front=True)
        else:
            self._lines[call.priority].push(call, front=False)
        self.depth += 1
        self.bytes += call.size
        self._waiting[call.client] = self._waiting.get(call.client, 0) + 1

    def first(self) -> C:
        """The call that is next; it stays. The queue must not be empty."""
        for first, line, late in zip(self._first, self._lines, self._late, strict=True):
            if first.calls:
                return next(iter(first.calls))
            if line.calls:
                return next(iter(next(iter(line.turns.values()))))
            if late.calls:
                return next(iter(late.calls))
        raise IndexError("nobody waits")

    def arrange(self, now: float, arrived_before_s: float, due_before_s: float) -> None:
        """Put calls that came before `arrived_before_s` behind the others of their priority, but for those with a
        deadline before `due_before_s` and those of whose time half is gone. Of those that stand there such ones come to
        the front, and one for every `LATE_TURN` calls that ran instead.
        """
        for priority in Priority:
            line, late = self._lines[priority], self._late[priority]
            deadline_s, half_s = due_before_s, now
            if late.calls:
                last = next(reversed(late.calls))
                deadline_s, half_s = max(deadline_s, last.deadline_s), max(half_s, _half_s(last))
            while line.calls:
                call = next(iter(line.calls))
                if call.arrived_s >= arrived_before_s or call.deadline_s < deadline_s or _half_s(call) < half_s:
                    break  # one that is due before those behind stays before them
                line.remove(call)
                self._place(call, late)
                deadline_s, half_s = call.deadline_s, _half_s(call)
            while late.calls:
                call = next(iter(late.calls))
                if self._passed[priority] >= LATE_TURN:
                    self._passed[priority] -= LATE_TURN
                elif call.deadline_s >= due_before_s and _half_s(call) > now:
                    break
                late.remove(call)
                self._place(call, self._first[priority])
            if not late.calls:
                self._passed[priority] = 0

    def in_turn(self) -> Iterator[C]:
        """In the order in which they would be served one by one; O(1) each. Nothing may come or go meanwhile."""
        places = zip(self._first, self._lines, self._late, strict=True)
        return chain.from_iterable(chain(first.calls, line.in_turn(), late.calls) for first, line, late in places)

    def served(self, call: C) -> None:
        """`call` is about to run: its client had its turn. A call that is dropped takes no turn, nor does one that
        stands elsewhere.
        """
        if call in self._elsewhere:
            return
        self._lines[call.priority].turns.move_to_end(call.client)
        if self._late[call.priority].calls:
            self._passed[call.priority] += 1

    def remove(self, call: C) -> None:
        """Take a waiting call out, from wherever it stands. It must be here."""
        self._elsewhere.pop(call, self._lines[call.priority]).remove(call)
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
        above = self.depth - len(line.calls)  # those behind of its own priority too: they were let in before
        for lower in self._below[priority]:
            above -= len(lower.calls)
        above -= sum(len(line.calls) for line in (*self._first[priority + 1 :], *self._late[priority + 1 :]))
        own = line.waiting(client)
        others = len(line.turns) - (own > 0)
        return above + min(len(line.calls), own + others * (own + 1))

    def newest_below(self, priority: Priority) -> C | None:
        """The first to be shed for a call of `priority`: the newest of the lowest class below it, or None; nobody who
        stands at the front.
        """
        for line in self._below[priority]:
            if line.calls:
                return next(reversed(line.calls))
        for late in reversed(self._late[priority + 1 :]):
            if late.calls:
                return next(reversed(late.calls))
        return None

    def newest_of_most(self, call: C) -> C | None:
        """The first to be shed for `call`, which waits, in its own class: the newest of the client of whom most wait;
        None if that is no other than its own, or has no more.
        """
        line = self._lines[call.priority]
        return line.newest_of_most() if line.most > line.waiting(call.client) else None

    @property
    def any_behind(self) -> bool:
        """Whether a call stands behind those that came after it."""
        return any(late.calls for late in self._late)

    def others_wait(self, client: str) -> bool:
        """Whether a call of another client waits."""
        return self.depth > self._waiting.get(client, 0)

    def _place(self, call: C, line: _Line[C], *, front: bool = False) -> None:
        line.push(call, front=front)
        self._elsewhere[call] = line
