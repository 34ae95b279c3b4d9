"""Control lines: every parse whole, byte by byte and with trailing bytes; what is not a message is a WireError."""

import json

import msgspec
import pytest

from muleteer.base.errors import WireError
from muleteer.wire.lines import LineDecoder, encode_line

MESSAGES = [
    {"type": "ready", "info": {"files": ["a.py"], "n": 1}},
    {"type": "stage", "stage": "import", "seconds": 0.21},
    {"type": "notice", "text": "two\nlines, \u2028 and \x00"},
    {"type": "ensure", "process": {"id": "m-1", "argv": ["python", "-m", "muleteer.replica"]}},
]
DATA = b"".join(map(encode_line, MESSAGES))


class Tagged(msgspec.Struct, tag_field="type", tag="tagged"):
    number: int


def test_one_message_is_one_line():
    assert all(encode_line(message).count(b"\n") == 1 for message in MESSAGES)


def test_whole():
    assert LineDecoder().feed(DATA) == MESSAGES


def test_byte_by_byte():
    decoder = LineDecoder()
    assert [message for at in range(len(DATA)) for message in decoder.feed(DATA[at : at + 1])] == MESSAGES


def test_every_split():
    for cut in range(len(DATA) + 1):
        decoder = LineDecoder()
        assert decoder.feed(DATA[:cut]) + decoder.feed(DATA[cut:]) == MESSAGES, cut


def test_trailing_bytes_stay():
    decoder = LineDecoder()
    assert decoder.feed(DATA + b'{"type":') == MESSAGES
    assert decoder.feed(b'"x"}\n') == [{"type": "x"}]


def test_structs_travel_as_messages():
    assert LineDecoder().feed(encode_line(Tagged(3))) == [{"type": "tagged", "number": 3}]


def test_empty_lines_are_skipped():
    assert LineDecoder().feed(b'\n\n{"type":"a"}\n\n') == [{"type": "a"}]


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b'"type"',
        b"{}",
        b'{"type":1}',
        b'{"type":null}',
        b'{"type":"a"',
        b'{"type":"a"} x',
        b'{"type":"a","x":NaN}',
        b'{"type":"\xff"}',
        b"\xff\xfe{\x00",
        b"\xef\xbb\xbf{}",
        b'{"type":"\\ud800"}',
        b'{"type":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda line: line[:24].decode("latin-1"),
)
def test_what_is_not_a_message_is_refused(line):
    with pytest.raises(WireError):
        LineDecoder().feed(line + b"\n")


def test_a_line_without_an_end_is_refused_at_the_cap():
    decoder = LineDecoder(bytes_max=100)
    assert decoder.feed(b"x" * 100) == []
    with pytest.raises(WireError, match="longer than 100 bytes"):
        decoder.feed(b"x")


def test_the_cap_holds_for_a_complete_line_and_for_the_rest_after_one():
    long = json.dumps({"type": "a" * 200}).encode()
    with pytest.raises(WireError, match="longer than 100 bytes"):
        LineDecoder(bytes_max=100).feed(long + b"\n")
    with pytest.raises(WireError, match="longer than 100 bytes"):
        LineDecoder(bytes_max=100).feed(b'{"type":"a"}\n' + long)
