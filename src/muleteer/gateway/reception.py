"""Calls whose backend only their body can name (affinity by a JSON field), until it is in. Must not know replicas.

Before the body such a call is admitted if any backend of the endpoint's traffic would take it; the backend that it goes
to in the end asks again, as every backend does when a body is in.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from muleteer.base.errors import ExpiredInQueue, RequestError
from muleteer.gateway.call import SETTLED, Call, Priority
from muleteer.gateway.exchange import Head
from muleteer.gateway.gate import Gate
from muleteer.gateway.sessions import Session
from muleteer.gateway.shared import Shared
from muleteer.gateway.way import Way


class Backend(Protocol):
    """Who takes the calls: a dispatcher. Its `gate` hears of those that may be its own."""

    gate: Gate

    def obstacle(self, head: Head, priority: Priority, deadline_s: float) -> RequestError | None:
        """Why a request may not come in before its body is read; None if it may."""
        ...

    def adopt(self, call: Call, way: Way[Any], session: Session | None, body: bytes) -> None:
        """The call is this backend's from now on."""
        ...


class Reception:
    """Owns such calls while they are read."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._calls: set[Call] = set()

    @property
    def reading(self) -> int:
        """Calls here."""
        return len(self._calls)

    def begin(
        self, head: Head, candidates: Collection[Backend], *, deadline_s: float, priority: Priority, body_max: int
    ) -> Call:
        """Admit before the body is read. Raises RequestError: the obstacle at the last of `candidates`."""
        obstacle: RequestError | None = None
        for backend in candidates:
            obstacle = backend.obstacle(head, priority, deadline_s)
            if obstacle is None:
                break
        if obstacle is not None:
            for backend in candidates:  # whichever it is: who comes again finds it awake
                backend.gate.wake()
            raise obstacle
        size = head.content_length or 0
        call = Call(self, head, deadline_s=deadline_s, priority=priority, body_max=body_max, size=size)
        self._shared.wheel.add(call)
        self._shared.waiting_bytes += size
        self._calls.add(call)
        return call

    def hold(self, call: Call, size: int) -> None:
        """Its body grows beyond what was announced. Raises OutOfMemory."""
        if call in self._calls:
            self._shared.hold(call, size)

    def submit(self, call: Call, body: bytes) -> None:
        """The body is in: let it choose. Raises RequestError if its endpoint is gone; it is still to be abandoned."""
        if call not in self._calls:
            return  # it has expired
        way, session = self._shared.place(call.head, body)
        self._leave(call)
        way.backend.adopt(call, way, session, body)

    def abandon(self, call: Call) -> None:
        """The client is gone."""
        if call in self._calls:
            self._leave(call)
            call.move(SETTLED)

    def expire(self, call: Call) -> None:
        """The deadline has passed."""
        self._leave(call)
        call.move(SETTLED)
        error = ExpiredInQueue("the deadline passed before the request was read")
        call.head.respond(self._shared.render(error, call.head.request_id))

    def _leave(self, call: Call) -> None:
        self._calls.remove(call)
        self._shared.wheel.discard(call)
        self._shared.waiting_bytes -= call.size
