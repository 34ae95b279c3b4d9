"""Deadlines of all calls under one timer. Pure; must not know what a deadline ends."""

from __future__ import annotations

from muleteer.base.limits import DEADLINE_TICK_S
from muleteer.gateway.call import Call


class DeadlineWheel:
    """Calls by the tick that follows their deadline. `add` and `discard` cost two dict look-ups, however many wait."""

    __slots__ = ("_count", "_slots", "_swept")

    def __init__(self, now: float) -> None:
        self._slots: dict[int, dict[Call, None]] = {}
        self._count = 0
        self._swept = int(now / DEADLINE_TICK_S)

    def __len__(self) -> int:
        return self._count

    def add(self, call: Call) -> None:
        """Watch `call.deadline_s`."""
        slot = max(int(call.deadline_s / DEADLINE_TICK_S), self._swept) + 1
        call.wheel_slot = slot
        members = self._slots.get(slot)
        if members is None:
            members = self._slots[slot] = {}
        members[call] = None
        self._count += 1

    def discard(self, call: Call) -> None:
        """Watch it no longer, if it was watched."""
        members = self._slots.get(call.wheel_slot)
        if members is not None and call in members:
            del members[call]
            self._count -= 1
            if not members:
                del self._slots[call.wheel_slot]

    def expired(self, now: float) -> list[Call]:
        """The calls whose deadline has passed, at most one tick ago if asked every tick. They leave the wheel."""
        upto = int(now / DEADLINE_TICK_S)
        if upto <= self._swept:
            return []
        if upto - self._swept > len(self._slots):
            due = sorted(slot for slot in self._slots if slot <= upto)
        else:
            due = [slot for slot in range(self._swept + 1, upto + 1) if slot in self._slots]
        self._swept = upto
        calls = [call for slot in due for call in self._slots.pop(slot)]
        self._count -= len(calls)
        return calls
