"""One request and its answer: order, Expect, HEAD, versions, ids, refusals, faults, the client that leaves."""

import gc
import gzip
import re

import msgspec
import pytest

from muleteer.gateway.exchange import Head
from muleteer.gateway.http.body import BodyReader, Chunks
from muleteer.gateway.http.turn import Turn
from tests.gateway.http.rig import BODY_MAX, Routes, Served, chunked, get, post
from tests.waiting import until


def test_a_hundred_pipelined_requests_are_answered_in_order(served):
    with served.connect() as client:
        client.send(b"".join(post(["/echo", "/late", "/at-once"][n % 3], b"%d" % n) for n in range(100)))
        bodies = [client.read().body for _ in range(100)]
    assert bodies == [b'"at once"' if n % 3 == 2 else b"%d" % n for n in range(100)]


def test_answers_wait_for_those_before_them(served):
    with served.connect() as client:
        client.send(b"".join(post("/hold", b"%d" % n) for n in range(3)) + post("/echo", b"3"))
        held = list(served.held(3))
        for exchange in reversed(held):
            assert served.statistics.by_status == {}
            served.answer(exchange, exchange.body)
        assert [client.read().body for _ in range(4)] == [b"0", b"1", b"2", b"3"]


def test_sixteen_unanswered_requests_pause_reading(served):
    with served.connect() as client:
        client.send(b"".join(post("/hold", b"%d" % n) for n in range(40)))
        held = served.held(16)
        assert served.statistics.received == 16
        for n in range(40):
            served.held(n + 1)
            assert len(held) <= n + 16
            served.answer(held[n], held[n].body)
            assert client.read().body == b"%d" % n


def test_a_bad_request_waits_for_the_answers_before_it(served):
    with served.connect() as client:
        client.send(post("/hold", b"1") + b"BAD\r\n\r\n" + post("/echo", b"never"))
        served.answer(served.held()[0])
        assert [client.read().status, client.read().status] == [200, 400]
        assert client.read() is None
    assert served.statistics.received == 2


def test_pipelining_after_a_chunked_body(served):
    with served.connect() as client:
        client.send(chunked(b"a\r\n\r\n", b"b") + get("/inspect?x") + chunked(b"c") + post("/echo", b"d"))
        assert client.read().body == b"a\r\n\r\nb"
        assert msgspec.json.decode(client.read().body)["query"] == "x"
        assert [client.read().body, client.read().body] == [b"c", b"d"]


def test_expect_continue_is_answered_after_admission(served):
    with served.connect() as client:
        client.send(post("/echo", b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 5"))
        assert client.read().status == 100
        assert client.send(b"hello").read().body == b"hello"
        assert client.send(post()).read().status == 200


def test_expect_continue_waits_for_the_answers_before_it(served):
    with served.connect() as client:
        expecting = b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        client.send(post("/hold") + expecting)
        served.answer(served.held()[0], b"first")
        assert client.read().body == b"first"
        assert client.read().status == 100
        assert client.send(b"2").read().body == b"2"


@pytest.mark.parametrize(
    ("path", "length", "status"), [("/refuse", 5, 503), ("/echo", BODY_MAX + 1, 413), ("/x", 5, 404)]
)
def test_expect_continue_refused_reads_no_body(served, path, length, status):
    with served.connect() as client:
        client.send(
            f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert client.read() is None


def test_expect_with_the_body_at_hand_needs_no_100(served):
    with served.connect() as client:
        assert client.send(post("/echo", b"{}", "Expect: 100-continue")).read().status == 200


def test_expect_is_ignored_in_http_1_0(served):
    with served.connect() as client:
        client.send(post("/echo", b"{}", "Expect: 100-continue", version="1.0")[:-2])
        assert client.send(b"{}").read().status == 200


def test_head_is_get_without_the_body(served):
    with served.connect() as client:
        answer = client.send(get("/big?5", method="HEAD")).read(bodiless=True)
        assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", b"")
        assert client.send(get("/big?5")).read().body == b"xxxxx"
        answer = client.send(get("/nowhere", method="HEAD")).read(bodiless=True)
        assert answer.status == 404
        assert client.send(post()).read().status == 200


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "Keep-Alive, CLOSE", False),
        ("1.1", "upgrade", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "close, keep-alive", False),
    ],
)
def test_keep_alive(served, version, connection, kept):
    fields = [] if connection is None else [f"Connection: {connection}"]
    with served.connect() as client:
        answer = client.send(post("/late", b"{}", *fields, version=version)).read()
        said = answer.headers.get("connection")
        assert said == (("keep-alive" if version == "1.0" else None) if kept else "close")
        if kept:
            assert client.send(post()).read().status == 200
        else:
            assert client.read() is None


def test_nothing_is_read_after_connection_close(served):
    with served.connect() as client:
        client.send(post("/echo", b"{}", "Connection: close") + post())
        assert client.read().status == 200
        assert client.read() is None
    assert served.statistics.received == 1


def test_the_head_as_the_application_sees_it(served):
    with served.connect() as client:
        client.send(get("http://other:8/%69nspect?a=%20b?c", "X-A:  1 \t", "x-a: 2", "X-Request-ID: mine/1"))
        seen = msgspec.json.decode(client.read().body)
    assert seen == {
        "method": "GET",
        "path": "/inspect",
        "query": "a=%20b?c",
        "headers": {"host": "other:8", "x-a": "1, 2", "x-request-id": "mine/1"},
        "content_length": None,
        "request_id": "mine/1",
        "client": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a" * 128, True),
        ("a" * 129, False),
        ("a b", False),
        ('a"b', False),
        ("\xe9", False),
        ("", False),
        ("<x>", False),
    ],
)
def test_request_ids(served, sent, kept):
    with served.connect() as client:
        for path in ("/echo", "/nowhere"):
            got = client.send(post(path, b"{}", f"X-Request-ID: {sent}")).read().headers["x-request-id"]
            assert (got == sent) is kept
            assert re.fullmatch(r"[!-~]{1,128}", got)


def test_our_request_ids_differ(served):
    with served.connect() as client:
        ids = {client.send(post()).read().headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


def test_a_refusal_says_when_to_come_back_and_what_is_allowed(served):
    with served.connect() as client:
        answer = client.send(post("/refuse")).read()
        assert answer.headers["retry-after"] == "7"
        assert msgspec.json.decode(answer.body) == {
            "error": "the queue is full",
            "code": "queue_full",
            "execution": "not_started",
            "retryable": True,
            "request_id": answer.headers["x-request-id"],
        }
        assert client.send(post("/only-get")).read().headers["allow"] == "GET, HEAD"
    assert served.application.exchanges == []


def test_the_body_of_a_refused_request_is_swallowed_as_it_comes(served):
    with served.connect() as client:
        request = post("/refuse", b"x" * 100_000)
        assert client.send(request[:1000]).read().status == 503
        assert client.send(request[1000:] + post("/echo", b"next")).read().body == b"next"


def test_a_large_refused_body_is_not_read_but_the_answer_arrives(served):
    with served.connect() as client:
        body = b"x" * 3_000_000
        client.send_pieces(post("/refuse", body)[i : i + 50_000] for i in range(0, len(body), 50_000))
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (503, "close")


def test_an_answer_before_the_body_is_in_frees_the_exchange(served):
    with served.connect() as client:
        request = post("/early", b"12345")
        assert client.send(request[:-2]).read().body == b'"early"'
        assert client.send(request[-2:] + post()).read().status == 200
    assert served.application.exchanges[0].runs == 0


def test_faults_of_the_application_are_logged_on_one_line_and_answered(served, capfd):
    with served.connect() as client:
        answer = client.send(post("/fault-begin")).read()
        assert (answer.status, answer.code, answer.headers.get("retry-after")) == (500, "internal", None)
        assert b"ZeroDivision" not in answer.body
        assert client.send(post("/fault-run")).read().code == "internal"
    lines = [line for line in capfd.readouterr().err.splitlines() if "ZeroDivisionError" in line]
    assert len(lines) == 2
    assert "of\\nbegin" in lines[0]
    assert served.application.exchanges[0].abandons == 1


def test_nothing_of_the_client_can_forge_a_log_line(served, capfd):
    for request_id, status in (("a\x0b2026 forged", 400), ("2026 forged", 500)):
        with served.connect() as client:
            client.send(post("/fault-run", b"\n2026 forged\n", f"X-Request-ID: {request_id}"))
            assert client.read().status == status
    assert "forged" not in capfd.readouterr().err


# the client leaves


@pytest.mark.parametrize("how", ["fin", "half", "reset"])
def test_a_client_that_leaves_before_its_answer_is_gone(served, how):
    client = served.connect()
    client.send(post("/hold", b"1") + post("/hold", b"2") + post("/echo", b"3"))
    held = served.held(2)
    if how == "reset":
        client.reset()
    elif how == "fin":
        client.socket.close()
    else:
        client.socket.shutdown(1)
        assert client.read() is None
    until(lambda: served.statistics.client_gone == 3, "all three are gone")
    assert [e.abandons for e in held] == [1, 1]
    served.answer(held[0])  # too late: does nothing
    client.socket.close()
    statistics = served.statistics
    assert (statistics.received, statistics.by_status) == (3, {})


def test_a_client_that_leaves_in_the_middle_of_a_head_asked_nothing(served):
    with served.connect() as client:
        client.send(post()[:20])
    until(lambda: served.statistics.connections == 0, "closed")
    assert served.statistics.received == 0


@pytest.mark.parametrize("request_", [post("/echo", b"12345")[:-1], chunked(b"12345")[:-1], chunked(b"12345")[:-12]])
def test_a_truncated_body_is_not_dispatched(served, request_):
    with served.connect() as client:
        client.send(request_)
        until(lambda: served.application.exchanges, "begun")
    until(lambda: served.statistics.client_gone == 1, "gone")
    assert [(e.runs, e.abandons) for e in served.application.exchanges] == [(0, 1)]


def test_a_client_that_never_reads_does_not_lose_its_count(served):
    client = served.connect()
    client.send(post() * 3)
    until(lambda: served.statistics.received == 3, "read")
    client.reset()
    until(lambda: served.statistics.connections == 0, "closed")
    assert served.statistics.by_status == {200: 3}


def test_bodies_are_whole_whatever_their_size(served):
    body = bytes(range(256)) * 8000
    with served.connect() as client:
        assert client.send(post("/large-body", body)).read().body == body
        assert client.send(chunked(body[:70_000], body[70_000:], path="/large-body")).read().body == body
        packed = gzip.compress(body)
        assert client.send(post("/large-body", packed, "Content-Encoding: gzip")).read().body == body


def test_requests_leave_nothing_to_the_garbage_collector():
    """Cycles would hold bodies until a collection, and collections would stall the loop."""
    requests = [post(), get(), post("/refuse"), chunked(b"a"), post("/nowhere"), get("/at-once")]

    class Forgetful(Routes):
        def begin(self, head):
            self.exchanges = []
            return super().begin(head)

    with Served(Forgetful()) as served, served.connect() as client:
        client.send(b"".join(requests))
        assert [client.read().status for _ in requests] == [200, 200, 503, 200, 404, 200]

        def count():
            kinds = (Turn, Head, BodyReader, Chunks)
            return [sum(isinstance(each, kind) for each in gc.get_objects()) for kind in kinds]

        gc.collect()
        gc.disable()
        before = served.call(count)
        try:
            client.send(b"".join(requests) * 20)
            assert len([client.read() for _ in range(20 * len(requests))]) == 120
            assert served.call(count) == before
        finally:
            gc.enable()
