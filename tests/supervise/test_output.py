import os
import random

import pytest

from muleteer.base.limits import LOG_TAIL_BYTES, OUTPUT_LINE_BYTES_MAX, OUTPUT_READ_BYTES
from muleteer.supervise.output import LogFile, Output


@pytest.fixture
def pipe(place):
    """A pipe, its reader, and the lines it told."""

    class Pipe:
        lines = []
        read, write = os.pipe()
        log = LogFile(place / "x.log", bytes_max=100_000)
        output = Output(read, log, lines.append)

    yield Pipe
    Pipe.output.close()
    Pipe.log.close()
    os.close(Pipe.write)


def test_lines_survive_every_split(pipe, place):
    text = "".join(f"line {number} ä€\r\n" for number in range(300)).encode() + b"no end"
    chance = random.Random(1)
    rest = text
    while rest:
        cut = chance.randint(1, 50)
        os.write(pipe.write, rest[:cut])
        rest = rest[cut:]
        assert pipe.output.read() > 0
    assert pipe.output.read() == 0
    pipe.output.read_rest()
    assert pipe.lines == [*(f"line {number} ä€" for number in range(300)), "no end"]
    assert (place / "x.log").read_bytes() == text
    assert pipe.output.tail.encode() == text[-LOG_TAIL_BYTES:]


def test_one_read_is_bounded_and_a_line_without_end_is_cut(pipe):
    os.write(pipe.write, b"x" * 60_000)
    assert pipe.output.read() == OUTPUT_READ_BYTES
    pipe.output.read_rest()
    assert {len(line) for line in pipe.lines} <= set(range(1, OUTPUT_LINE_BYTES_MAX + 1))
    assert len(pipe.output.tail) == LOG_TAIL_BYTES


def test_bytes_that_are_no_text_are_shown_somehow(pipe):
    os.write(pipe.write, b"\xff\xfe\n")
    pipe.output.read()
    assert pipe.lines == ["\ufffd\ufffd"]


def test_a_full_log_moves_aside_and_only_one_older_is_kept(place):
    log = LogFile(place / "x.log", bytes_max=100)
    for number in range(10):
        log.write(bytes([48 + number]) * 40)
    log.close()
    assert (place / "x.log").read_bytes() == b"8" * 40 + b"9" * 40
    assert (place / "x.log.1").read_bytes() == b"6" * 40 + b"7" * 40
    assert sorted(path.name for path in place.iterdir()) == ["x.log", "x.log.1"]


def test_a_log_goes_on_where_the_last_supervisor_left_it(place):
    (place / "x.log").write_bytes(b"before\n")
    log = LogFile(place / "x.log", bytes_max=10)
    log.write(b"after\n")
    log.close()
    assert (place / "x.log.1").read_bytes() == b"before\n"


def test_a_log_in_a_directory_that_is_gone_swallows_everything_and_comes_back(place):
    log = LogFile(place / "logs" / "x.log", bytes_max=100)
    log.write(b"lost")
    (place / "logs").mkdir()
    log.write(b"kept")
    log.close()
    assert (place / "logs" / "x.log").read_bytes() == b"kept"


def test_a_log_that_cannot_be_moved_aside_does_not_grow(place):
    (place / "x.log.1" / "in the way").mkdir(parents=True)
    log = LogFile(place / "x.log", bytes_max=100)
    for _ in range(10):
        log.write(b"x" * 40)
    log.close()
    assert (place / "x.log").stat().st_size <= 100
