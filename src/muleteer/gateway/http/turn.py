"""One request in the order of its connection. Must not know bytes."""

from __future__ import annotations

import traceback
from enum import IntEnum
from typing import Protocol

from muleteer.gateway.exchange import Exchange, Response
from muleteer.telemetry.log import log


class TurnState(IntEnum):
    """OPEN becomes ANSWERED by `respond`, or GONE by `abandon`; nothing leaves those two."""

    OPEN = 0
    ANSWERED = 1  # its answer is known, and is written once those before it are
    GONE = 2  # nobody waits for the answer


class Waiting(Protocol):
    """The connection of a turn."""

    def answered(self, turn: Turn) -> None:
        """`turn.response` is known."""
        ...


class Turn:
    """The place of one request in the line of its connection: answers leave in the order in which requests came.

    Attributes:
        request_id: goes into the answer.
        response: the answer, once it is known.
        exchange: what the application gave for it, until then; cleared, because head, turn and exchange form a cycle.
        head_only: HEAD: the answer is sent without its body.
        http10: the client must be told that the connection is kept.
        last: the connection ends with this answer.
        continues: the client waits for 100 before it sends the body.
    """

    __slots__ = (
        "connection",
        "continues",
        "exchange",
        "head_only",
        "http10",
        "last",
        "request_id",
        "response",
        "state",
    )

    def __init__(self, connection: Waiting, request_id: str, *, head_only: bool, http10: bool, last: bool) -> None:
        self.connection = connection
        self.request_id = request_id
        self.head_only = head_only
        self.http10 = http10
        self.last = last
        self.continues = False
        self.state = TurnState.OPEN
        self.response: Response | None = None
        self.exchange: Exchange | None = None

    def respond(self, response: Response) -> None:
        """Settle the request. A second answer is a fault of the application; one after `abandon` is not."""
        if self.state is not TurnState.OPEN:
            assert self.state is TurnState.GONE, f"request {self.request_id} was answered twice"
            return
        self.state = TurnState.ANSWERED
        self.response = response
        self.exchange = None
        self.connection.answered(self)

    def overrule(self, response: Response) -> None:
        """The protocol answers in place of the application, whose exchange is abandoned."""
        if self.state is TurnState.OPEN:
            self.abandon()
            self.state = TurnState.ANSWERED
            self.response = response
            self.connection.answered(self)

    def abandon(self) -> None:
        """Nobody waits for the application's answer any more: tell it, if it still works on one."""
        self.state = TurnState.GONE
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        try:
            exchange.abandon()
        except Exception:  # noqa: BLE001
            # boundary: abandon. A fault in one exchange must not cost the others of the connection
            log_fault("abandon", self.request_id)


def log_fault(where: str, request_id: str) -> None:
    """Log the exception being caught, with its traceback, escaped onto one line."""
    log(f"fault of the application in {where}", request_id=request_id, traceback=traceback.format_exc())
