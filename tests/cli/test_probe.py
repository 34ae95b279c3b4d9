"""The question to /readyz, asked of a real socket."""

import socket
import threading
import time
from contextlib import suppress
from itertools import chain, repeat

import pytest

from muleteer.cli.probe import Probe, is_serving


@pytest.mark.parametrize(
    ("answer", "serving"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", True),
        (b'HTTP/1.1 503 X\r\n\r\n{"reasons": {"m": "crash_loop"}}', True),
        (b'HTTP/1.1 503 X\r\n\r\n{"reasons": {"m": "crash_loop", "n": "loading"}}', False),
        (b'HTTP/1.1 503 X\r\n\r\n{"reasons": {}}', False),
        (b"HTTP/1.1 503 X\r\n\r\nno json", False),
        (b"HTTP/1.1 503 X\r\n\r\n[]", False),
        (b"", False),
    ],
)
def test_what_counts_as_serving(answer, serving):
    assert is_serving(answer) is serving


def test_it_asks_until_the_answer_is_yes_and_never_blocks():
    answers = [b"HTTP/1.1 503 X\r\n\r\n", None, b"", b"HTTP/1.1 200 OK\r\n\r\n{}"]
    listener = socket.create_server(("127.0.0.1", 0))
    looks, held_up = 0, []

    def serve():
        for answer in chain(answers, repeat(answers[-1])):
            try:
                connection, _ = listener.accept()
            except OSError:  # over
                return
            with connection, suppress(ConnectionError):  # who is answered after a second has asked again
                if answer is None:
                    continue  # hangs up
                assert connection.recv(4096).startswith(b"GET /readyz HTTP/1.1\r\n")
                before, give_up = looks, time.monotonic() + 20
                while looks < before + 3 and not held_up:  # a slow answer must not hold up the caller
                    if time.monotonic() > give_up:
                        held_up.append(answer)
                    time.sleep(0.001)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    due, yes = [], []
    probe = Probe(socket.AF_INET, listener.getsockname(), lambda s, call: due.append(call), lambda: yes.append(1))
    probe.start()
    give_up = time.monotonic() + 40
    while not yes and time.monotonic() < give_up:
        due.pop()()
        looks += 1
        time.sleep(0.01)  # as in the supervisor; the probe gives up a connection after so many looks
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
    probe.close()
    assert (yes, due, held_up) == ([1], [], [])


def test_nobody_listening_is_no_error():
    with socket.socket() as taken:  # by nobody who listens, and for nobody else meanwhile
        taken.bind(("127.0.0.1", 0))
        due = []
        probe = Probe(
            socket.AF_INET, taken.getsockname(), lambda s, call: due.append(call), lambda: pytest.fail("yes?")
        )
        probe.start()
        for _ in range(5):
            due.pop()()
        assert len(due) == 1
        probe.close()
