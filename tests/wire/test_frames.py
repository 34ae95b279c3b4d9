"""The layout of a frame: every parse whole, byte by byte and with trailing bytes; every damage is refused."""

import random
import struct
import tracemalloc
from zlib import crc32

import pytest

from muleteer.base.errors import WireError
from muleteer.wire.frames import (
    HEADER_BYTES,
    MAGIC,
    VERSION,
    Flag,
    Frame,
    FrameDecoder,
    FrameType,
    encode,
    join_payload,
    split_payload,
)

PAYLOAD_MAX = 1000
SAMPLES = [
    Frame(FrameType.HELLO, 0, 0, 0, b'{"protocol":1,"gateway":"gateway-0"}'),
    Frame(FrameType.READY, 0, 0, 0, b"{}"),
    Frame(FrameType.CALL, 1, 30_000, 0, join_payload(b'{"id":"r1"}', b'{"text":"tadaaam"}')),
    Frame(FrameType.CALL, 2, 30_000, int(Flag.MORE), join_payload(b"", b"[1]")),
    Frame(FrameType.REPLY, 2**64 - 1, 2**32 - 1, 0, join_payload(b"", b'"ok"')),
    Frame(FrameType.CHUNK, 7, 0, 0, join_payload(b"", b"")),
    Frame(FrameType.END, 7, 12, 0, b""),
    Frame(FrameType.ERROR, 8, 12, 0, b'{"code":"model_error","error":"no"}'),
    Frame(FrameType.CANCEL, 9, 0, 0, b""),
    Frame(FrameType.DRAIN, 0, 0, 0, b""),
    Frame(FrameType.STATS, 0, 0, 0, bytes(range(256)) * 3),
    Frame(FrameType.STATS, 0, 0, 0, b"x" * PAYLOAD_MAX),
]


def pack(frame: Frame) -> bytes:
    return encode(frame.type, id=frame.id, budget=frame.budget, flags=frame.flags, payload=frame.payload)


def forged(**changed: int | bytes) -> bytes:
    """A header whose checksum is right and whose fields may be wrong."""
    fields = {"magic": MAGIC, "version": VERSION, "kind": 9, "flags": 0, "zero": 0, "length": 0, "budget": 0, "id": 0}
    head = struct.pack("<2sBBHHIIQI", *(fields | changed).values(), crc32(b""))
    return head + struct.pack("<I", crc32(head))


def feed_bytes(decoder: FrameDecoder, data: bytes) -> list[Frame]:
    return [frame for at in range(len(data)) for frame in decoder.feed(data[at : at + 1])]


def test_the_samples_hold_every_type():
    assert {frame.type for frame in SAMPLES} == set(FrameType)


def test_header_is_as_long_as_documented():
    assert HEADER_BYTES == 32
    assert len(encode(FrameType.DRAIN)) == 32


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: frame.type.name)
def test_round_trip(frame):
    data = pack(frame)
    assert FrameDecoder(PAYLOAD_MAX).feed(data) == [frame]
    assert feed_bytes(FrameDecoder(PAYLOAD_MAX), data) == [frame]


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: frame.type.name)
def test_trailing_bytes_stay_for_the_next_frame(frame):
    data = pack(frame)
    following = encode(FrameType.DRAIN)
    for extra in (1, HEADER_BYTES - 1):
        decoder = FrameDecoder(PAYLOAD_MAX)
        assert decoder.feed(data + following[:extra]) == [frame]
        assert decoder.buffered == extra
        assert [left.type for left in decoder.feed(following[extra:])] == [FrameType.DRAIN]
        assert decoder.buffered == 0


def test_every_split_of_two_frames():
    first, second = SAMPLES[2], SAMPLES[4]
    data = pack(first) + pack(second)
    for cut in range(len(data) + 1):
        decoder = FrameDecoder(PAYLOAD_MAX)
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == [first, second], cut


def test_all_frames_in_random_pieces():
    dice = random.Random(7)
    data = b"".join(map(pack, SAMPLES))
    for _ in range(200):
        decoder, got, at = FrameDecoder(PAYLOAD_MAX), [], 0
        while at < len(data):
            size = dice.choice((1, 2, 31, 32, 33, 400, 5000))
            got += decoder.feed(data[at : at + size])
            assert decoder.buffered < HEADER_BYTES + PAYLOAD_MAX
            at += size
        assert got == SAMPLES


def test_feeding_nothing_changes_nothing():
    decoder = FrameDecoder(PAYLOAD_MAX)
    data = pack(SAMPLES[0])
    assert decoder.feed(b"") == []
    assert decoder.feed(data[:40]) == []
    assert decoder.feed(b"") == []
    assert decoder.feed(data[40:]) == [SAMPLES[0]]


@pytest.mark.parametrize("frame", SAMPLES[:-2], ids=lambda frame: frame.type.name)
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_refused(frame, mask):
    data = pack(frame)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= mask
        with pytest.raises(WireError):
            FrameDecoder(PAYLOAD_MAX).feed(bytes(broken))
        with pytest.raises(WireError):
            feed_bytes(FrameDecoder(PAYLOAD_MAX), bytes(broken))


def test_a_lost_byte_is_refused_once_enough_follows():
    data = pack(SAMPLES[2])
    for at in range(len(data)):
        with pytest.raises(WireError):
            FrameDecoder(PAYLOAD_MAX).feed(data[:at] + data[at + 1 :] + data)


def test_two_frames_swapped_in_the_middle_are_refused():
    one, two = pack(SAMPLES[2]), pack(SAMPLES[4])
    with pytest.raises(WireError, match="payload checksum"):
        FrameDecoder(PAYLOAD_MAX).feed(one[:HEADER_BYTES] + two[HEADER_BYTES:] + one[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"magic": b"GE"}, "frame starts with"),
        ({"version": 2}, "protocol version 2"),
        ({"kind": 0}, "unknown frame type 0"),
        ({"kind": 11}, "unknown frame type 11"),
        ({"flags": 2}, "unknown flags"),
        ({"flags": 0x8000}, "unknown flags"),
        ({"zero": 1}, "reserved"),
        ({"length": PAYLOAD_MAX + 1}, "the cap is 1000"),
        ({"length": 2**32 - 1}, "announces 4294967295 bytes"),
    ],
)
def test_each_rule_of_the_header(changed, message):
    with pytest.raises(WireError, match=message):
        FrameDecoder(PAYLOAD_MAX).feed(forged(**changed))


def test_a_forged_header_without_a_lie_is_accepted():
    assert [frame.type for frame in FrameDecoder(PAYLOAD_MAX).feed(forged())] == [FrameType.DRAIN]


def test_http_on_the_link_is_refused_by_its_first_32_bytes():
    with pytest.raises(WireError, match="frame starts with"):
        FrameDecoder(PAYLOAD_MAX).feed(b"GET / HTTP/1.1\r\nHost: muleteer\r\n\r\n")


def test_a_huge_length_is_refused_before_allocation():
    header = forged(length=2**32 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            FrameDecoder(64 * 2**20).feed(header)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_an_announced_length_allocates_nothing_before_the_bytes_are_there():
    decoder = FrameDecoder(64 * 2**20)
    header = encode(FrameType.STATS, payload=bytes(32 * 2**20))[:HEADER_BYTES]
    tracemalloc.start()
    try:
        assert decoder.feed(header) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_frame_in_small_pieces_takes_linear_time_and_bounded_memory():
    payload = bytes(8 * 2**20)
    data = encode(FrameType.STATS, payload=payload)
    decoder = FrameDecoder(len(payload))
    tracemalloc.start()
    try:
        got = [frame for at in range(0, len(data), 4096) for frame in decoder.feed(data[at : at + 4096])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(frame.payload) for frame in got] == [len(payload)]
    assert peak < 3.3 * len(payload)


def test_join_and_split_payload():
    for meta, body in [(b"", b""), (b"{}", b""), (b"", b"x"), (b'{"id":"a"}', b"[1,2]"), (b"m" * 65_535, b"b")]:
        assert split_payload(join_payload(meta, body)) == (meta, body)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x01\x00", b"\xff\xff" + b"x" * 65_534])
def test_split_payload_refuses_a_length_that_does_not_fit(payload):
    with pytest.raises(WireError):
        split_payload(payload)
