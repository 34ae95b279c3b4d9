"""The question to /readyz, asked of a real socket."""

import socket
import threading
import time

import pytest

from muleteer.cli.probe import Probe, is_serving

SLOW_S = 0.5


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

    def serve():
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                if answer is None:
                    continue  # hangs up
                assert connection.recv(4096).startswith(b"GET /readyz HTTP/1.1\r\n")
                time.sleep(SLOW_S)  # a slow answer must not hold up the caller
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    due, yes = [], []
    probe = Probe(socket.AF_INET, listener.getsockname(), lambda s, call: due.append(call), lambda: yes.append(1))
    probe.start()
    give_up = time.monotonic() + 20
    slowest = 0.0
    while not yes and time.monotonic() < give_up:
        began = time.monotonic()
        due.pop()()
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.005)
    thread.join()
    listener.close()
    probe.close()
    assert (yes, due) == ([1], [])
    assert slowest < SLOW_S


def test_nobody_listening_is_no_error():
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    listener.close()
    due = []
    probe = Probe(socket.AF_INET, address, lambda s, call: due.append(call), lambda: pytest.fail("yes?"))
    probe.start()
    for _ in range(5):
        due.pop()()
    assert len(due) == 1
    probe.close()
