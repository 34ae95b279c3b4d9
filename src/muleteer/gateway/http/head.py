"""The head of a request: bytes in, checked values out. Must not know sockets, bodies or answers.

A head is refused rather than repaired: two readers that repair differently are what request smuggling is made of.
Grammar: RFC 9110 and RFC 9112. Regular expressions are possessive (`++`, `*+`), so none can backtrack.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from muleteer.base.errors import (
    ClientError,
    ExpectationFailed,
    HeadersTooLarge,
    LengthRequired,
    NotSpoken,
    RequestError,
    UriTooLong,
    VersionNotSpoken,
)
from muleteer.base.limits import REQUEST_ID_CHARS_MAX
from muleteer.gateway.http.bounds import HttpBounds

METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
"""What we implement. CONNECT and TRACE are known to HTTP and not to us: 501, as for any other token."""
METHODS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
METHOD_BYTES_MAX: Final = 64
"""Room for method, version and two spaces beside the target, before an endless first line is refused."""
LENGTH_DIGITS_MAX: Final = 19

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"++) ([!-~]++) HTTP/([0-9]\.[0-9])")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+")
_FIELD_NAME = re.compile(_TOKEN + rb"++")
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5}+)?+")
_ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*+)(.*+)")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%(?:2[Ff]|5[Cc]|[01][0-9A-Fa-f]|7[Ff])")
_REQUEST_ID = re.compile(
    rf"[!#-;=?-\[\]-~]{{1,{REQUEST_ID_CHARS_MAX}}}+"
)  # printable, less space " < > and the backslash
_FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789\rABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class RequestHead(msgspec.Struct, gc=False):
    """A head that broke no rule.

    Attributes:
        method: one of METHODS.
        path: percent-decoded, starts with "/" (or is "*" for OPTIONS), no dot segments, control bytes or backslashes.
        query: raw, without the question mark.
        headers: lower-case names, values without surrounding white space, repeated fields joined with ", ".
        content_length: as announced; None where nothing was.
        chunked: the body comes in chunks.
        keep_alive: the client wants, or by its version implies, further requests.
        http10: it speaks HTTP/1.0.
        expects_continue: it waits for 100 before it sends the body.
    """

    method: str
    path: str
    query: bytes
    headers: dict[str, str]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    http10: bool
    expects_continue: bool


def parse_head(raw: bytes, bounds: HttpBounds) -> RequestHead:
    """Parse a whole head: everything before the empty line, with the CRLF of the last line.

    Raises RequestError (400, 411, 414, 417, 431, 501, 505); the connection cannot be read on after it.
    """
    line, _, block = raw.partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _bad_request_line(line, bounds)
    token, target, version = match.groups()
    if len(target) > bounds.uri_bytes_max:
        raise UriTooLong(f"the request target is over {bounds.uri_bytes_max} bytes")
    http10 = version == b"1.0"
    if not http10 and version != b"1.1":
        raise VersionNotSpoken("only HTTP/1.1 and HTTP/1.0 are spoken here")
    method = METHODS.get(token)
    if method is None:
        raise NotSpoken("the method is not implemented")
    headers = _parse_fields(block, bounds)
    path, query = _parse_target(method, target.decode("ascii"), headers)
    host = headers.get("host")
    if host is None:
        if not http10:
            raise ClientError("the Host header is missing")
    elif _HOST.fullmatch(host) is None:
        raise ClientError("the Host header is empty, repeated or malformed")
    length, chunked = _parse_framing(method, headers, http10=http10)
    expects = headers.get("expect")
    if expects is not None and expects.lower() != "100-continue":
        raise ExpectationFailed("the only expectation met here is 100-continue")
    connection = headers.get("connection")
    return RequestHead(
        method,
        path,
        query,
        headers,
        length,
        chunked,
        not http10 if connection is None else _keeps_alive(connection, http10=http10),
        http10,
        expects is not None and not http10,
    )


def check_partial_head(data: bytes, start: int, checked: int, bounds: HttpBounds) -> None:
    """Refuse early what can no longer become a good head. `data[start:]` has no empty line yet.

    Args:
        data: what has arrived.
        start: where the head begins.
        checked: `data[start:checked]` has passed before, so that a head sent byte by byte is read once.
        bounds: the limits.

    Raises RequestError.
    """
    if data[start] not in _FIRST_BYTES:
        raise ClientError("this is not an HTTP request")
    fresh = max(start, checked)
    if fresh > start and data[fresh - 1] == 0x0D:
        fresh -= 1
    pairs = data.count(b"\r\n", fresh)
    returns = data.count(b"\r", fresh) - data.endswith(b"\r")
    if data.count(b"\n", fresh) != pairs or returns != pairs or data.find(b"\0", fresh) >= 0:
        raise ClientError("the head holds a bare CR, a bare LF or a NUL")
    first_end = data.find(b"\r\n", start)
    if first_end < 0:
        if len(data) - start > bounds.uri_bytes_max + METHOD_BYTES_MAX:
            raise _bad_request_line(data[start:], bounds)
        return
    # what is there of the block of fields, and of its last line; the CR of a line end that is cut in two is neither
    end = len(data) - data.endswith(b"\r")
    if (
        end - (first_end + 2) > bounds.header_bytes_max
        or end - (data.rfind(b"\r\n") + 2) > bounds.header_field_bytes_max
    ):
        raise _headers_too_large(bounds)


def acceptable_request_id(value: str) -> bool:
    """Whether a client's `x-request-id` may go into answers and logs as it is."""
    return _REQUEST_ID.fullmatch(value) is not None


def _bad_request_line(line: bytes, bounds: HttpBounds) -> RequestError:
    _, space, rest = line.partition(b" ")
    if space and len(rest.partition(b" ")[0]) > bounds.uri_bytes_max:
        return UriTooLong(f"the request target is over {bounds.uri_bytes_max} bytes")
    return ClientError("the request line is malformed")


def _headers_too_large(bounds: HttpBounds) -> HeadersTooLarge:
    return HeadersTooLarge(
        f"headers are limited to {bounds.header_fields_max} fields, {bounds.header_field_bytes_max} bytes each, "
        f"{bounds.header_bytes_max} bytes in all"
    )


def _parse_fields(block: bytes, bounds: HttpBounds) -> dict[str, str]:
    if len(block) > bounds.header_bytes_max:
        raise _headers_too_large(bounds)
    if _FIELDS.fullmatch(block) is None:
        raise _bad_field(block)
    headers: dict[str, str] = {}
    lines = block.decode("latin-1").split("\r\n")
    lines.pop()
    if len(lines) > bounds.header_fields_max or (
        len(block) > bounds.header_field_bytes_max and max(map(len, lines)) > bounds.header_field_bytes_max
    ):
        raise _headers_too_large(bounds)
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _bad_field(block: bytes) -> ClientError:
    """The precise complaint, found slowly: this path ends the connection anyway."""
    for line in block.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            return ClientError("a header line is folded, which HTTP has given up")
        name, colon, _ = line.partition(b":")
        if not colon and line:
            return ClientError("a header line has no colon")
        if line and _FIELD_NAME.fullmatch(name) is None:
            return ClientError("a header name is empty or holds a character that is not allowed in it")
    return ClientError("a header value holds a control byte, a bare CR or a bare LF")


def _parse_target(method: str, target: str, headers: dict[str, str]) -> tuple[str, bytes]:
    """Path and query. An absolute target's authority takes the place of Host (RFC 9112, 3.2.2)."""
    if target[0] != "/":
        if target == "*" and method == "OPTIONS":
            return target, b""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise ClientError("the request target must begin with a slash")
        authority, target = absolute.groups()
        if _HOST.fullmatch(authority) is None:
            raise ClientError("the authority of the request target is malformed")
        if "host" in headers and _HOST.fullmatch(headers["host"]):
            headers["host"] = authority
        if not target.startswith("/"):
            target = "/" + target
    if "#" in target:
        raise ClientError("the request target holds a fragment")
    path, _, query = target.partition("?")
    return _decode_path(path), query.encode("ascii")


def _decode_path(path: str) -> str:
    """Percent-decode once. What would turn into another route (dots, slashes, controls) is refused, not normalised."""
    if "%" in path:
        if _BAD_ESCAPE.search(path) is not None:
            raise ClientError("the path holds a broken or forbidden percent-escape")
        try:
            path = unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            raise ClientError("the path is not UTF-8") from None
    if "\\" in path or ("/." in path and not {".", ".."}.isdisjoint(path.split("/"))):
        raise ClientError("the path holds a dot segment or a backslash")
    return path


def _parse_framing(method: str, headers: dict[str, str], *, http10: bool) -> tuple[int | None, bool]:
    """Length of the body and whether it is chunked. Raises where two readers could disagree."""
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise ClientError("Content-Length and Transfer-Encoding exclude each other")
        if http10:
            raise ClientError("HTTP/1.0 has no Transfer-Encoding")
        codings = [part.strip(" \t").lower() for part in coding.split(",")]
        if codings.pop() != "chunked" or "chunked" in codings or "" in codings:
            raise ClientError("Transfer-Encoding must end in chunked, once")
        if codings:
            raise NotSpoken("no transfer coding but chunked is implemented")
        return None, True
    if length is None:
        if method in METHODS_WITH_BODY:
            raise LengthRequired(f"{method} needs a Content-Length or chunked framing")
        return None, False
    if len(length) > LENGTH_DIGITS_MAX or not (length.isascii() and length.isdigit()):
        raise ClientError("Content-Length is repeated or not a plain number")
    return int(length), False


def _keeps_alive(connection: str, *, http10: bool) -> bool:
    options = [option.strip(" \t") for option in connection.lower().split(",")]
    return "close" not in options and (not http10 or "keep-alive" in options)
