"""The replica's end of a link, without sockets: every stream is fed whole and byte by byte."""

import json

import pytest

from muleteer.base.errors import WireError
from muleteer.replica.answer import Answer, Call
from muleteer.replica.session import Ready, Session
from muleteer.wire.connection import Connection, Role
from muleteer.wire.frames import Flag, FrameType, join_payload, split_payload

READY = Ready("lr:v1", "lr:v1-0", 42, 1, 730)
READY_BATCH = Ready("lr:v1", "lr:v1-0", 42, 1, 730, batch=True)


class Pair:
    """A session and the gateway that talks to it; `cut` says how the bytes of the gateway arrive."""

    def __init__(self, cut, ready=READY):
        self.cut = cut
        self.session = Session(ready, payload_max=10_000)
        self.gateway = Connection(Role.GATEWAY, payload_max=10_000)
        self.data = b""

    def send(self, kind, **fields):
        self.data += self.gateway.send(kind, **fields)

    def call(self, id, *, budget=1000, meta=b'{"id":"r"}', body=b"{}", more=False):
        flags = Flag.MORE if more else 0
        self.send(FrameType.CALL, id=id, budget=budget, flags=flags, payload=join_payload(meta, body))

    def deliver(self, now=0.0):
        """All that the gateway sent, in pieces; returns the ids to cancel."""
        data, self.data = self.data, b""
        step = self.cut or len(data)
        cancelled = []
        for start in range(0, len(data), step):
            cancelled += self.session.receive(data[start : start + step], now)
        return cancelled

    def frames(self):
        """What the session wrote since, as the gateway reads it."""
        return self.gateway.receive(self.session.take())

    def outcomes(self):
        """{id: "reply" or the code of an error}."""
        return {
            frame.id: "reply" if frame.type is FrameType.REPLY else json.loads(frame.payload)["code"]
            for frame in self.frames()
            if frame.id
        }


def reply(body=b"1"):
    return Answer(FrameType.REPLY, join_payload(b"", body), 7)


def ids(calls):
    return [call.id for call in calls]


def settle(session, id, answer):
    session.settle([Call(id, "r", b"", 0.0)], [answer])


@pytest.fixture(params=[0, 1, 5], ids=["whole", "bytes", "fives"])
def link(request):
    pair = Pair(request.param)
    pair.send(FrameType.HELLO, payload=b'{"protocol":1,"gateway":"gateway-0"}')
    pair.deliver()
    (ready,) = pair.frames()
    told = {"backend": "lr:v1", "replica": "lr:v1-0", "pid": 42, "concurrency": 1, "warm_up_us": 730, "batch": False}
    assert json.loads(ready.payload) == told
    return pair


def test_calls_are_answered_in_order(link):
    link.call(1, body=b"one", meta=b'{"id":"abc","later":"field"}')
    link.call(2, meta=b"")
    link.deliver()
    (first,) = link.session.next_batch(0.0)
    assert (first.id, first.request_id, first.body, first.expires_s) == (1, "abc", b"one", 1.0)
    assert ids(link.session.next_batch(0.0)) == [2]
    assert link.session.next_batch(0.0) == []
    settle(link.session, 1, reply(b"yes"))
    settle(link.session, 2, Answer(FrameType.ERROR, b'{"code":"model_error","error":"x"}', 9))
    first, second = link.frames()
    assert (first.id, first.budget, split_payload(first.payload)) == (1, 7, (b"", b"yes"))
    assert (second.type, second.id, second.budget) == (FrameType.ERROR, 2, 9)
    assert link.session.take() == b""


def test_expired_calls_are_refused_when_their_turn_comes(link):
    link.call(1, budget=10)
    link.call(2, budget=0)
    link.call(3, budget=5000)
    link.deliver(now=100.0)
    assert ids(link.session.next_batch(100.02)) == [3]
    assert link.outcomes() == {1: "expired_in_queue", 2: "expired_in_queue"}


def test_cancel(link):
    link.call(1)
    link.call(2)
    link.deliver()
    assert ids(link.session.next_batch(0.0)) == [1]
    for id in (1, 2, 99):
        link.send(FrameType.CANCEL, id=id)
    assert link.deliver() == [1]  # runs: the loop may cancel it
    assert link.outcomes() == {2: "cancelled"}
    assert link.session.next_batch(0.0) == []
    settle(link.session, 1, reply())
    settle(link.session, 1, reply())  # a second answer goes nowhere
    assert link.outcomes() == {1: "reply"}
    link.send(FrameType.CANCEL, id=1)
    assert link.deliver() == []


def test_call_and_cancel_in_one_read(link):
    link.call(1)
    link.send(FrameType.CANCEL, id=1)
    link.call(2)
    assert link.deliver() == []
    assert ids(link.session.next_batch(0.0)) == [2]
    assert link.outcomes() == {1: "cancelled"}


def test_drain_answers_what_it_has_and_refuses_the_rest(link):
    link.call(1)
    link.call(2)
    link.deliver()
    link.session.next_batch(0.0)
    link.session.drain()
    link.session.drain()
    link.call(3)  # crosses the DRAIN
    link.deliver()
    assert link.outcomes() == {3: "draining"}
    assert not link.session.finished
    settle(link.session, 1, reply())
    assert ids(link.session.next_batch(0.0)) == [2]
    settle(link.session, 2, reply())
    assert link.outcomes() == {1: "reply", 2: "reply"}
    assert not link.session.finished  # the gateway may still be sending
    link.send(FrameType.DRAIN)
    link.deliver()
    assert link.session.finished


def test_drain_of_the_gateway_finishes_when_idle(link):
    link.call(1)
    link.send(FrameType.DRAIN)
    link.deliver()
    assert not link.session.finished
    link.session.next_batch(0.0)
    settle(link.session, 1, reply())
    assert link.session.finished
    assert link.outcomes() == {1: "reply"}


def test_drain_before_the_greeting():
    session = Session(READY, payload_max=100)
    assert not session.finished
    session.drain()
    assert session.finished
    assert session.take() == b""


def test_close_forgets_everything(link):
    link.call(1)
    link.call(2)
    link.deliver()
    link.session.next_batch(0.0)
    link.session.close()
    settle(link.session, 1, reply())
    link.session.drain()
    assert link.session.next_batch(0.0) == []
    assert link.session.take() == b""
    assert link.session.finished


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b" " * 40,
        Connection(Role.GATEWAY, payload_max=9).send(FrameType.HELLO, payload=b'{"protocol":2}'),
        Connection(Role.GATEWAY, payload_max=9).send(FrameType.HELLO, payload=b"{"),
        Connection(Role.GATEWAY, payload_max=9).send(FrameType.HELLO, payload=b"x" * 10_001),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_broken_greeting(data, step):
    session = Session(READY, payload_max=10_000)
    with pytest.raises(WireError):
        for start in range(0, len(data), step):
            session.receive(data[start : start + step], 0.0)
    assert session.finished
    assert session.take() == b""


@pytest.mark.parametrize("payload", [b"", b"\xff\xff{}", join_payload(b"[]", b""), join_payload(b"{", b"")])
def test_broken_call_ends_the_link(link, payload):
    link.send(FrameType.CALL, id=1, budget=5, payload=payload)
    with pytest.raises(WireError):
        link.deliver()
    assert link.session.finished


def test_statistics(link):
    link.call(1)
    link.call(2)
    link.deliver()
    link.session.next_batch(0.0)
    statistics = link.session.statistics()
    assert (statistics.waiting, statistics.running, statistics.draining) == (1, 1, False)
    assert statistics.connection.open_calls == 2


@pytest.fixture(params=[0, 1, 5], ids=["whole", "bytes", "fives"])
def batched(request):
    pair = Pair(request.param, READY_BATCH)
    pair.send(FrameType.HELLO, payload=b'{"protocol":1,"gateway":"gateway-0"}')
    pair.deliver()
    (ready,) = pair.frames()
    assert json.loads(ready.payload)["batch"] is True
    return pair


def test_a_batch_starts_when_it_is_whole(batched):
    batched.call(1, more=True)
    batched.call(2, more=True)
    batched.deliver()
    assert not batched.session.has_work
    assert batched.session.next_batch(0.0) == []
    batched.call(3)
    batched.call(4)
    batched.deliver()
    assert batched.session.has_work
    calls = batched.session.next_batch(0.0)
    assert ids(calls) == [1, 2, 3]
    assert ids(batched.session.next_batch(0.0)) == [4]
    batched.session.settle(calls, [reply()] * 3)
    assert [frame.id for frame in batched.frames()] == [1, 2, 3]


def test_batches_without_members_are_skipped(batched):
    for id in (1, 2, 3):
        batched.call(id, more=id < 3, budget=10)
    for id in (4, 5):
        batched.call(id, more=id < 5)
    for id in (6, 7):
        batched.call(id, more=id < 7)
    for id in (5, 6, 7):
        batched.send(FrameType.CANCEL, id=id)
    batched.deliver()
    assert ids(batched.session.next_batch(0.5)) == [4]
    assert batched.session.next_batch(0.5) == []
    expired = dict.fromkeys((1, 2, 3), "expired_in_queue")
    assert batched.outcomes() == {**expired, **dict.fromkeys((5, 6, 7), "cancelled")}


def test_a_cancelled_last_member_does_not_join_two_batches(batched):
    batched.call(1, more=True)
    batched.call(2)
    batched.call(3, more=True)
    batched.call(4)
    batched.send(FrameType.CANCEL, id=2)
    batched.deliver()
    assert ids(batched.session.next_batch(0.0)) == [1]
    assert ids(batched.session.next_batch(0.0)) == [3, 4]


def test_a_batch_that_crosses_our_drain(batched):
    batched.call(1, more=True)
    batched.deliver()
    batched.session.drain()
    batched.call(2, more=True)
    batched.call(3)
    batched.deliver()
    assert batched.outcomes() == {2: "draining", 3: "draining"}
    assert ids(batched.session.next_batch(0.0)) == [1]


def test_models_without_batches_get_single_calls(link):
    link.call(1, more=True)
    link.call(2)
    link.deliver()
    assert ids(link.session.next_batch(0.0)) == [1]
    assert ids(link.session.next_batch(0.0)) == [2]
