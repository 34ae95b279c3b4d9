"""A replica that a network can reach: nothing is answered, and little is held, before the secret was shown."""

import contextlib
import json
import select
import time
from pathlib import Path

import pytest

from muleteer.base.limits import HELLO_BYTES_MAX, HELLO_S_MAX, STRANGERS_MAX
from muleteer.replica.network import Strangers
from muleteer.wire.frames import FrameType
from tests.replica.processes import Link

SECRET = "5ec2e7" * 8
SOURCE = """
    import os
    class Model:
        def predict(self):
            return os.environ.get("MULETEER_SECRET")
"""


@pytest.fixture(params=[1, 2], ids=["plain", "several at once"])
def replica(start, request):
    return start(SOURCE, concurrency=request.param, env={"MULETEER_SECRET": SECRET})


@pytest.fixture
def dial():
    """`dial(replica)` → a link that has said nothing; all are closed with the test."""
    links = []

    def dial(replica):
        links.append(Link(replica.address))
        return links[-1]

    yield dial
    for link in links:
        link.close()


def hello(link, **more):
    link.send(FrameType.HELLO, payload=json.dumps({"protocol": 1, "gateway": "g", **more}).encode())


def test_who_shows_the_secret_is_served_and_the_model_does_not_see_it(replica, dial):
    link = dial(replica)
    hello(link, secret=SECRET)
    link.wait_for(lambda frame: frame.type is FrameType.READY)
    assert link.ask({}) == (None, None)
    assert SECRET not in Path(f"/proc/{replica.pid}/cmdline").read_text()


@pytest.mark.parametrize("shown", [{}, {"secret": ""}, {"secret": SECRET[:-1]}, {"secret": "é"}], ids=str)
def test_who_does_not_is_cut_off_without_an_answer(replica, dial, shown):
    link = dial(replica)
    hello(link, **shown)
    link.wait_for_end()
    assert link.frames == []
    replica.wait_stderr("does not know the secret")  # and not for want of time


def test_a_long_hello_is_not_read_to_its_end(replica, dial):
    link = dial(replica)
    frame = link.connection.send(FrameType.HELLO, payload=b"x" * (1 << 20))
    link.channel.sendall(frame[: HELLO_BYTES_MAX + 1])
    link.wait_for_end()
    assert link.frames == []
    replica.wait_stderr(f"{HELLO_BYTES_MAX + 1} bytes and no HELLO")


def test_silence_is_cut_off_and_only_so_many_may_be_silent(replica, dial):
    begun = time.monotonic()
    silent = [dial(replica) for _ in range(STRANGERS_MAX)]
    one_more, answered = dial(replica), False
    with contextlib.suppress(ConnectionError):  # closed by then, or with what we said unread
        hello(one_more, secret=SECRET)
        answered = one_more.read()
    assert not answered or time.monotonic() - begun > HELLO_S_MAX  # then the first of the silent have left
    for link in silent:
        link.wait_for_end()
    assert time.monotonic() - begun > HELLO_S_MAX - 0.5
    link = dial(replica)
    hello(link, secret=SECRET)
    assert link.wait_for(lambda frame: frame.type is FrameType.READY)
    assert len(list(Path(f"/proc/{replica.pid}/fd").iterdir())) < STRANGERS_MAX


def test_silence_is_cut_off_although_calls_keep_the_replica_awake(replica, dial):
    link = dial(replica)
    hello(link, secret=SECRET)
    assert link.wait_for(lambda frame: frame.type is FrameType.READY)
    silent = dial(replica)
    begun = time.monotonic()
    while not select.select([silent.channel], [], [], 0)[0]:  # a loop that is awake sees its timers early
        assert time.monotonic() - begun < HELLO_S_MAX + 15, "it would never be"
        assert link.ask({})[1] is None
    assert not silent.read()


def test_strangers_in_time():
    proven = set()
    strangers = Strangers(lambda link: link not in proven)
    assert strangers.pause_ms(0.0) is None
    assert strangers.let_in("a", 0.0)
    assert strangers.let_in("b", 1.0)
    assert strangers.pause_ms(1.0) == (HELLO_S_MAX - 1) * 1000
    proven.add("a")
    assert strangers.late(HELLO_S_MAX) == []
    assert strangers.late(HELLO_S_MAX + 1) == ["b"]
    assert strangers.late(HELLO_S_MAX + 2) == []
    assert strangers.pause_ms(0.0) is None
