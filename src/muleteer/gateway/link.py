"""One life of a gateway's socket to one replica: calls out, answers in. Must not know queues, retries or HTTP."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Protocol, cast

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.errors import WireError
from muleteer.gateway.batch import Batch, Batches
from muleteer.gateway.begun import SENT_AHEAD, Begun
from muleteer.gateway.call import SETTLED, Call, Ghost
from muleteer.wire.connection import Connection, Role, State
from muleteer.wire.frames import VERSION, Flag, Frame, FrameType, join_payload, split_payload

UNRUN = frozenset({"draining", "cancelled"})
"""Codes of ERROR that promise that the model was not run: the call may be dispatched elsewhere."""
RAN = frozenset({"model_error", "bad_model_output"})
"""Codes of ERROR that say that it was run."""
_CODES = UNRUN | RAN | {"bad_json", "bad_arguments", "expired_in_queue"}
_SILENCE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})
_encode = msgspec.json.Encoder().encode


class ReadyPayload(msgspec.Struct, frozen=True):
    """What a replica says of itself in READY."""

    backend: str
    replica: str
    pid: int
    concurrency: int
    warm_up_us: int = 0
    batch: bool = False


class ErrorPayload(msgspec.Struct, frozen=True):
    """Payload of ERROR. `code` as in docs/processes.md."""

    code: str
    error: str = ""
    traceback: str | None = None


class CallMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of CALL. `once`: it is not run again by itself where its batch fails."""

    id: str
    once: bool = False


class OthersPayload(msgspec.Struct, frozen=True):
    """Payload of STATS: slots that the calls of other gateways take."""

    others: int = 0


Outcome = bytes | ErrorPayload
"""Of a call in a batch: the model's answer as JSON, or why there is none."""
_ready_decoder = msgspec.json.Decoder(ReadyPayload)
_error_decoder = msgspec.json.Decoder(ErrorPayload)
_others_decoder = msgspec.json.Decoder(OthersPayload)


class LinkOwner(Protocol):
    """Whom a link tells what happened. Each call that was started is named in exactly one of the last four."""

    def link_shared(self, link: Link, more: int) -> None:
        """The replica tells of other gateways' calls: they take so many more slots than before (or fewer, if < 0)."""
        ...

    def link_ready(self, link: Link) -> None:
        """The replica takes calls."""
        ...

    def link_draining(self, link: Link) -> None:
        """The replica takes no more calls; it still answers those it has."""
        ...

    def call_replied(self, link: Link, call: Call, body: bytes, service_us: int) -> None:
        """The model's answer as JSON; `service_us` was spent in the user's method."""
        ...

    def call_failed(self, link: Link, call: Call, error: ErrorPayload, service_us: int) -> None:
        """The call has no answer, and why."""
        ...

    def batch_ended(self, link: Link, batch: Batch[Outcome]) -> None:
        """Its `outcomes`. If some calls of it have none, the link was lost and they were named there."""
        ...

    def link_lost(self, link: Link, calls: list[Call], error: WireError | None) -> None:
        """The replica is dead, or (`error`) broke a rule; `calls` were open, in dispatch order."""
        ...


class Link(asyncio.Protocol):
    """From connect to EOF. A new connection is a new `Link`.

    Attributes:
        replica: the id that the address belongs to.
        secret: shown in HELLO; to be set before it is connected.
        host: where the replica is, if not on this machine; likewise.
        silent: it was lost because nothing came back from there any more.
        in_flight: calls without a terminal frame, in dispatch order, settled ones included: they hold the slot.
        load: how many those are; of a model that takes batches, how many batches. What other gateways have there counts
            as well, as far as the replica tells.
        others: slots that calls of other gateways take.
        concurrency, pid, warm_up_us: from READY; 0 before.
        batched: the model takes batches: it gets nothing else.
        condemned: reported as hung; takes no more calls.
        ended: set when the socket is gone.
    """

    def __init__(
        self, *, backend: str, replica: str, gateway: str, payload_max: int, owner: LinkOwner, clock: Clock
    ) -> None:
        self.replica = replica
        self.secret = ""
        self.host = ""
        self.silent = False
        self.in_flight: dict[int, Call] = {}
        self.load = 0
        self.others = 0
        self.concurrency = 0
        self.pid = 0
        self.warm_up_us = 0
        self.batched = False
        self.condemned = False
        self.ended = asyncio.Event()
        self._backend = backend
        self._gateway = gateway
        self._owner = owner
        self._now = clock.now
        self._connection = Connection(Role.GATEWAY, payload_max=payload_max)
        self._transport: asyncio.WriteTransport | None = None
        self._last_id = 0
        self._begun: Begun[int] = Begun(0, self._begin)
        self._batches: Batches[Outcome] = Batches(0)
        self._leaving = False
        self._lost = False
        self._unsent: list[bytes] | None = None  # frames that leave together, while several are read together

    @property
    def in_service(self) -> bool:
        """Whether it takes calls."""
        connection = self._connection
        return (
            connection.state is State.OPEN
            and connection.peer_state is State.OPEN
            and not (self.condemned or self._leaving)
        )

    @property
    def was_ready(self) -> bool:
        """Whether the replica ever said READY on this link."""
        return self.pid != 0

    @property
    def state(self) -> str:
        """For status: `connecting`, `loading`, `ready`, `draining`, `hung` or `lost`."""
        if self._lost:
            return "lost"
        if self.condemned:
            return "hung"
        if self._connection.state is State.START:
            return "connecting"
        if not self.was_ready:
            return "loading"
        return "ready" if self.in_service else "draining"

    def start(self, call: Call, now: float) -> None:
        """Send `call`. The link must be in service."""
        id = self._last_id = self._last_id + 1
        self.load += 1
        self.in_flight[id] = call
        call.link = self
        call.link_id = id
        call.dispatched_s = now
        self._begun.add(id, now)
        budget_ms = max(1, int((call.deadline_s - now) * 1000))
        payload = join_payload(_encode(CallMetadata(call.head.request_id)), call.body)
        self._write(FrameType.CALL, id=id, budget=budget_ms, payload=payload)

    @property
    def begun_s(self) -> float:
        """When the batch it works on began, the oldest of several; `SENT_AHEAD` if there is none."""
        return self._batches.begun_s

    def start_batch(self, calls: Sequence[Call], now: float, *, once: bool = False) -> None:
        """Send `calls`, at least one, as one batch. The link must be in service, and the model take batches. `once`:
        none of them is run a second time, should the batch fail.
        """
        assert self._transport is not None
        self.load += 1
        frames = []
        batch: Batch[Outcome] = Batch()
        for call in calls:
            id = self._last_id = self._last_id + 1
            self.in_flight[id] = batch.calls[id] = call
            call.link = self
            call.link_id = id
            call.dispatched_s = now
            call.started_s = SENT_AHEAD
            budget_ms = max(1, int((call.deadline_s - now) * 1000))
            payload = join_payload(_encode(CallMetadata(call.head.request_id, once)), call.body)
            flags = Flag.NONE if call is calls[-1] else Flag.MORE
            frames.append(self._connection.send(FrameType.CALL, id=id, budget=budget_ms, flags=flags, payload=payload))
        self._batches.add(batch, now)
        if self._unsent is None:
            self._transport.write(b"".join(frames))
        else:
            self._unsent += frames

    def cancel(self, call: Call) -> None:
        """A wish: the slot stays taken until the terminal frame."""
        if call.link_id in self.in_flight and not self._lost:
            self._write(FrameType.CANCEL, id=call.link_id)

    @property
    def ahead(self) -> list[int]:
        """Wire ids of calls that wait at the replica behind others, newest first."""
        return self._batches.ahead() if self.batched else self._begun.ahead

    def take_back(self, patience_s: float, now: float) -> list[Call]:
        """The calls that were sent ahead, newest first, if no call was begun or ended here for `patience_s`: they are
        the caller's again. The replica is told; should it run one all the same, nobody waits for the answer, and until
        it says that it will not, the call counts as run there.
        """
        ahead = self.ahead
        if not ahead or self._lost:
            return []
        begun_s = [call.started_s for call in self.in_flight.values() if call.started_s != SENT_AHEAD]
        if now - max(begun_s, default=now) < patience_s:
            return []
        back = []
        for id in ahead:
            call = self.in_flight.get(id)
            if call is not None and call.state is not SETTLED:
                ghost = self.in_flight[id] = Ghost(call)
                if self.batched:
                    self._batches.members[id].calls[id] = ghost
                self._write(FrameType.CANCEL, id=id)
                back.append(call)
        return back

    def leave(self) -> None:
        """Take no more calls; close when those in flight are answered."""
        if self._leaving or self._lost:
            return
        self._leaving = True
        if self._connection.state is State.OPEN:
            self._write(FrameType.DRAIN)
        self._close_if_done()

    def close(self) -> None:
        """Close now. Calls in flight are lost."""
        self._lose(None)

    def close_soon(self) -> None:
        """The same in the next turn of the loop: its owner is in the middle of something."""
        asyncio.get_running_loop().call_soon(self.close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by inheritance
        if self._lost:  # closed while it was dialled
            self._transport.abort()
            return
        shown = {"secret": self.secret} if self.secret else {}
        self._write(FrameType.HELLO, payload=_encode({"protocol": VERSION, "gateway": self._gateway, **shown}))

    def data_received(self, data: bytes) -> None:
        """Frames in order. The first broken rule ends the link: what stands behind it is never read."""
        if self._lost:
            return
        try:
            received = self._connection.receive(data)
            if len(received) > 1:
                self._unsent = []
            for frame in received:
                self._take(frame)
                if self._lost:
                    return
        except WireError as error:
            self._lose(error)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """EOF or reset: the replica is dead. Or its host has gone silent."""
        self.silent = isinstance(exc, OSError) and exc.errno in _SILENCE
        self._lose(None)
        self.ended.set()

    def _take(self, frame: Frame) -> None:
        kind = frame.type
        if kind is FrameType.REPLY:
            _, body = split_payload(frame.payload)  # may raise: before the call counts as answered
            if self.batched:
                self._member_ended(frame, body)
            else:
                self._owner.call_replied(self, self._answered(frame.id), body, frame.budget)
        elif kind is FrameType.ERROR:
            try:
                error = _error_decoder.decode(frame.payload)
            except msgspec.DecodeError as broken:
                raise WireError(f"ERROR payload: {broken}") from None
            if error.code not in _CODES:
                raise WireError(f"ERROR with code {error.code!r}, which is not one of {sorted(_CODES)}")
            if self.batched:
                self._member_ended(frame, error)
            else:
                self._owner.call_failed(self, self._answered(frame.id), error, frame.budget)
        elif kind is FrameType.READY:
            self._introduced(frame.payload)
        elif kind is FrameType.DRAIN:
            self._write_drain()
            self._owner.link_draining(self)
        elif kind is FrameType.STATS:
            self._shared(frame.payload)
        else:
            raise WireError(f"{kind.name} belongs to streams, which this gateway did not ask for")
        if self._leaving:
            self._close_if_done()

    def _introduced(self, payload: bytes) -> None:
        try:
            ready = _ready_decoder.decode(payload)
        except msgspec.DecodeError as broken:
            raise WireError(f"READY payload: {broken}") from None
        if ready.replica != self.replica or ready.backend != self._backend:
            raise WireError(f"{ready.replica!r} of {ready.backend!r} answers at the address of {self.replica!r}")
        if ready.concurrency < 1 or ready.pid < 1:
            raise WireError(f"READY announces concurrency {ready.concurrency} and pid {ready.pid}")
        self.pid = ready.pid
        self.concurrency = ready.concurrency
        self.warm_up_us = max(0, ready.warm_up_us)
        self.batched = ready.batch
        self._batches = Batches(ready.concurrency)
        self._begun.resize(ready.concurrency, self._now())
        if self._leaving:
            self._write_drain()
        else:
            self._owner.link_ready(self)

    def _answered(self, id: int) -> Call:
        """Take the call out, and let the next one that was sent ahead count as started."""
        call = self.in_flight.pop(id)
        self.load -= 1
        self._begun.ended(id, self._now())
        return call

    def _begin(self, id: int, when_s: float) -> None:
        self.in_flight[id].started_s = when_s

    def _shared(self, payload: bytes) -> None:
        """Other gateways have more calls there, or fewer: those that run leave so much less room for ours."""
        try:
            told = _others_decoder.decode(payload or b"{}")
        except msgspec.DecodeError as broken:
            raise WireError(f"STATS payload: {broken}") from None
        if not 0 <= told.others <= self.concurrency:
            raise WireError(f"STATS tells of {told.others} slots, and there are {self.concurrency}")
        more = told.others - self.others
        self.load += more
        self.others = told.others
        begun = self._batches if self.batched else self._begun
        begun.resize(self.concurrency - told.others, self._now())
        self._owner.link_shared(self, more)

    def _member_ended(self, frame: Frame, outcome: Outcome) -> None:
        """One call of a batch has its outcome; the owner hears of it with the last: they come together, and first of
        all the slot goes on.
        """
        batch = self._batches.members.pop(frame.id)
        batch.outcomes.append((self.in_flight.pop(frame.id), outcome))
        batch.service_us = max(batch.service_us, frame.budget)
        if batch.whole:
            self.load -= 1
            self._batches.ended(batch, self._now())
            self._owner.batch_ended(self, batch)

    def _write_drain(self) -> None:
        if self._connection.state is State.OPEN:
            self._write(FrameType.DRAIN)

    def _write(self, kind: FrameType, *, id: int = 0, budget: int = 0, payload: bytes = b"") -> None:
        assert self._transport is not None
        data = self._connection.send(kind, id=id, budget=budget, payload=payload)
        if self._unsent is None:
            self._transport.write(data)
        else:
            self._unsent.append(data)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent and not self._lost:
            assert self._transport is not None
            self._transport.write(b"".join(unsent))

    def _close_if_done(self) -> None:
        if not self.in_flight:
            self._lose(None)

    def _lose(self, error: WireError | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._connection.close()
        if self._transport is not None:
            self._transport.abort()
        calls = list(self.in_flight.values())
        self.in_flight.clear()
        self.load = 0
        self._owner.link_lost(self, calls, error)
        for batch in self._batches.partial():
            self._owner.batch_ended(self, batch)
