"""What the client of one backend is told: its answer or an error, and the header lines. Must not know links."""

from __future__ import annotations

from muleteer.base.errors import RequestError
from muleteer.base.limits import ATTEMPTS_MAX, BOUNCES_MAX
from muleteer.gateway.call import Call
from muleteer.gateway.exchange import Response
from muleteer.gateway.shared import Shared

_TOLD_MAX = ATTEMPTS_MAX + BOUNCES_MAX
"""Attempts that a header tells of."""


class Answers:
    """Those of `backend`."""

    __slots__ = ("_headers", "_shared")

    def __init__(self, backend: str, shared: Shared) -> None:
        self._shared = shared
        self._headers = [
            f"muleteer-backend: {backend}\r\nmuleteer-attempts: {attempts}\r\n".encode()
            for attempts in range(_TOLD_MAX + 1)
        ]

    def answer(self, call: Call, body: bytes) -> Response:
        """The model's."""
        return Response(200, body, self._lines(call))

    def error(self, call: Call, error: RequestError) -> Response:
        """Why there is none."""
        plain = self._shared.render(error, call.head.request_id)
        return Response(plain.status, plain.body, plain.headers + self._lines(call), plain.content_type, plain.code)

    def _lines(self, call: Call) -> bytes:
        lines, session = self._headers[min(call.attempts, _TOLD_MAX)], call.session
        return lines if session is None else lines + session.lines(call.link if call.attempts else None)
