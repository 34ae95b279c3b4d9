"""The rules of a link: which end may send what, when. Sans-IO; both ends use this class.

Laws:
1. Each end has its own state; `TABLE[role, state]` holds the frame types that end may send and where each leads.
   A missing entry *is* the illegal move.
2. HELLO wakes the replica's machine, READY opens the gateway's (`COUPLED`).
3. Every CALL gets exactly one terminal frame (REPLY, END or ERROR with its id), also after CANCEL: slots are counted
   by it. An id is not used again while its call is open.
4. After its DRAIN a gateway sends no CALL, and a replica answers what it has and then closes. A CALL that crosses the
   replica's DRAIN on the wire is answered with ERROR `draining`, which promises that it was not run.
5. After an error the connection is dead: an unsynchronised stream is never read on.
6. A batch comes whole: after a CALL with the flag MORE the gateway's next frame is a CALL. Each member has an id of its
   own, and law 3 holds for it as for any other call.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from muleteer.base.errors import WireError
from muleteer.wire import frames
from muleteer.wire.frames import Flag, Frame, FrameDecoder, FrameType


class Role(Enum):
    """Which end of a link."""

    __hash__ = object.__hash__  # Enum's own runs in Python, several times a frame

    GATEWAY = "gateway"
    REPLICA = "replica"


class State(Enum):
    """What one end has done so far."""

    __hash__ = object.__hash__

    START = "start"  # nothing sent
    GREETED = "greeted"  # gateway: HELLO sent, waits for READY; replica: HELLO received, model may still load
    OPEN = "open"  # calls flow
    DRAINED = "drained"  # sent DRAIN
    DEAD = "dead"  # a rule was broken, or the stream ended


_T = FrameType
TABLE: Final[dict[tuple[Role, State], dict[FrameType, State]]] = {
    (Role.GATEWAY, State.START): {_T.HELLO: State.GREETED},
    (Role.GATEWAY, State.GREETED): {},
    (Role.GATEWAY, State.OPEN): {
        _T.CALL: State.OPEN,
        _T.CANCEL: State.OPEN,
        _T.STATS: State.OPEN,
        _T.DRAIN: State.DRAINED,
    },
    (Role.GATEWAY, State.DRAINED): {_T.CANCEL: State.DRAINED, _T.STATS: State.DRAINED},
    (Role.GATEWAY, State.DEAD): {},
    (Role.REPLICA, State.START): {},
    (Role.REPLICA, State.GREETED): {_T.READY: State.OPEN},
    (Role.REPLICA, State.OPEN): {
        _T.REPLY: State.OPEN,
        _T.CHUNK: State.OPEN,
        _T.END: State.OPEN,
        _T.ERROR: State.OPEN,
        _T.STATS: State.OPEN,
        _T.DRAIN: State.DRAINED,
    },
    (Role.REPLICA, State.DRAINED): {
        _T.REPLY: State.DRAINED,
        _T.CHUNK: State.DRAINED,
        _T.END: State.DRAINED,
        _T.ERROR: State.DRAINED,
        _T.STATS: State.DRAINED,
    },
    (Role.REPLICA, State.DEAD): {},
}
COUPLED: Final[dict[FrameType, tuple[Role, State, State]]] = {
    _T.HELLO: (Role.REPLICA, State.START, State.GREETED),
    _T.READY: (Role.GATEWAY, State.GREETED, State.OPEN),
}
TERMINAL: Final = frozenset({_T.REPLY, _T.END, _T.ERROR})
_MORE = int(Flag.MORE)


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """What `Connection.statistics()` returns: states of both ends, open calls, unread bytes."""

    ours: str
    theirs: str
    open_calls: int
    buffered_bytes: int


class Connection:
    """One end of a link.

    Args:
        role: which end this is.
        payload_max: the largest payload accepted, in bytes.
    """

    def __init__(self, role: Role, *, payload_max: int) -> None:
        self.role = role
        self._peer = Role.REPLICA if role is Role.GATEWAY else Role.GATEWAY
        self._states = {Role.GATEWAY: State.START, Role.REPLICA: State.START}
        self._legal = {role: TABLE[role, State.START] for role in Role}  # the row of each end's state
        self._decoder = FrameDecoder(payload_max)
        self._open: set[int] = set()
        self._in_batch = False  # the gateway's last frame was a CALL with MORE

    @property
    def state(self) -> State:
        """Our end."""
        return self._states[self.role]

    @property
    def peer_state(self) -> State:
        """The other end, as far as its frames have arrived."""
        return self._states[self._peer]

    @property
    def open_calls(self) -> int:
        """Calls without a terminal frame."""
        return len(self._open)

    def receive(self, data: bytes) -> list[Frame]:
        """Frames that `data` completes, each one legal. Raises WireError, after which the connection is DEAD."""
        if self._states[self._peer] is State.DEAD:
            raise WireError("the link is dead")
        try:
            received = self._decoder.feed(data)
            for frame in received:
                self._move(self._peer, frame.type, frame.id, frame.flags)
        except WireError:
            self.close()
            raise
        return received

    def send(self, kind: FrameType, *, id: int = 0, budget: int = 0, flags: int = 0, payload: bytes = b"") -> bytes:
        """The bytes to write for one frame. Raises WireError (a fault of the caller) where the table forbids it."""
        self._move(self.role, kind, id, flags)
        return frames.encode(kind, id=id, budget=budget, flags=flags, payload=payload)

    def close(self) -> None:
        """The stream ended or broke: both ends are DEAD."""
        for role in Role:
            self._enter(role, State.DEAD)
        self._decoder.discard()

    def statistics(self) -> ConnectionStatistics:
        """A frozen snapshot."""
        return ConnectionStatistics(self.state.value, self.peer_state.value, len(self._open), self._decoder.buffered)

    def _move(self, role: Role, kind: FrameType, id: int, flags: int) -> None:
        follows = self._legal[role].get(kind)
        if follows is None:
            raise WireError(f"{role.value} may not send {kind.name} in state {self._states[role].value}")
        if kind is _T.CALL:
            if id in self._open:
                raise WireError(f"call {id} is already open")
            self._open.add(id)
            self._in_batch = bool(flags & _MORE)
        elif self._in_batch and role is Role.GATEWAY:
            raise WireError(f"{kind.name} inside a batch")
        elif kind in TERMINAL:
            if id not in self._open:
                raise WireError(f"{kind.name} for call {id}, which is not open")
            self._open.discard(id)
        elif kind is _T.CHUNK and id not in self._open:
            raise WireError(f"CHUNK for call {id}, which is not open")
        if follows is not self._states[role]:
            self._enter(role, follows)
            coupled = COUPLED.get(kind)
            if coupled is not None:
                other, before, after = coupled
                if self._states[other] is before:
                    self._enter(other, after)

    def _enter(self, role: Role, state: State) -> None:
        self._states[role] = state
        self._legal[role] = TABLE[role, state]
