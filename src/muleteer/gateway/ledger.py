"""What the open calls of one backend hold: places, bytes, shares of clients. Must not know why they come and go."""

from __future__ import annotations

from muleteer.gateway.call import QUEUED, READING, Call
from muleteer.gateway.gate import Gate
from muleteer.gateway.shared import Shared


class Ledger:
    """Attributes:
    open_calls: entered and not left, copies aside.
    copies: the same of copies.
    reading: of the open calls, those whose body arrives.
    """

    __slots__ = ("_gate", "_queue", "_shared", "copies", "open_calls", "reading")

    def __init__(self, gate: Gate, shared: Shared) -> None:
        self.open_calls = 0
        self.copies = 0
        self.reading = 0
        self._gate = gate
        self._queue = gate.queue
        self._shared = shared

    def enter(self, call: Call) -> None:
        """It was admitted, and its body arrives."""
        self._shared.wheel.add(call)
        self._shared.waiting_bytes += call.size
        held, client = self._gate.held, call.head.client
        held[client] = held.get(client, 0) + 1
        self.reading += 1
        self.open_calls += 1
        call.counts.admitted += 1

    def enter_copy(self, call: Call) -> None:
        """It is about to run."""
        self._shared.wheel.add(call)
        self.copies += 1
        call.counts.admitted += 1

    def wait(self, call: Call, *, front: bool = False) -> None:
        """It waits; it has left its place before."""
        call.move(QUEUED)
        self._queue.push(call, front=front)
        self._shared.waiting_bytes += call.size

    def leave_place(self, call: Call) -> None:
        """Give back what the call holds in its present state. A slot is held by the link, until the terminal frame."""
        if call.state is READING:
            self.reading -= 1
            self._shared.waiting_bytes -= call.size
        elif call.state is QUEUED:
            self._queue.remove(call)
            self._shared.waiting_bytes -= call.size

    def leave(self, call: Call) -> None:
        """Give back all that it holds here."""
        self.leave_place(call)
        self._shared.wheel.discard(call)
        if call.copy:
            self.copies -= 1
            now = self._shared.now()
            self._gate.copy_ended(now - call.dispatched_s, now)
            return
        self.open_calls -= 1
        client, held = call.head.client, self._gate.held
        held[client] -= 1
        if not held[client]:
            del held[client]
