"""Request bodies: strict JSON in, Python values out, or BadJson with the position. Must not know calls or models.

msgspec refuses most of what RFC 8259 forbids and keeps integers exact at any size. Three things it lets through are
checked here, each behind a byte count that costs about 0.1 µs and is enough for almost every body: nesting (bounded
before decoding, so a user's `sys.setrecursionlimit` cannot let a body overflow the C stack), and duplicate keys at the
top level (msgspec keeps the last one in silence). The third is only wording: some of its positions are
relative or absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any, NoReturn

import msgspec

from muleteer.base.errors import BadJson
from muleteer.base.limits import JSON_DEPTH_MAX

_decode = msgspec.json.Decoder().decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}:]|-?[0-9][-+0-9.eE]*', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_AT = re.compile(r" ?\(byte (\d+)\)$")
# Bytes 1 and 255 read as signed are +1 and -1: the running sum of brackets is the depth.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LOCATE_TOKENS_MAX = 200_000  # looking for the position of an error stops here, after about 0.1 s


def decode(body: bytes) -> Any:
    """The value of `body`. Integers are exact. Raises BadJson; its message holds the byte, line and column."""
    if body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX:
        _check_depth(body)
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _explain(body, error)
    if type(value) is dict and body.count(b":") != len(value):
        _check_duplicates(body, value)
    return value


def _check_depth(body: bytes) -> None:
    outside = _STRING.sub(b"", body) if b'"' in body else body
    steps = memoryview(outside.translate(_STEPS, _NO_BRACKETS)).cast("b")
    if max(accumulate(steps), default=0) > JSON_DEPTH_MAX:
        position = None
        depth = 0
        for token in _tokens(body):
            depth += (token[0] in b"[{") - (token[0] in b"]}")
            if depth > JSON_DEPTH_MAX:
                position = token.start()
                break
        _refuse(body, f"it is nested deeper than {JSON_DEPTH_MAX} levels", position)


def _check_duplicates(body: bytes, value: dict[str, Any]) -> None:
    """More colons than keys: either they stand inside keys and values, or a key came twice and its first value is lost.

    Exactly one colon belongs to each pair, so the colons of what was kept tell the two apart without a second parser.
    """
    if b"\\u003a" in body or b"\\u003A" in body:  # a colon that is not a byte ":" would spoil the sum
        pairs = _count_pairs(body)
        unique = pairs == len(value)
    else:
        kept = _decode_raw(body)
        colons = len(kept) + sum(key.count(":") for key in kept)
        colons += sum(bytes(raw).count(b":") for raw in kept.values())
        unique = colons == body.count(b":")
    if unique:
        return
    depth, seen = 0, set()
    before: re.Match[bytes] | None = None
    for token in _tokens(body):
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        if token[0] == b":" and depth == 1 and before is not None:
            key = _decode(before[0])
            if key in seen:
                _refuse(body, f"key {_short(key)} stands twice", before.start())
            seen.add(key)
        before = token
    _refuse(body, "a key stands twice", None)


def _count_pairs(body: bytes) -> int:
    from json import JSONDecoder

    pairs = 0

    def keep(found: list[tuple[str, Any]]) -> None:
        nonlocal pairs
        pairs = len(found)  # called from the inside out: the last call is the top level

    JSONDecoder(object_pairs_hook=keep).decode(body.decode())
    return pairs


def _explain(body: bytes, error: Exception) -> NoReturn:
    """Raise BadJson for what msgspec refused, in words for the sender and with an absolute position."""
    if not body.strip():
        _refuse(body, "it is empty", None)
    if body[:3] == b"\xef\xbb\xbf":
        _refuse(body, "it starts with a byte order mark", 0)
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in body[:2]:
        _refuse(body, "it is UTF-16 or UTF-32, send UTF-8", 0)
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        _refuse(body, "it is not UTF-8", broken.start)
    text = str(error)
    if "range" in text:
        _refuse(body, "a number is out of range", _find_number(body))
    if "surrogate" in text or "truncated" in text:
        lone = _find_lone_surrogate(body)
        if lone is not None:
            _refuse(body, "a surrogate stands alone", lone)
    if "truncated" in text:
        _refuse(body, "it ends too early", len(body))
    at = _AT.search(text)
    what = _AT.sub("", text).removeprefix("JSON is malformed: ")
    position = int(at[1]) if at else None
    if position is not None and what == "trailing characters":
        position -= 1  # msgspec counts the character it has just read
    _refuse(body, what, position)


def _find_number(body: bytes) -> int | None:
    for token in _tokens(body):
        if token[0][0] in b"-0123456789":
            try:
                _decode(token[0])
            except msgspec.DecodeError:
                return token.start()
    return None


def _find_lone_surrogate(body: bytes) -> int | None:
    high: re.Match[bytes] | None = None
    for escape in islice(_ESCAPE.finditer(body), _LOCATE_TOKENS_MAX):
        unit = int(escape[1], 16) if escape[1] else 0
        if 0xDC00 <= unit <= 0xDFFF:
            if high is None or high.end() != escape.start():
                return escape.start() if high is None else high.start()
            high = None
        elif high is not None:
            return high.start()
        elif 0xD800 <= unit <= 0xDBFF:
            high = escape
    return None if high is None else high.start()


def _tokens(body: bytes) -> Iterator[re.Match[bytes]]:
    return islice(_TOKEN.finditer(body), _LOCATE_TOKENS_MAX)


def _short(key: str) -> str:
    return repr(key if len(key) <= 80 else key[:77] + "...")


def _refuse(body: bytes, what: str, position: int | None) -> NoReturn:
    if position is None:
        raise BadJson(f"the body is not the JSON we accept: {what}") from None
    line = body.count(b"\n", 0, position) + 1
    start = body.rfind(b"\n", 0, position) + 1
    column = len(body[start:position].decode(errors="replace")) + 1
    message = f"the body is not the JSON we accept: {what}, at byte {position} (line {line}, column {column})"
    raise BadJson(message) from None
