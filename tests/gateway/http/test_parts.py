"""The parts that need no socket: chunked framing at every split, sinks at their bounds, dates, error bodies."""

import gzip
import time
import zlib
from contextlib import suppress
from email.utils import formatdate

import msgspec
import pytest

from muleteer.base.errors import CODES, BadEncoding, BodyTooLarge, ClientError, MethodNotAllowed
from muleteer.gateway.http.body import Chunks, InflatingSink, PlainSink, open_sink
from muleteer.gateway.http.bounds import HttpBounds
from muleteer.gateway.http.head import check_partial_head, parse_head
from muleteer.gateway.http.respond import date_line, render_error

NEXT = b"GET / HTTP/1.1\r\n"
STREAMS = {
    b"0\r\n\r\n": b"",
    b"5\r\nhello\r\n0\r\n\r\n": b"hello",
    b"4\r\n\r\n\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n": b"\r\n\r\n\r\n",
    b"1;x=y\r\na\r\n0;z\r\nTrailer: t\r\nOther: o\r\n\r\n": b"a",
    b"5\r\n0\r\n\r\n\r\n0\r\n\r\n": b"0\r\n\r\n",
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("after", [b"", b"\r\n", NEXT, b"0\r\n\r\n"])
def test_chunked_framing_stops_at_its_end_at_every_split(stream, after):
    data = stream + after
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            sink, chunks, taken = PlainSink(100), Chunks(), 0
            for piece in (data[:first], data[first:second], data[second:]):
                if not chunks.over:
                    taken += chunks.feed(b"xx" + piece, 2, sink) - 2
            assert (chunks.over, taken, sink.finish()) == (True, len(stream), STREAMS[stream]), (first, second)


def test_a_chunked_body_is_refused_where_it_passes_the_bound():
    sink, chunks = PlainSink(10), Chunks()
    chunks.feed(b"a\r\n0123456789\r\n", 0, sink)
    with pytest.raises(BodyTooLarge):
        chunks.feed(b"1\r\nx", 0, sink)


def test_many_small_chunks_are_no_extension():
    sink, chunks = PlainSink(1 << 20), Chunks()
    chunks.feed(b"0000001\r\nx\r\n" * 10_000, 0, sink)
    assert sink.finish() == b"x" * 10_000


@pytest.mark.parametrize(
    ("coding", "packed"), [("gzip", gzip.compress(b"x" * 50, mtime=0)), ("deflate", zlib.compress(b"x" * 50))]
)
def test_inflating_at_the_bound(coding, packed):
    for size in (1, 7, len(packed)):
        pieces = [packed[i : i + size] for i in range(0, len(packed), size)]
        sink = open_sink(coding, 50)
        for piece in pieces:
            sink.feed(piece)
        assert sink.finish() == b"x" * 50
        with pytest.raises(BodyTooLarge):
            tight = open_sink(coding, 49)
            for piece in pieces:
                tight.feed(piece)
    for end in range(len(packed)):
        sink = open_sink(coding, 50)
        sink.feed(packed[:end])
        with pytest.raises(BadEncoding):
            sink.finish()


def test_a_bomb_is_not_unpacked():
    packed = gzip.compress(b"\0" * 50_000_000, mtime=0)
    sink = InflatingSink("gzip", 100_000)
    with pytest.raises(BodyTooLarge):
        sink.feed(packed)
    assert len(sink._body) == 100_001


def test_what_is_sent_compressed_is_bounded_as_well():
    with pytest.raises(BodyTooLarge):
        InflatingSink("gzip", 10).feed(b"\x1f\x8b" + b"x" * 9)


def test_dates_are_those_of_the_standard():
    for wall_s in (0, 951_782_400, 1_700_000_000, time.time()):
        assert date_line(wall_s) == f"date: {formatdate(wall_s, usegmt=True)}\r\n".encode()


@pytest.mark.parametrize("code", CODES)
def test_every_error_has_its_body(code):
    error = CODES[code]('it "failed"\n\ud800')
    response = render_error(error, "id-1")
    assert response.status == error.status
    assert response.code == code
    assert msgspec.json.decode(response.body) == {
        "error": 'it "failed"\n?',
        "code": code,
        "execution": error.execution,
        "retryable": error.retryable,
        "request_id": "id-1",
    }
    assert (b"retry-after: " in response.headers) == (error.status in (429, 503))


def test_allow_is_always_said_with_a_405():
    assert render_error(MethodNotAllowed("no", allow=["GET", "POST"]), "i").headers == b"allow: GET, POST\r\n"


def test_a_head_without_end_is_checked_once_however_it_comes():
    bounds = HttpBounds()
    data = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(4000))
    began_s = time.process_time()
    with pytest.raises(ClientError, match="limited"):
        for end in range(1, len(data)):
            check_partial_head(data[:end], 0, end - 1, bounds)
    assert time.process_time() - began_s < 2.0


def fields(*lengths):
    """A block of fields of these lengths, their line ends not counted."""
    return b"".join((b"X%d:" % n).ljust(length, b"y") + b"\r\n" for n, length in enumerate(lengths))


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("kind", ["uri", "field", "all", "count"])
def test_at_its_limits_a_head_passes_however_it_is_cut_and_one_over_it_is_refused(kind, over):
    bounds = HttpBounds(uri_bytes_max=200, header_field_bytes_max=300, header_bytes_max=880, header_fields_max=20)
    line, host = b"GET / HTTP/1.1\r\n", b"Host: a\r\n"
    raw = {
        "uri": b"OPTIONS /" + b"a" * (199 + over) + b" HTTP/1.1\r\n" + host,
        "field": line + host + fields(300 + over),
        "all": line + host + fields(290, 290, 880 - len(host) - 3 * 2 - 580 + over),
        "count": line + host + fields(*[20] * (19 + over)),
    }[kind]
    if over:
        with pytest.raises(ClientError):
            parse_head(raw, bounds)
        return
    parse_head(raw, bounds)
    data = raw + b"\r\n"
    for end in range(1, len(data)):
        check_partial_head(data[:end], 0, end - 1, bounds)
        check_partial_head(data[:end], 0, 0, bounds)


@pytest.mark.parametrize("filler", [b" ", b"\t", b"a", b"a:", b": ", b"\r", b"%", b"a, "])
def test_no_head_takes_long(filler):
    """What would make a backtracking expression explode."""
    bounds = HttpBounds()
    began_s = time.process_time()
    for raw in (
        b"GET /" + filler * 4000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: " + filler * 4000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + filler * 4000 + b"\0\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + filler * 4000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + filler * 4000 + b"\r\n",
    ):
        with suppress(ClientError):
            parse_head(raw, bounds)
    assert time.process_time() - began_s < 0.1
