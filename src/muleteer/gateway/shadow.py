"""Copies of calls to another backend, whose answers are compared and thrown away. Must not know how calls run.

A copy is made when its call has been answered, so it can cost that call nothing: neither latency, nor outcome, nor a
place anywhere. It runs only where a slot is free that no request needs, at once or not at all, once; it counts for no
client and for no version. Making and comparing are left to later turns of the loop, and both are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from muleteer.base.clock import Clock
from muleteer.base.limits import COMPARE_BYTES_MAX, COMPARE_SHARE, SHADOW_BYTES_MAX, SHADOW_CALLS_MAX
from muleteer.gateway.compare import compare
from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.versions import EndpointCounts, Version
from muleteer.spec.snapshot import EndpointRoute

_COPIED = frozenset({"", "model_error", "bad_model_output"})
"""Codes of the answers of calls that the model ran, as it will run the copy."""
CLIENT = "shadow"
"""Who asks for copies: no address of a client looks like it."""

Start = Callable[[str, Head, bytes, float, Version], bool]
"""Runs a copy on a backend (name, head, body, seconds it may take, version) if it can be spared; whether it does."""
Soon = Callable[[Callable[[], None]], object]
"""Calls it back in a later turn of the loop."""


class Shadows:
    """The copies of one gateway and their bounds.

    Attributes:
        calls, bytes: copies on their way, with what is held for them.
    """

    def __init__(self, *, clock: Clock, start: Start, soon: Soon, uniform: Callable[[], float]) -> None:
        self.calls = 0
        self.bytes = 0
        self.now = clock.now
        self.start = start
        self.soon = soon
        self.uniform = uniform
        self._compare_due_s = 0.0

    def take(self, size: int) -> bool:
        """Room for one more copy that holds `size` bytes; whether there was some."""
        if self.calls >= SHADOW_CALLS_MAX or self.bytes + size > SHADOW_BYTES_MAX:
            return False
        self.calls += 1
        self.bytes += size
        return True

    def give_back(self, size: int) -> None:
        """A copy has ended."""
        self.calls -= 1
        self.bytes -= size

    def compare(self, primary: bytes, shadow: bytes, tolerance: float) -> str:
        """`equal`, `different`, or `uncompared` where the time is not there: after each comparison of answers that are
        not the same bytes comes a pause, so that all of them take COMPARE_SHARE of the time at most.
        """
        if primary == shadow:
            return "equal"
        now = self.now()
        if len(primary) + len(shadow) > COMPARE_BYTES_MAX or now < self._compare_due_s:
            return "uncompared"
        began = perf_counter()
        verdict = compare(primary, shadow, tolerance)
        self._compare_due_s = now + (perf_counter() - began) * 100 / COMPARE_SHARE
        return "uncompared" if verdict == "error" else verdict


class EndpointMirror:
    """Copies a share of one endpoint's calls to one backend."""

    def __init__(self, route: EndpointRoute, counts: EndpointCounts, shadows: Shadows) -> None:
        assert route.shadow is not None
        self.backend = route.shadow.backend
        self._share = route.shadow.percent / 100
        self._tolerance = route.shadow.tolerance
        self._timeout_s = route.timeout_s
        self._counts = counts.shadow(self.backend)
        self._shadows = shadows
        self._version = Version()  # what a copy counts for is shown nowhere

    def offer(self, head: Head, body: bytes, response: Response) -> None:
        """A call was answered: copy it, if chance and bounds will have it."""
        if response.code not in _COPIED or self._shadows.uniform() >= self._share:
            return
        answer = response.body if not response.code else None
        size = len(body) + len(answer or b"")
        if self._shadows.take(size):
            self._shadows.soon(lambda: self._send(head, body, answer, size))
        else:
            self._counts.dropped += 1

    def _send(self, head: Head, body: bytes, answer: bytes | None, size: int) -> None:
        copy = Head(
            method=head.method,
            path=head.path,
            query=b"",
            headers={},
            content_length=len(body),
            request_id=head.request_id,
            client=CLIENT,
            received_s=self._shadows.now(),
            respond=lambda response: self._answered(answer, response, size),
        )
        if self._shadows.start(self.backend, copy, body, self._timeout_s, self._version):
            self._counts.sent += 1
        else:
            self._counts.dropped += 1
            self._shadows.give_back(size)

    def _answered(self, answer: bytes | None, response: Response, size: int) -> None:
        if response.code:
            self._counts.error += 1
        elif answer is None:
            self._counts.uncompared += 1
        else:
            body = response.body
            self._shadows.soon(lambda: self._compare(answer, body, size))
            return
        self._shadows.give_back(size)

    def _compare(self, answer: bytes, body: bytes, size: int) -> None:
        verdict = self._shadows.compare(answer, body, self._tolerance)
        if verdict == "equal":
            self._counts.equal += 1
        elif verdict == "different":
            self._counts.different += 1
        else:
            self._counts.uncompared += 1
        self._shadows.give_back(size)
