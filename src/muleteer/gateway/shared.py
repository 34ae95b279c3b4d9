"""What the dispatchers of one gateway have in common. Must not know a backend."""

from __future__ import annotations

from collections.abc import Callable

from muleteer.base.clock import Clock
from muleteer.base.errors import RequestError
from muleteer.gateway.exchange import Response
from muleteer.gateway.wheel import DeadlineWheel

Abort = Callable[[str, int, str], None]
"""Called with replica, pid and reason when a replica must be killed."""
Render = Callable[[RequestError, str], Response]
"""The answer for an error, given the request id."""


class Shared:
    """Clock, deadlines, and the two ways out: to the client and to the supervisor.

    Attributes:
        waiting_bytes: bodies announced or queued, of all backends.
        debug: show the model's traceback to the client.
    """

    __slots__ = ("abort", "debug", "now", "render", "waiting_bytes", "wheel")

    def __init__(self, *, clock: Clock, abort: Abort, render: Render, debug: bool = False) -> None:
        self.now = clock.now
        self.wheel = DeadlineWheel(clock.now())
        self.abort = abort
        self.render = render
        self.debug = debug
        self.waiting_bytes = 0
