"""The controller's connection to one gateway: pushes snapshots, asks for statistics. Must not know what either says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from muleteer.base.errors import UsageError
from muleteer.base.limits import GATEWAY_ANSWER_S_MAX, GATEWAY_DIAL_S
from muleteer.control.dial import connect
from muleteer.control.problems import Problems
from muleteer.engine.line_stream import LineStream
from muleteer.spec.snapshot import Snapshot

OnDemand = Callable[[list[str]], None]
OnAbort = Callable[[dict[str, Any]], None]
_UNANSWERED_MAX = 64
"""Questions that a hung gateway may leave open before we ask no more."""


class GatewayLink:
    """Keeps one gateway at the last snapshot, over all its restarts.

    Args:
        name: e.g. `gateway-0`.
        address: its control socket, `unix:path` or `tcp:host:port`.
        on_applied: called after each snapshot that it took.
        on_demand: called with the names of backends that calls came for and that no replica serves.
        on_abort: called with each `abort` of a gateway that has no supervisor beside it.
        secret: what a socket on a network asks for.

    Attributes:
        applied: the revision that the gateway took over the present connection; 0 if none.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        problems: Problems,
        on_applied: Callable[[], None],
        on_demand: OnDemand,
        on_abort: OnAbort = lambda _message: None,
        secret: str = "",
    ) -> None:
        self.name = name
        self.applied = 0
        self.address = address
        self._on_abort = on_abort
        self._secret = secret
        self._problems = problems
        self._on_applied = on_applied
        self._on_demand = on_demand
        self._snapshot: Snapshot | None = None
        self._stream: LineStream | None = None
        self._asked: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._wake = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._stream is not None

    def push(self, snapshot: Snapshot) -> None:
        """Have the gateway take `snapshot`, now or when it is there again. Only the last one counts."""
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._wake.set()

    async def run(self) -> None:
        """Connect and push for ever; ends by cancellation."""
        try:
            while True:
                try:
                    self._stream = await connect(self.address, lambda: LineStream(self._answered, self._ended))
                    if self._secret:
                        self._stream.send({"type": "hello", "secret": self._secret})
                    self._stream.send({"type": "watch"})
                    await self._push_changes()
                except UsageError as error:
                    self._problems.begin(f"TLS with {self.name}", str(error))
                    await asyncio.sleep(GATEWAY_DIAL_S)
                except (OSError, EOFError):
                    await asyncio.sleep(GATEWAY_DIAL_S)  # it starts, or is being restarted
        finally:
            if self._stream is not None:
                self._stream.close()

    async def statistics(self) -> dict[str, Any] | None:
        """What the gateway counts; None if it does not answer within GATEWAY_ANSWER_S_MAX."""
        answer = await self._answer({"type": "statistics"})
        found = None if answer is None else answer.get("statistics")
        return found if isinstance(found, dict) else None

    async def load(self) -> dict[str, Any] | None:
        """What its backends were asked for since the last time (docs/processes.md); None as above."""
        return await self._answer({"type": "load"})

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return await asyncio.wait_for(self._ask(question), GATEWAY_ANSWER_S_MAX)
        except (EOFError, TimeoutError):
            return None

    async def _push_changes(self) -> None:
        while self._stream is not None:
            self._wake.clear()
            if self._snapshot is not None and self._snapshot.revision != self.applied:
                await self._push(self._snapshot)
            else:
                await self._wake.wait()
        raise EOFError

    async def _push(self, snapshot: Snapshot) -> None:
        answer = await self._ask({"type": "snapshot", "snapshot": msgspec.to_builtins(snapshot)})
        # One refused is refused again: the gateway goes on with what it has, until the next revision.
        self.applied = snapshot.revision
        if answer["type"] == "applied":
            self._problems.end(f"snapshot of {self.name}")
        else:
            self._problems.begin(f"snapshot of {self.name}", str(answer.get("error")))
        self._on_applied()

    def _ask(self, message: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """The answer to come. Answers arrive in the order of the questions; raises EOFError with the connection."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._stream is None or len(self._asked) >= _UNANSWERED_MAX:
            future.set_exception(EOFError())
        else:
            self._asked.append(future)
            self._stream.send(message)
        return future

    def _answered(self, message: dict[str, Any]) -> None:
        if message["type"] == "demand":
            self._on_demand([str(name) for name in message.get("backends") or ()])
        elif message["type"] == "abort":
            self._on_abort(message)
        elif self._asked and not (future := self._asked.popleft()).done():
            future.set_result(message)

    def _ended(self) -> None:
        self._stream = None
        self.applied = 0
        while self._asked:
            if not (future := self._asked.popleft()).done():
                future.set_exception(EOFError())
        self._wake.set()
