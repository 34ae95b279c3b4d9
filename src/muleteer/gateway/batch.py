"""Calls that were sent to a replica together, and those of one link. Must not know queues, sizes or sockets."""

from __future__ import annotations

from typing import Generic, TypeVar

from muleteer.gateway.begun import SENT_AHEAD, Begun
from muleteer.gateway.call import Call

O = TypeVar("O")  # noqa: E741 - an outcome: the answer, or why there is none


class Batch(Generic[O]):
    """Calls that hold one slot together, until the last of them has its outcome.

    Attributes:
        calls: all of them, by wire id.
        outcomes: so far, in the order in which they came.
        started_s: when the replica can have begun it, `SENT_AHEAD` while it waits there; the same for each call.
        service_us: in the user's method, as the replica says.
    """

    __slots__ = ("calls", "outcomes", "service_us", "started_s")

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.outcomes: list[tuple[Call, O]] = []
        self.started_s = SENT_AHEAD
        self.service_us = 0

    @property
    def whole(self) -> bool:
        """Whether every call has its outcome."""
        return len(self.outcomes) == len(self.calls)

    def begin(self, now: float) -> None:
        """The replica can begin it."""
        self.started_s = now
        for call in self.calls.values():
            call.started_s = now


class Batches(Generic[O]):
    """The open ones of a link to a replica that works on `concurrency` of them at once.

    Attributes:
        members: by the wire id of each call without an outcome.
    """

    __slots__ = ("_begun", "members")

    def __init__(self, concurrency: int) -> None:
        self.members: dict[int, Batch[O]] = {}
        self._begun: Begun[Batch[O]] = Begun(concurrency, Batch.begin)

    @property
    def begun_s(self) -> float:
        """When the oldest of them began; `SENT_AHEAD` if there is none."""
        return next(iter(self.members.values())).started_s if self.members else SENT_AHEAD

    def add(self, batch: Batch[O], now: float) -> None:
        """It is sent."""
        self.members |= dict.fromkeys(batch.calls, batch)
        self._begun.add(batch, now)

    def ended(self, batch: Batch[O], now: float) -> None:
        """It is whole."""
        self._begun.ended(batch, now)

    def resize(self, room: int, now: float) -> None:
        """The replica has room for so many of ours."""
        self._begun.resize(room, now)

    def ahead(self) -> list[int]:
        """Wire ids of the calls that were sent ahead, newest first."""
        return [id for id, batch in reversed(self.members.items()) if batch.started_s == SENT_AHEAD]

    def partial(self) -> list[Batch[O]]:
        """Those of which some calls have their outcome and others have not."""
        return [batch for batch in dict.fromkeys(self.members.values()) if batch.outcomes]
