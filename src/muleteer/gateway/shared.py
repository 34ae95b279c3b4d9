"""What the dispatchers of one gateway have in common. Must not know a backend."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from muleteer.base.clock import Clock
from muleteer.base.errors import RequestError
from muleteer.base.limits import QUEUED_BYTES_MAX
from muleteer.gateway.admission import memory_refusal
from muleteer.gateway.call import Call
from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.sessions import Session
from muleteer.gateway.way import Way
from muleteer.gateway.wheel import DeadlineWheel

Abort = Callable[[str, int, str], None]
"""Called with replica, pid and reason when a replica must be killed."""
Place = Callable[[Head, bytes], tuple[Way[Any], Session | None]]
"""Where a request goes that is whole, by the traffic as it is now. Raises RequestError."""
Demanded = Callable[[str], None]
"""Called with a backend that a call came for and that nothing serves."""
Later = Callable[[float, Callable[[], None]], "Timer"]
"""Calls back after so many seconds; after 0, when this turn of the loop has done what it had to."""
Render = Callable[[RequestError, str], Response]
"""The answer for an error, given the request id."""


class Timer(Protocol):
    """What `Later` returns."""

    def cancel(self) -> None:
        """Do not call back."""
        ...


class Shared:
    """Clock, deadlines, and the two ways out: to the client and to the supervisor.

    Attributes:
        waiting_bytes: bodies announced, read or queued, of all backends.
        debug: show the model's traceback to the client.
    """

    __slots__ = ("abort", "debug", "demand", "later", "now", "place", "render", "waiting_bytes", "wheel")

    def __init__(
        self,
        *,
        clock: Clock,
        abort: Abort,
        render: Render,
        place: Place,
        later: Later,
        demand: Demanded = lambda _backend: None,
        debug: bool = False,
    ) -> None:
        self.now = clock.now
        self.wheel = DeadlineWheel(clock.now())
        self.abort = abort
        self.render = render
        self.place = place
        self.later = later
        self.demand = demand
        self.debug = debug
        self.waiting_bytes = 0

    def hold(self, call: Call, size: int) -> None:
        """The body of a call that is being read has grown to `size`. Raises OutOfMemory where the cap is reached."""
        more = size - call.size
        if self.waiting_bytes + more > QUEUED_BYTES_MAX:
            raise memory_refusal(self.waiting_bytes, random.random)
        self.waiting_bytes += more
        call.size = size
