"""The outcomes of requests, counted. Must not know connections.

The invariant: every request that was counted as received gets exactly one outcome, a status or `client_gone`. What
has none yet is in progress, so `in_progress` returns to 0 when the server is quiet, exactly.
"""

from __future__ import annotations

from collections import Counter

from muleteer.gateway.exchange import Response


class Tally:
    """Counters of one server. Integers only ever grow.

    Attributes:
        received: requests whose head was read, or refused with an answer.
        by_status: answers handed to the transport.
        by_code: those that carry an error code.
        client_gone: requests whose client left, or did not take earlier answers, before theirs.
    """

    __slots__ = ("by_code", "by_status", "client_gone", "received")

    def __init__(self) -> None:
        self.received = 0
        self.by_status: Counter[int] = Counter()
        self.by_code: Counter[str] = Counter()
        self.client_gone = 0

    def count_answer(self, response: Response) -> None:
        """One request has got its answer."""
        self.by_status[response.status] += 1
        if response.code:
            self.by_code[response.code] += 1

    @property
    def in_progress(self) -> int:
        """Requests without an outcome."""
        return self.received - sum(self.by_status.values()) - self.client_gone
