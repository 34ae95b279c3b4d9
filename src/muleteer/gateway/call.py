"""One call: what is asked, by when, and how far it is. Must not know sockets or how a replica is chosen."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, Protocol

from muleteer.gateway.budget import RetryPlace
from muleteer.gateway.exchange import Head
from muleteer.gateway.sessions import Session
from muleteer.gateway.statistics import CallCounts
from muleteer.gateway.way import Way


class CallState(IntEnum):
    """Where a call is."""

    READING = 0  # admitted, the body still arrives
    QUEUED = 1
    RUNNING = 2  # sent to a replica
    SETTLED = 3  # answered, or its client is gone


READING, QUEUED, RUNNING, SETTLED = CallState
MOVES: Final[tuple[frozenset[CallState], ...]] = (
    frozenset({QUEUED, RUNNING, SETTLED}),
    frozenset({READING, RUNNING, SETTLED}),  # as if just read: its backend was removed, another takes it
    frozenset({QUEUED, SETTLED}),  # back to the queue: its replica died, or is draining
    frozenset(),
)
"""`MOVES[state]`: where a call may go from there. A missing entry is a fault of ours."""


class Priority(IntEnum):
    """`x-priority`; the lower number goes first."""

    CRITICAL = 0
    NORMAL = 1
    SHEDDABLE = 2


PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}


class CallLink(Protocol):
    """Where a call runs: one life of a replica."""

    replica: str
    pid: int

    def cancel(self, call: Call) -> None:
        """Nobody waits for the answer any more."""
        ...


class CallOwner(Protocol):
    """Who decides about a call."""

    def hold(self, call: Call, size: int) -> None:
        """Its body grows beyond what was announced. Raises RequestError."""
        ...

    def submit(self, call: Call, body: bytes) -> None:
        """The body is in."""
        ...

    def abandon(self, call: Call) -> None:
        """The client is gone."""
        ...

    def expire(self, call: Call) -> None:
        """The deadline has passed."""
        ...


class Call:
    """One admitted request; it is the `Exchange` that the HTTP side holds.

    Attributes:
        deadline_s: monotonic seconds.
        size: bytes of body that are reserved: as announced while reading (0 if unknown), then as received.
        attempts: times it was sent to a replica that may have run it.
        deaths: of replicas that had it, or times that one broke a rule.
        lost_on: host of the last of those; empty for this machine.
        bounces: times a replica gave it back unrun.
        retried: its place in the retry budget, if it is run again.
        way: from its endpoint to its backend; set when that is known.
        session: None without one.
        counts: of its backend; those of requests, or those of copies.
        copy: nobody waits for it: it is never queued and never run again.
        link, link_id: where it runs, while RUNNING.
        dispatched_s: when it was last sent.
        started_s: when the replica can have begun it, `inf` while it was only sent ahead.
    """

    way: Way[Any]
    counts: CallCounts

    __slots__ = (
        "attempts",
        "body",
        "body_max",
        "bounces",
        "copy",
        "counts",
        "deadline_s",
        "deaths",
        "dispatched_s",
        "head",
        "link",
        "link_id",
        "lost_on",
        "owner",
        "priority",
        "retried",
        "session",
        "size",
        "started_s",
        "state",
        "way",
        "wheel_slot",
    )

    def __init__(
        self, owner: CallOwner, head: Head, *, deadline_s: float, priority: Priority, body_max: int, size: int
    ) -> None:
        self.owner = owner
        self.head = head
        self.deadline_s = deadline_s
        self.priority = priority
        self.body_max = body_max
        self.size = size
        self.state = READING
        self.body = b""
        self.attempts = 0
        self.deaths = 0
        self.lost_on = ""
        self.bounces = 0
        self.retried: RetryPlace | None = None
        self.copy = False
        self.session: Session | None = None
        self.link: CallLink | None = None
        self.link_id = 0
        self.dispatched_s = 0.0
        self.started_s = 0.0
        self.wheel_slot = 0

    @property
    def arrived_s(self) -> float:
        """Monotonic seconds of its first byte."""
        return self.head.received_s

    @property
    def client(self) -> str:
        """Whose call it is: the address it came from."""
        return self.head.client

    def hold(self, size: int) -> None:
        """The body grows beyond what was announced."""
        self.owner.hold(self, size)

    def run(self, body: bytes) -> None:
        """The whole body is in."""
        self.owner.submit(self, body)

    def abandon(self) -> None:
        """The client is gone."""
        self.owner.abandon(self)

    def move(self, state: CallState) -> None:
        """Change state along `MOVES`."""
        assert state in MOVES[self.state], f"a call went from {self.state.name} to {state.name}"
        self.state = state


class Ghost(Call):
    """What stays at a replica of a call that was taken back from it: a settled one, which only holds its place.

    Attributes:
        of: that call.
    """

    __slots__ = ("of",)

    def __init__(self, of: Call) -> None:
        super().__init__(of.owner, of.head, deadline_s=of.deadline_s, priority=of.priority, body_max=0, size=0)
        self.of = of
        self.move(SETTLED)
        self.way, self.counts = of.way, of.counts
        self.link, self.link_id = of.link, of.link_id
        self.dispatched_s, self.started_s = of.dispatched_s, of.started_s
