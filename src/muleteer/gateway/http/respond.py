"""Answers as bytes: the error body, the head of an answer, the Date line. Must not know connections."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Final

import msgspec

from muleteer.base.errors import MethodNotAllowed, QuotaExceeded, Refused, RequestError
from muleteer.gateway.exchange import Response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
"""Said to HTTP/1.0 only; it is what HTTP/1.1 means by saying nothing."""
RETRY_AFTER_S_DEFAULT: Final = 1
"""For refusals that have no better prediction: behaviour.md promises the header on every 503 and 429."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus if status >= 200
}


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not the model's; behaviour.md, section 1."""

    error: str
    code: str
    execution: str
    retryable: bool
    request_id: str


_encode = msgspec.json.Encoder().encode


def render_error(error: RequestError, request_id: str) -> Response:
    """The answer that stands for `error`. Its message is escaped here, once."""
    headers = b""
    seconds = error.retry_after_s
    if seconds is None and isinstance(error, (Refused, QuotaExceeded)):
        seconds = RETRY_AFTER_S_DEFAULT
    if seconds is not None:
        headers = b"retry-after: %d\r\n" % seconds
    if isinstance(error, MethodNotAllowed):
        headers += b"allow: %b\r\n" % ", ".join(error.allow).encode("ascii")
    body = _encode(ErrorBody(_encodable(error.message), error.code, error.execution, error.retryable, request_id))
    return Response(error.status, body, headers, code=error.code)


def render_head(response: Response, *, request_id: str, date_line: bytes, connection_line: bytes) -> bytes:
    """Status line and headers of a final answer, with the empty line that ends them. Lines end in CRLF or are empty."""
    return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n" % (
        _STATUS_LINES[response.status],
        date_line,
        response.content_type,
        len(response.body),
        request_id.encode("ascii"),
        response.headers,
        connection_line,
    )


def date_line(wall_s: float) -> bytes:
    """The Date header of wall-clock seconds, as a line. Names are English whatever the locale (RFC 9110, 5.6.7)."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(wall_s)
    text = f"date: {_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT\r\n"
    return text.encode("ascii")


def _encodable(text: str) -> str:
    """A message may quote a model's or client's text: lone surrogates cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
