"""The layout of a frame, and the decoder that turns bytes into frames.

    offset  size  field
    0       2     magic  b"\\xabM"
    2       1     protocol version
    3       1     type (`FrameType`)
    4       2     flags
    6       2     zero
    8       4     payload length, checked against the cap before anything is allocated
    12      4     budget: CALL remaining deadline in ms, REPLY/ERROR/END service time in µs, else 0
    16      8     request id, chosen by the gateway, unique on its link
    24      4     CRC-32 of the payload
    28      4     CRC-32 of bytes 0..27
    32      …     payload

Little-endian. Deadlines travel as remaining time, never as a moment: clocks of two hosts differ. The payload of CALL,
REPLY and CHUNK is a 2-byte metadata length, the metadata (a JSON object, or nothing) and the body; that of every other
type is a JSON object or empty. Consecutive CALLs joined by the flag `MORE` form one batch.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from zlib import crc32

import msgspec

from muleteer.base.errors import WireError

MAGIC = b"\xabM"
VERSION = 1
_HEADER = struct.Struct("<2sBBHHIIQI")
_CRC = struct.Struct("<I")
_WHOLE = struct.Struct(_HEADER.format + "I")
_META = struct.Struct("<H")
_CHECKED_BYTES = _HEADER.size
HEADER_BYTES = _WHOLE.size


class FrameType(IntEnum):
    """What a frame is."""

    HELLO = 1
    READY = 2
    CALL = 3
    REPLY = 4
    CHUNK = 5
    END = 6
    ERROR = 7
    CANCEL = 8
    DRAIN = 9
    STATS = 10


class Flag(IntFlag):
    """Bits of the flags field."""

    NONE = 0
    MORE = 1  # CALL: the next CALL belongs to the same batch


_TYPES = {int(kind): kind for kind in FrameType}
_FLAGS_KNOWN = int(Flag.MORE)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One decoded frame. `budget` is ms for CALL and µs for REPLY, END and ERROR."""

    type: FrameType
    id: int
    budget: int
    flags: int
    payload: bytes


def encode(kind: FrameType, *, id: int = 0, budget: int = 0, flags: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    head = _HEADER.pack(MAGIC, VERSION, kind, flags, 0, len(payload), budget, id, crc32(payload))
    return head + _CRC.pack(crc32(head)) + payload


def join_payload(meta: bytes, body: bytes) -> bytes:
    """The payload of CALL, REPLY and CHUNK: metadata (JSON object or empty, at most 65,535 bytes) and body."""
    return b"".join((_META.pack(len(meta)), meta, body))


def split_payload(payload: bytes) -> tuple[bytes, bytes]:
    """Metadata and body of a payload. Raises WireError where the length does not fit."""
    if len(payload) < 2:
        raise WireError(f"payload of {len(payload)} bytes has no metadata length")
    end = 2 + payload[0] + (payload[1] << 8)
    if end > len(payload):
        raise WireError(f"metadata of {end - 2} bytes in a payload of {len(payload)}")
    return payload[2:end], payload[end:]


class FrameDecoder:
    """Bytes in, frames out, whatever the splits. After a WireError it must be thrown away.

    Args:
        payload_max: the largest payload in bytes that is accepted; memory is bounded by it.
    """

    def __init__(self, payload_max: int) -> None:
        self._payload_max = payload_max
        self._buffer = bytearray()
        self._needed = HEADER_BYTES

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)

    def discard(self) -> None:
        """Free what was buffered: nobody reads on."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that `data` completes, in order. Raises WireError at the first broken rule."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        frames: list[Frame] = []
        offset, end = 0, len(data)
        while end - offset >= HEADER_BYTES:
            kind, flags, length, budget, id, crc = self._header(data, offset)
            stop = offset + HEADER_BYTES + length
            if stop > end:
                self._needed = HEADER_BYTES + length
                break
            payload = data[offset + HEADER_BYTES : stop]
            if crc32(payload) != crc:
                raise WireError(f"payload checksum of a {kind.name} frame is wrong")
            frames.append(Frame(kind, id, budget, flags, payload))
            offset = stop
        else:
            self._needed = HEADER_BYTES
        if offset < end:
            self._buffer += data[offset:]
        return frames

    def _header(self, data: bytes, offset: int) -> tuple[FrameType, int, int, int, int, int]:
        magic, version, kind, flags, zero, length, budget, id, crc, own_crc = _WHOLE.unpack_from(data, offset)
        if magic != MAGIC:
            raise WireError(f"frame starts with {magic!r}, not {MAGIC!r}")
        if crc32(data[offset : offset + _CHECKED_BYTES]) != own_crc:
            raise WireError("header checksum is wrong")
        if version != VERSION:
            raise WireError(f"protocol version {version}, this end speaks {VERSION}")
        known = _TYPES.get(kind)
        if known is None:
            raise WireError(f"unknown frame type {kind}")
        if zero or flags & ~_FLAGS_KNOWN:
            raise WireError(f"unknown flags {flags:#x} or reserved bits {zero:#x}")
        if length > self._payload_max:
            raise WireError(f"{known.name} frame announces {length} bytes, the cap is {self._payload_max}")
        return known, flags, length, budget, id, crc
