"""Deadlines, back-pressure, the connection cap, draining, descriptors that run out: with short limits, real sockets."""

import gzip
import os
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.gateway.http.rig import HELD_MAX, NEVER_S, WAIT_S, Served, chunked, get, patient, post
from tests.waiting import until


def within(seconds):
    """A context that must take at least `seconds`, and not so long that it was another limit."""

    class Timed:
        def __enter__(self):
            self.began_s = time.monotonic()

        def __exit__(self, kind, *_):
            took = time.monotonic() - self.began_s
            assert kind is not None or seconds - 0.02 <= took < 0.7 * NEVER_S, took

    return Timed()


def drip(client, data, pause_s=0.01):
    """Send one byte at a time in the background until the server ends it."""

    def run():
        for i in range(len(data)):
            try:
                client.socket.sendall(data[i : i + 1])
            except OSError:
                return
            time.sleep(pause_s)  # the pace of the sender under test

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_slow_head_is_refused():
    head = get("/echo", "X: " + "y" * 1000)
    with (
        Served(bounds=patient(header_timeout_s=0.2)) as served,
        within(0.2),
        served.connect_and_send(head[:5]) as client,
    ):
        drip(client, head[5:])
        answer = client.read()
        assert (answer.status, answer.code, answer.headers["connection"]) == (408, "request_timeout", "close")
        assert client.read() is None


def test_a_silent_connection_is_closed_without_a_word():
    with Served(bounds=patient(header_timeout_s=0.2)) as served:
        with within(0.2), served.connect() as client:
            assert client.read() is None
        assert served.statistics.received == 0


def test_a_slow_second_head_is_refused_after_the_first_answer():
    requests = post("/late", b"1") + b"POST /ec"
    with Served(bounds=patient(header_timeout_s=0.2)) as served, served.connect_and_send(requests) as client:
        assert [client.read().status, client.read().status] == [200, 408]


@pytest.mark.parametrize("request_", [post("/large-body", b"x" * 5000), chunked(b"x" * 5000, path="/large-body")])
def test_a_slow_body_is_refused(request_):
    with Served(bounds=patient(body_timeout_base_s=0.2, body_bytes_per_s_min=10_000)) as served:
        with served.connect() as client:
            with within(0.2):
                drip(client, request_)
                answer = client.read()
            assert answer.code == "request_timeout"
        assert [(e.runs, e.abandons) for e in served.application.exchanges] == [(0, 1)]


def test_a_body_that_comes_fast_enough_may_take_longer_than_the_base():
    limits = patient(body_timeout_base_s=0.1, body_bytes_per_s_min=100)
    with Served(bounds=limits) as served, served.connect() as client:
        request = post("/large-body", b"x" * 2000)
        client.send(request[:1000])
        until(lambda: len(served.application.exchanges) == 1, "begun")
        time.sleep(0.3)  # past the base time, within what 900 bytes have earned
        client.send(request[1000:])
        assert client.read().status == 200


@pytest.mark.parametrize(
    "request_",
    [
        chunked(*[b"x" * 60_000] * 3, path="/scarce"),
        post("/scarce", gzip.compress(b"x" * 180_000), "Content-Encoding: gzip"),
    ],
)
def test_a_body_that_grows_beyond_what_it_announced_asks_for_room(request_):
    with Served() as served, served.connect() as client:
        client.send_pieces(request_[at : at + 20_000] for at in range(0, len(request_), 20_000))
        answer = client.read()
        assert (answer.status, answer.code) == (503, "memory")
        (exchange,) = served.application.exchanges
        assert (exchange.runs, exchange.abandons) == (0, 1)
        assert HELD_MAX < exchange.held <= 180_000


def test_a_body_that_announced_its_size_does_not_ask():
    with Served() as served, served.connect() as client:
        request = post("/scarce", b"x" * 2 * HELD_MAX)
        client.send(request[:1000])
        until(lambda: len(served.application.exchanges) == 1, "begun")
        assert client.send(request[1000:]).read().status == 200
        assert served.application.exchanges[0].held == 0


def test_idle_connections_are_closed():
    with Served(bounds=patient(keep_alive_s=0.2)) as served, served.connect() as client, within(0.2):
        client.send(post()).read()
        assert client.read() is None


def test_waiting_for_an_answer_is_not_idle():
    limits = patient(keep_alive_s=0.05, header_timeout_s=0.05)
    with Served(bounds=limits) as served, served.connect_and_send(post("/hold")) as client:
        exchange = served.held()[0]
        time.sleep(0.2)  # four times the limits
        served.answer(exchange)
        assert client.read().status == 200


def test_a_client_that_reads_nothing_is_cut_off():
    with Served(bounds=patient(write_stall_s=0.3)) as served, served.connect(receive_buffer=4096) as client:
        client.send(get("/big?20000000"))
        until(lambda: served.statistics.connections == 0, "cut off", 0.7 * NEVER_S)
        assert served.statistics.by_status == {200: 1}


def test_a_closing_connection_that_nobody_reads_is_cut_off():
    with Served(bounds=patient(write_stall_s=0.3)) as served, served.connect(receive_buffer=4096) as client:
        client.send(get("/big?20000000", "Connection: close"))
        until(lambda: served.statistics.connections == 0, "cut off", 0.7 * NEVER_S)


def test_a_slow_reader_is_served_as_long_as_it_reads():
    with Served(bounds=patient(write_stall_s=1.0)) as served, served.connect(receive_buffer=4096) as client:
        client.send(get("/big?3000000", "Connection: close"))
        began_s = time.monotonic()
        got = 0
        while data := client.socket.recv(2000):
            got += len(data)
            if time.monotonic() - began_s < 2.5:  # several times the stall time
                time.sleep(0.004)  # the pace of the reader under test
        assert time.monotonic() - began_s > 2.5
        assert got > 3_000_000


def test_a_client_that_only_sends_does_not_fill_memory():
    with Served(bounds=patient()) as served, served.connect(receive_buffer=4096) as client:
        stop = threading.Event()

        def flood():
            client.socket.settimeout(0.2)
            try:
                while not stop.is_set():
                    client.socket.sendall(get("/big?10000") * 100)
            except OSError:
                pass

        thread = threading.Thread(target=flood)
        thread.start()
        thread.join(NEVER_S)  # ends when the server stops reading
        stop.set()
        assert not thread.is_alive()
        connection = next(iter(served.server._connections))
        assert served.call(connection._transport.get_write_buffer_size) < 1_000_000


def test_a_lingering_close_is_bounded_in_time():
    with Served(bounds=patient(linger_s=0.2)) as served, served.connect() as client, within(0.2):
        assert client.send(b"BAD\r\n\r\n").read().status == 400
        assert client.read() is None  # our side is shut at once
        until(lambda: served.statistics.connections == 0, "closed")


def test_a_lingering_close_is_bounded_in_bytes():
    with Served(bounds=patient(linger_bytes_max=100_000)) as served, served.connect() as client:
        assert client.send(b"BAD\r\n\r\n").read().status == 400
        client.send_pieces([b"x" * 10_000] * 100)
        until(lambda: served.statistics.connections == 0, "closed")


def test_a_refused_body_that_does_not_come_ends_the_connection():
    with Served(bounds=patient(linger_s=0.2)) as served, served.connect() as client, within(0.2):
        assert client.send(post("/refuse", b"12345")[:-2]).read().status == 503
        assert client.read() is None


def test_many_slow_clients_do_not_slow_down_others():
    with Served(bounds=patient(header_timeout_s=3.0)) as served, served.connect() as client:

        def cost_s():
            """Processor time of 50 requests: what a machine that is busy with other things adds is not counted."""
            began_s = time.process_time()
            for _ in range(50):
                assert client.send(post()).read().status == 200
            return time.process_time() - began_s

        alone_s = min(cost_s() for _ in range(4))
        slow = [served.connect().send(get()[:-3]) for _ in range(200)]
        assert min(cost_s() for _ in range(4)) < 3 * alone_s
        for client in slow:
            assert client.read().status == 408
            client.socket.close()


# the cap


def test_connections_over_the_cap_are_refused_and_counted():
    with Served(connections_max=3) as served:
        clients = [served.connect() for _ in range(3)]
        assert [c.send(post()).read().status for c in clients] == [200] * 3
        with served.connect() as refused:
            answer = refused.read()
            assert (answer.status, answer.code, answer.headers["connection"]) == (503, "connections", "close")
            assert int(answer.headers["retry-after"]) >= 1
            assert refused.read() is None
        clients.pop().socket.close()
        until(lambda: served.statistics.connections == 2, "room")
        with served.connect() as welcome:
            assert welcome.send(post()).read().status == 200
        for client in clients:
            client.socket.close()
        assert served.statistics.by_code == {"connections": 1}


def test_far_over_the_cap_connections_are_dropped():
    with Served(connections_max=2) as served:
        clients = [served.connect() for _ in range(40)]
        until(lambda: served.statistics.connections_dropped >= 20, "dropped")
        until(lambda: served.statistics.connections <= 2 + 8 + 1, "they are gone")
        for client in clients:
            client.socket.close()
        until(lambda: served.statistics.connections == 0, "quiet")
        with served.connect() as client:
            assert client.send(post()).read().status == 200


def test_the_cap_is_half_of_the_descriptors_by_default():
    with Served(connections_max=None) as served:
        assert served.statistics.connections_max == resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def test_descriptors_run_out_and_come_back():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard = []
    with Served(bounds=patient()) as served:
        clients = [served.connect() for _ in range(2)]
        assert clients[0].send(post()).read().status == 200
        # sockets of these clients first: they live in the same process
        more = [socket.socket() for _ in range(3)]
        try:
            highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, before[1]))
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    hoard.append(os.open("/dev/null", os.O_RDONLY))
            for sock in more:
                sock.settimeout(WAIT_S)
                sock.connect(("127.0.0.1", served.port))
            dropped = 0
            for sock in more:  # libuv accepts and drops them
                try:
                    dropped += sock.recv(1) == b""
                except ConnectionResetError:
                    dropped += 1
            assert dropped == 3
            used_s = time.process_time()
            time.sleep(0.3)
            assert time.process_time() - used_s < 0.15, "the loop spins"
            assert clients[0].send(post()).read().status == 200
        finally:
            for descriptor in hoard:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for sock in more:
                sock.close()
        with served.connect() as client:
            assert client.send(post()).read().status == 200
        for client in clients:
            client.socket.close()


# draining


def test_drain_answers_what_has_begun_and_closes_the_rest():
    with Served(bounds=patient()) as served:
        idle, busy, half = served.connect(), served.connect(), served.connect()
        assert idle.send(post()).read().status == 200
        busy.send(post("/hold", b"1") + post("/hold", b"2"))
        half.send(get("/echo")[:-2])
        first, second = served.held(2)
        until(lambda: served.statistics.connections == 3, "three connections")
        draining = threading.Thread(target=served.call, args=(served.server.drain,))
        draining.start()
        assert idle.read() is None
        served.answer(first)
        assert "connection" not in busy.read().headers
        served.answer(second)
        assert busy.read().headers["connection"] == "close"
        assert busy.read() is None
        assert draining.is_alive()
        assert half.send(b"\r\n").read().headers["connection"] == "close"
        draining.join(WAIT_S)
        assert not draining.is_alive()
        assert served.statistics.connections == 0
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        for client in (idle, busy, half):
            client.socket.close()


def test_drain_of_an_idle_server_returns_at_once():
    with Served(bounds=patient()) as served:
        served.call(served.server.drain)


def test_closing_drops_everything():
    with Served(bounds=patient()) as served:
        client = served.connect()
        client.send(post("/hold"))
        served.held()
        served.call(served.server.close)
        assert client.closed_by_server()
        assert served.statistics.client_gone == 1
        client.socket.close()
