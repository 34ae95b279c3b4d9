"""One link as the replica sees it: bytes in, calls out; answers in, bytes out. Sans-IO; must not know models or loops.

Laws, beyond those of `wire.connection`:
1. A call is waiting, running or settled; each gets one terminal frame, and only `_finish` writes it.
2. A call that expired, was cancelled or arrived after our DRAIN before it ran is refused, and was not run.
3. What arrived before our DRAIN is answered. The link is finished when it is idle and the gateway drained or closed.
4. Calls that were sent as one batch start together, when the last of them is in. A call by itself is a batch of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from muleteer.base.errors import WireError
from muleteer.base.limits import HELLO_BYTES_MAX
from muleteer.replica.answer import EXPIRED, Answer, Call, refusal
from muleteer.replica.network import is_right
from muleteer.wire.connection import Connection, ConnectionStatistics, Role, State
from muleteer.wire.frames import Flag, Frame, FrameType, split_payload

if TYPE_CHECKING:
    from muleteer.replica.sealed import Sealed

PROTOCOL = 1
_MORE = int(Flag.MORE)


class Ready(msgspec.Struct, frozen=True):
    """Payload of READY. `warm_up_us`: the user's method took this long with the example; 0 if there is none. `batch`:
    several calls may be sent as one batch, and `concurrency` counts batches.
    """

    backend: str
    replica: str
    pid: int
    concurrency: int
    warm_up_us: int = 0
    batch: bool = False


class _Hello(msgspec.Struct):
    protocol: int
    gateway: str = ""
    secret: str = ""


class _CallMeta(msgspec.Struct):
    id: str = ""
    once: bool = False


_NO_METADATA = _CallMeta()


class SessionStatistics(msgspec.Struct, frozen=True):
    """What `Session.statistics()` returns."""

    waiting: int
    running: int
    draining: bool
    connection: ConnectionStatistics


_encode = msgspec.json.Encoder().encode
_hello = msgspec.json.Decoder(_Hello)
_call_meta = msgspec.json.Decoder(_CallMeta)
CANCELLED = refusal("cancelled", "the gateway took the call back")
_DRAINING = refusal("draining", "the replica is stopping")


class Session:
    """The replica's end of one link.

    Args:
        ready: what READY tells the gateway.
        payload_max: largest frame payload accepted, in bytes.
        secret: what HELLO must show; empty where nobody but the gateway can reach us.
        sealed: its TLS; None: bytes come and go as they are.

    Attributes:
        stranger: it has not shown the secret yet.
    """

    def __init__(self, ready: Ready, *, payload_max: int, secret: str = "", sealed: Sealed | None = None) -> None:
        self.stranger = bool(secret)
        self._secret = secret
        self._sealed = sealed
        self._unproven_bytes = 0
        self._connection = Connection(Role.REPLICA, payload_max=payload_max)
        self._ready = ready
        self._waiting: dict[int, Call] = {}  # in order of arrival
        self._running: set[int] = set()
        self._gathering = 0  # the number of the batch whose last call is not in
        self._draining = False
        self._others = 0
        self._outgoing: list[bytes] = []

    @property
    def has_work(self) -> bool:
        """Whether a whole batch waits."""
        return bool(self._waiting) and next(iter(self._waiting.values())).batch != self._gathering

    @property
    def finished(self) -> bool:
        """Nothing is owed any more: close the link once what `take` gave is written."""
        peer = self._connection.peer_state
        if peer is State.DEAD:
            return True
        idle = not self._connection.open_calls
        return idle and (peer is State.DRAINED or (self._draining and peer is State.START))

    def receive(self, data: bytes, now: float) -> list[int]:
        """Take bytes from the gateway. Returns the ids of running calls that it wants cancelled.

        Raises WireError: close the link; nothing more will be sent on it.
        """
        cancelled: list[int] = []
        try:
            if self._sealed is not None:
                data = self._sealed.opened(data)
            if self.stranger:
                self._unproven_bytes += len(data)
                if self._unproven_bytes > HELLO_BYTES_MAX:
                    raise WireError(f"{self._unproven_bytes} bytes and no HELLO with the secret")
            for frame in self._connection.receive(data):
                kind = frame.type
                if kind is FrameType.CALL:
                    self._accept(frame, now)
                elif kind is FrameType.CANCEL:
                    if self._waiting.pop(frame.id, None) is not None:
                        self._finish(frame.id, CANCELLED)
                    elif frame.id in self._running:
                        cancelled.append(frame.id)
                elif kind is FrameType.HELLO:
                    self._greet(frame)
        except WireError:
            self.close()
            raise
        return cancelled

    def next_batch(self, now: float) -> list[Call]:
        """The calls of the oldest batch, now running; empty if none waits. Those whose budget is over are refused."""
        waiting = self._waiting
        while self.has_work:
            taken: list[Call] = []
            for call in _members(waiting.values()):
                del waiting[call.id]
                if call.expires_s > now:
                    self._running.add(call.id)
                    taken.append(call)
                else:
                    self._finish(call.id, EXPIRED)
            if taken:
                return taken
        return []

    def settle(self, calls: Sequence[Call], answers: Sequence[Answer]) -> None:
        """The answers of running calls, in their order. Once the link is closed they go nowhere."""
        for call, answer in zip(calls, answers, strict=True):
            if call.id in self._running:
                self._running.discard(call.id)
                self._finish(call.id, answer)

    def drain(self) -> None:
        """Stop taking calls: DRAIN to the gateway, which it answers with its own or by closing."""
        if not self._draining:
            self._draining = True
            if self._connection.state is State.OPEN:
                self._send(FrameType.DRAIN)

    def tell(self, others: int) -> bool:
        """Calls of other gateways take so many slots. Whether that is news to ours."""
        if others == self._others or self._connection.state not in (State.OPEN, State.DRAINED):
            return False
        self._others = others
        self._send(FrameType.STATS, payload=_encode({"others": others}))
        return True

    def close(self) -> None:
        """The link ended: what waits is forgotten, what runs is answered nowhere."""
        self.stranger = False
        self._connection.close()
        self._waiting.clear()
        self._running.clear()
        self._outgoing.clear()

    def take(self) -> bytes:
        """The bytes to write, once."""
        if not self._outgoing:
            return b"" if self._sealed is None else self._sealed.seal(b"")
        data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing.clear()
        return data if self._sealed is None else self._sealed.seal(data)

    def statistics(self) -> SessionStatistics:
        """A frozen snapshot."""
        return SessionStatistics(len(self._waiting), len(self._running), self._draining, self._connection.statistics())

    def _greet(self, frame: Frame) -> None:
        try:
            hello = _hello.decode(frame.payload)
        except msgspec.DecodeError as error:
            raise WireError(f"HELLO is malformed: {error}") from None
        if hello.protocol != PROTOCOL:
            raise WireError(f"gateway {hello.gateway!r} speaks protocol {hello.protocol}, this replica {PROTOCOL}")
        if self._secret and not is_right(hello.secret, self._secret):
            raise WireError(f"gateway {hello.gateway!r} does not know the secret")
        self.stranger = False
        self._send(FrameType.READY, payload=msgspec.json.encode(self._ready))

    def _accept(self, frame: Frame, now: float) -> None:
        batch = self._gathering
        if not (self._ready.batch and frame.flags & _MORE):  # for other models a batch is a row of single calls
            self._gathering += 1
        if self._draining:
            self._finish(frame.id, _DRAINING)
            return
        meta, body = split_payload(frame.payload)
        try:
            about = _call_meta.decode(meta) if meta else _NO_METADATA
        except msgspec.DecodeError as error:
            raise WireError(f"metadata of call {frame.id} is malformed: {error}") from None
        self._waiting[frame.id] = Call(frame.id, about.id, body, now + frame.budget / 1000, batch, about.once)

    def _finish(self, id: int, answer: Answer) -> None:
        self._outgoing.append(
            self._connection.send(answer.kind, id=id, budget=answer.service_us, payload=answer.payload)
        )

    def _send(self, kind: FrameType, *, payload: bytes = b"") -> None:
        self._outgoing.append(self._connection.send(kind, payload=payload))


def _members(calls: Iterable[Call]) -> list[Call]:
    """The first call, and those right after it that came in the same batch."""
    members: list[Call] = []
    for call in calls:
        if members and call.batch != members[0].batch:
            break
        members.append(call)
    return members
