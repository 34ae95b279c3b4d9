"""The requests of one connection, in line for their answers. Must not know input."""

from __future__ import annotations

from collections import deque
from typing import Final

from muleteer.gateway.exchange import Response
from muleteer.gateway.http import respond
from muleteer.gateway.http.outlet import Outlet
from muleteer.gateway.http.ports import Server
from muleteer.gateway.http.turn import Turn, TurnState

WRITE_JOIN_BYTES_MAX: Final = 16 * 1024
"""Larger bodies are handed to the transport as they are: a copy would cost more than a second buffer."""


class Line:
    """Answers leave in the order of the requests, and each request leaves with exactly one outcome.

    Attributes:
        turns: requests without an outcome, the oldest first.
    """

    __slots__ = ("_outlet", "_server", "_tally", "turns")

    def __init__(self, server: Server, outlet: Outlet) -> None:
        self._server = server
        self._tally = server.tally
        self._outlet = outlet
        self.turns: deque[Turn] = deque()

    def join(self, turn: Turn) -> None:
        """A request was received."""
        self._tally.received += 1
        self.turns.append(turn)

    def advance(self, *, closing: bool) -> bool:
        """Emit what is ready at the front. `closing`: the last of all ends the connection. Returns whether one did."""
        turns = self.turns
        ended = False
        while turns:
            turn = turns[0]
            if turn.response is None:
                if turn.continues and turn.exchange is not None:
                    turn.continues = False
                    self._outlet.put(respond.CONTINUE)
                break
            turns.popleft()
            ended = turn.last or (closing and not turns)
            self._emit(turn, turn.response, ended=ended)
        return ended

    def leave(self) -> None:
        """Nobody reads any more answers."""
        gone = list(self.turns)
        self.turns.clear()  # first, so that an application that answers one while it frees another finds nobody here
        for turn in gone:
            turn.state = TurnState.GONE
        for turn in gone:
            self._tally.client_gone += 1
            turn.abandon()

    def _emit(self, turn: Turn, response: Response, *, ended: bool) -> None:
        head = respond.render_head(
            response,
            request_id=turn.request_id,
            date_line=self._server.date_line,
            connection_line=respond.CLOSE if ended else respond.KEEP_ALIVE if turn.http10 else b"",
        )
        self._tally.count_answer(response)
        body = b"" if turn.head_only else response.body
        if len(body) > WRITE_JOIN_BYTES_MAX:
            self._outlet.put(head)
            self._outlet.put(body)
        else:
            self._outlet.put(head + body)
