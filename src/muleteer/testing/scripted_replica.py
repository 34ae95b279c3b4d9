"""A replica without a model: a real socket that speaks the wire and does to each call what a script says.

    async with ScriptedReplica(path, script=lambda call: Die() if b"bad" in call.body else Answer()) as replica:
        ...

It lives in the caller's event loop. Like the supervisor of a real replica it holds the listening socket over all its
lives: after a death the next connection is a new life with a new pid.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from muleteer.wire.connection import Connection, Role, State
from muleteer.wire.frames import Flag, Frame, FrameType, join_payload, split_payload

_encode = msgspec.json.encode
_pids = itertools.count(2**22 + 1)  # over Linux's largest pid: an abort that is carried out by mistake hits nobody


class SeenCall(msgspec.Struct):
    """One CALL that arrived. `cancelled` once a CANCEL for it did."""

    id: int
    meta: dict[str, Any]
    body: bytes
    budget_ms: int
    life: int
    cancelled: bool = False


class Answer(msgspec.Struct, frozen=True):
    """REPLY with `body` (None: the call's own) after `after_s`, claiming a service time of `service_us`.

    `mutate` changes the bytes of the frame on their way out.
    """

    body: bytes | None = None
    after_s: float = 0.0
    service_us: int = 5000
    mutate: Callable[[bytes], bytes] | None = None


class Fail(msgspec.Struct, frozen=True):
    """ERROR with `code`."""

    code: str
    error: str = "as scripted"
    traceback: str | None = None


class Send(msgspec.Struct, frozen=True):
    """These bytes, whatever they are."""

    data: bytes


class Die(msgspec.Struct, frozen=True):
    """Close every connection at once. `stay_dead`: say READY no more until `revive()`."""

    stay_dead: bool = False


class Hang(msgspec.Struct, frozen=True):
    """Never answer."""


class Drain(msgspec.Struct, frozen=True):
    """As on SIGTERM: DRAIN first, then the answer to this call; then the end, and the next life."""


Action = Answer | Fail | Send | Die | Hang | Drain
Script = Callable[[SeenCall], Action]


class ScriptedReplica:
    """Args:
    path: of the Unix socket.
    script: what to do with each call when its turn comes; `concurrency` calls have theirs at once.
    warm_up_us: what READY says.
    batch: it takes batches: the members of one have their turn together and are answered together, after the slowest. A
        member whose action is neither Answer nor Fail decides for all.
    heeds_cancel: give back a cancelled call whose turn has not come.
    host: listen there, on TCP, instead of at `path`.
    """

    def __init__(
        self,
        path: Path,
        *,
        script: Script = lambda _: Answer(),
        backend: str = "model",
        replica: str = "model-1",
        concurrency: int = 1,
        warm_up_us: int = 0,
        batch: bool = False,
        heeds_cancel: bool = True,
        host: str = "",
    ) -> None:
        self.path = path
        self.script = script
        self.backend = backend
        self.replica = replica
        self.concurrency = concurrency
        self.warm_up_us = warm_up_us
        self.batch = batch
        self.heeds_cancel = heeds_cancel
        self.host = host
        self.calls: list[SeenCall] = []
        self.batches: list[int] = []  # how many calls had their turn together
        self.life = 0
        self.pid = next(_pids)
        self.dead = False
        self._lives: set[_Life] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """For a snapshot."""
        if not self.host:
            return f"unix:{self.path}"
        assert self._server is not None
        return f"tcp:{self.host}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def linked(self) -> bool:
        """Whether somebody is connected."""
        return bool(self._lives)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self.host:
            self._server = await loop.create_server(lambda: _Life(self), self.host, 0)
        else:
            self._server = await loop.create_unix_server(lambda: _Life(self), str(self.path))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.die()
        await self._server.wait_closed()

    def die(self, *, stay_dead: bool = False) -> None:
        """As by SIGKILL."""
        self.dead = stay_dead
        for life in list(self._lives):
            life.end()
        self.life += 1
        self.pid = next(_pids)

    def revive(self) -> None:
        """Say READY to whoever has connected meanwhile, and from now on."""
        self.dead = False
        for life in self._lives:
            life.introduce()

    def drain(self) -> None:
        """As on SIGTERM."""
        for life in list(self._lives):
            life.drain()


class _Life(asyncio.Protocol):
    """One connection of one gateway."""

    def __init__(self, replica: ScriptedReplica) -> None:
        self._replica = replica
        self._connection = Connection(Role.REPLICA, payload_max=2**30)
        self._transport: asyncio.WriteTransport | None = None
        self._pending: deque[list[SeenCall]] = deque()  # batches; a call by itself is one
        self._gathering: list[SeenCall] = []
        self._open: dict[int, SeenCall] = {}
        self._running = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by inheritance
        self._replica._lives.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        self.end()

    def data_received(self, data: bytes) -> None:
        for frame in self._connection.receive(data):
            if frame.type is FrameType.HELLO:
                self.introduce()
            elif frame.type is FrameType.CALL:
                self._take(frame)
            elif frame.type is FrameType.CANCEL:
                self._cancel(frame.id)
            self._leave_if_done()

    def introduce(self) -> None:
        if self._replica.dead or self._connection.state is not State.GREETED:
            return
        replica = self._replica
        ready = {
            "backend": replica.backend,
            "replica": replica.replica,
            "pid": replica.pid,
            "concurrency": replica.concurrency,
            "warm_up_us": replica.warm_up_us,
            "batch": replica.batch,
        }
        self.write(FrameType.READY, payload=_encode(ready))

    def drain(self) -> None:
        if self._connection.state is State.OPEN:
            self.write(FrameType.DRAIN)
        self._leave_if_done()

    def end(self) -> None:
        self._connection.close()
        self._replica._lives.discard(self)
        self._pending.clear()
        self._gathering.clear()
        if self._transport is not None:
            self._transport.abort()

    def write(self, kind: FrameType, *, mutate: Callable[[bytes], bytes] | None = None, **fields: Any) -> None:
        assert self._transport is not None
        data = self._connection.send(kind, **fields)
        self._transport.write(data if mutate is None else mutate(data))

    def _take(self, frame: Frame) -> None:
        meta, body = split_payload(frame.payload)
        call = SeenCall(frame.id, msgspec.json.decode(meta), body, frame.budget, self._replica.life)
        self._replica.calls.append(call)
        self._open[call.id] = call
        if self._connection.state is State.DRAINED:
            self._fail(call, Fail("draining"))
            return
        self._gathering.append(call)
        if not (self._replica.batch and frame.flags & Flag.MORE):
            self._pending.append(self._gathering)
            self._gathering = []
        self._next()

    def _cancel(self, id: int) -> None:
        call = self._open.get(id)
        if call is not None:
            call.cancelled = True
            if self._replica.heeds_cancel:
                for batch in (*self._pending, self._gathering):
                    if call in batch:
                        batch.remove(call)
                        self._fail(call, Fail("cancelled"))

    def _next(self) -> None:
        while self._pending and self._running < self._replica.concurrency:
            batch = self._pending.popleft()
            if not batch:  # all of it was cancelled
                continue
            self._running += 1
            self._replica.batches.append(len(batch))
            actions = [self._replica.script(call) for call in batch]
            if len(batch) == 1:
                self._act(batch[0], actions[0])
            else:
                self._act_together(batch, actions)

    def _act_together(self, batch: list[SeenCall], actions: list[Action]) -> None:
        for call, action in zip(batch, actions, strict=True):
            if not isinstance(action, (Answer, Fail)):
                self._act(call, action)
                return
        answers = [action for action in actions if isinstance(action, Answer)]
        service_us = max((action.service_us for action in answers), default=0)
        after_s = max((action.after_s for action in answers), default=0.0)
        asyncio.get_running_loop().call_later(after_s, self._answer_together, batch, actions, service_us)

    def _answer_together(self, batch: list[SeenCall], actions: list[Action], service_us: int) -> None:
        if self._connection.state is State.DEAD:
            return
        for call, action in zip(batch, actions, strict=True):
            if isinstance(action, Answer):
                self._reply(call, action, service_us)
            elif isinstance(action, Fail):
                self._fail(call, action)
        self._done()

    def _act(self, call: SeenCall, action: Action) -> None:
        if isinstance(action, Answer):
            if action.after_s:
                asyncio.get_running_loop().call_later(action.after_s, self._answer, call, action)
            else:
                self._answer(call, action)
        elif isinstance(action, Fail):
            self._fail(call, action)
            self._done()
        elif isinstance(action, Send):
            assert self._transport is not None
            self._transport.write(action.data)
        elif isinstance(action, Die):
            self._replica.die(stay_dead=action.stay_dead)
        elif isinstance(action, Drain):
            self.drain()
            self._answer(call, Answer())

    def _answer(self, call: SeenCall, action: Answer) -> None:
        if self._connection.state is State.DEAD:
            return
        self._reply(call, action, action.service_us)
        self._done()

    def _reply(self, call: SeenCall, action: Answer, service_us: int) -> None:
        del self._open[call.id]
        body = call.body if action.body is None else action.body
        self.write(
            FrameType.REPLY,
            id=call.id,
            budget=service_us,
            payload=join_payload(b"", body),
            mutate=action.mutate,
        )

    def _fail(self, call: SeenCall, action: Fail) -> None:
        del self._open[call.id]
        payload = {"code": action.code, "error": action.error}
        if action.traceback is not None:
            payload["traceback"] = action.traceback
        self.write(FrameType.ERROR, id=call.id, payload=_encode(payload))

    def _done(self) -> None:
        self._running -= 1
        self._next()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        """A drained replica exits when it is idle and the gateway has sent its own DRAIN, or left."""
        connection = self._connection
        if connection.state is State.DRAINED and connection.peer_state is State.DRAINED and not self._open:
            assert self._transport is not None
            self._connection.close()
            self._replica._lives.discard(self)
            self._transport.close()
            if not self._replica._lives:
                self._replica.life += 1
                self._replica.pid = next(_pids)
        elif connection.state is State.OPEN and connection.peer_state is State.DRAINED and not self._open:
            self.end()
