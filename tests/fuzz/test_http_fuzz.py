"""A byte fuzzer of the HTTP side: a corpus of good and bad requests, mutated, against a real server.

Held for every input: no status above 499 but 501 and 505, every byte that comes back is a well-formed answer, nothing
unhandled in the loop, the books balance, no connection stays open, and a good request is answered afterwards. Two more
properties are about reading, which is what smuggling lives on: the same bytes cut differently are the same requests, and
the bodies that reach the application are those that h11, another parser, finds.

`MULETEER_FUZZ_SECONDS` makes it long (`python -m tests.fuzz.long`), each time with another seed; `MULETEER_FUZZ_SEED`
repeats a run.
"""

import contextlib
import os
import random
import socket
import time

import h11
import pytest

from muleteer.gateway.exchange import Response
from tests.gateway.http.rig import Client, Ledgered, Served, chunked, get, patient, post
from tests.gateway.http.test_input import CASES
from tests.waiting import until

LONG_S = float(os.environ.get("MULETEER_FUZZ_SECONDS", "0"))
SECONDS = LONG_S or 4.0
SEED = int(os.environ.get("MULETEER_FUZZ_SEED", "0")) or (random.SystemRandom().randrange(1 << 32) if LONG_S else 1)
ROUND = 200
INPUT_BYTES_MAX = 4000
TOKENS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"%",
        b"%2e",
        b"/../",
        b"#",
        b"?",
        b"\xff",
    ),
    *(
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"FFFFFFFFFFFFFFFF\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ),
    *(b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n"),
    *(
        b"Content-Encoding: gzip\r\n",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"http://x/",
        b"X: " + b"y" * 300 + b"\r\n",
        b"+",
        b"-1",
    ),
]
CORPUS = [data for data, _, _ in CASES.values() if len(data) <= INPUT_BYTES_MAX and not data.startswith(b"HEAD")]
CORPUS += [post() + get() + post("/x", b"abc"), chunked(b"abc", b"\r\n\r\n") + post(), get("/a?b", "Connection: close")]


class Everything:
    """Takes every request; some answers come at once, some later, some before the body."""

    def __init__(self):
        self.exchanges = []

    def begin(self, head):
        exchange = Ledgered(self, head)
        exchange.body_max = 1 << 20
        self.exchanges.append(exchange)
        if head.query == b"early":
            exchange.answer(Response(200, b"early"))
        return exchange

    def act(self, exchange):
        if not exchange.answers:
            exchange.answer(Response(200, exchange.body))


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.choice(TOKENS)
            case 2:
                del data[at : at + rng.choice((1, 1, 2, 10))]
            case 3:
                data[at:at] = data[at : at + rng.randrange(40)]
            case 4:
                del data[at:]
            case 5:
                other = rng.choice(CORPUS)
                data[at:] = other[rng.randrange(len(other)) :]
            case 6:
                data += rng.choice(CORPUS)
    return bytes(data[:INPUT_BYTES_MAX])


def cut(rng, data):
    points = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 1, 2, 5))))
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True) if a < b]


def exchange(port, pieces):
    """Send, say that there is no more, and read every answer strictly, 100s left out."""
    with Client(port) as client:
        client.send_pieces(pieces)
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        answers = []
        try:
            while (answer := client.read()) is not None:
                if answer.status != 100:
                    answers.append(answer)
        except ConnectionResetError:
            pass  # the server has read as much of it as it wanted
        return answers


def bodies_by_h11(data):
    """The bodies of the requests that h11 finds, up to the first that it does not like. It has one habit that we do not
    share: it refuses an empty line before a request; None stands for what it would have found after that.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    connection.receive_data(b"")
    bodies, body = [], b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                bodies.append(body)
                body = b""
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return bodies
                connection.start_next_cycle()
            elif not isinstance(event, h11.Request):
                return bodies
    except h11.ProtocolError as error:
        return [*bodies, None] if "no request line" in str(error) else bodies


def agree(ours, theirs):
    if theirs and theirs[-1] is None:
        theirs = theirs[:-1]
        ours = ours[: len(theirs)]
    return ours == theirs[: len(ours)]


def check(served, rng, data):
    application = served.application
    application.exchanges.clear()
    whole = exchange(served.port, [data])
    ran = [e.body for e in application.exchanges if e.runs]
    for answer in whole:
        assert answer.status < 500 or answer.status in (501, 505), answer
        assert answer.status != 408, "nothing here is slow"
    if b"content-encoding" not in data.lower() and len(ran) == len(application.exchanges):
        theirs = bodies_by_h11(data.removeprefix(b"\r\n"))
        assert agree(ran, theirs), (ran, theirs)
    application.exchanges.clear()
    pieces = exchange(served.port, cut(rng, data))
    assert [e.body for e in application.exchanges if e.runs] == ran
    assert [a.status for a in pieces if a.status == 200] == [a.status for a in whole if a.status == 200]


@pytest.mark.timeout(SECONDS + 120)
def test_no_bytes_break_the_server():
    print(f"MULETEER_FUZZ_SEED={SEED}")
    end_s = time.monotonic() + SECONDS
    rounds = 0
    with Served(Everything(), bounds=patient(tick_s=0.05)) as served:
        while time.monotonic() < end_s:
            rng = random.Random(f"{SEED}/{rounds}")  # a round can be repeated alone
            for _ in range(ROUND):
                data = mutate(rng, rng.choice(CORPUS))
                try:
                    check(served, rng, data)
                except AssertionError as error:
                    raise AssertionError(f"seed {SEED}, round {rounds}, input {data!r}: {error}") from error
            rounds += 1
            assert [a.body for a in exchange(served.port, [post("/x", b"good")])] == [b"good"]
            until(lambda: served.statistics.connections == 0, "no connection stays open")
            served.quiet()
            assert served.unhandled == []
    assert rounds > 0
