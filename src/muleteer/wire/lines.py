"""The control path between muleteer's own processes: one JSON object a line, each with a `type`. Sans-IO."""

from __future__ import annotations

from typing import Any

import msgspec

from muleteer.base.errors import WireError
from muleteer.base.limits import LINE_BYTES_MAX

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])


def encode_line(message: Any) -> bytes:
    """One message (a dict, or a msgspec Struct with a tag field `type`) as a line."""
    return _encoder.encode(message) + b"\n"


class LineDecoder:
    """Bytes in, messages out. A line that is not a JSON object with a string `type` raises WireError."""

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._bytes_max = bytes_max

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """All messages that `data` completes, in order."""
        self._buffer += data
        if b"\n" not in data:
            self._check(self._buffer)
            return []
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = rest
        for line in (*lines, rest):
            self._check(line)
        return [_message(line) for line in lines if line]

    def _check(self, line: bytes | bytearray) -> None:
        if len(line) > self._bytes_max:
            raise WireError(f"a control line is longer than {self._bytes_max} bytes")


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"control line is not a JSON object: {error}") from None
    if not isinstance(message.get("type"), str):
        raise WireError("control line has no type")
    return message
