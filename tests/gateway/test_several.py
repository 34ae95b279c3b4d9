"""Several gateways before the same replicas: what they share, and what the loss of one costs. The real command."""

import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from bench.gateways import TRIP_S, simulate
from bench.server import Server, wait_until
from muleteer.base.limits import CREDIT_SERVICE_S_MAX
from muleteer.gateway.begun import SENT_AHEAD, Begun
from muleteer.gateway.share import Share
from muleteer.replica.sharing import Sharing
from tests.replica.processes import Link, Replica

MODEL = """
import os, time
VERSION = "{version}"
class Model:
    def predict(self, seconds: float):
        time.sleep(seconds)
        return [VERSION, os.getpid()]
"""
YAML = """
server: {{gateways: 2}}
backends:
  one: {{model: "one.py:Model", replicas: 2, expected: 5ms}}
  two: {{model: "two.py:Model", replicas: 2, expected: 5ms}}
endpoints:
  main: {{route: /predict, traffic: {{{traffic}}}}}
"""
PATIENCE_S = 40.0
"""Only ends a test that has failed."""


class Caller:
    """One keep-alive connection, so always the same gateway; `gateway` is its word in each request id."""

    def __init__(self, port):
        self.channel = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.reader = self.channel.makefile("rb")
        self.gateway = self.ask(0.0)[1]

    def send(self, seconds):
        body = json.dumps({"seconds": seconds}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: l\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.channel.sendall(head.encode() + body)

    def receive(self):
        """Status, gateway and answer."""
        status = int(self.reader.readline().split()[1])
        headers = {}
        while (line := self.reader.readline()) != b"\r\n":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return (
            status,
            headers["x-request-id"].split("-")[0],
            json.loads(self.reader.read(int(headers["content-length"]))),
        )

    def ask(self, seconds):
        self.send(seconds)
        return self.receive()

    def close(self):
        self.reader.close()
        self.channel.close()


@contextmanager
def callers_of_both(port, each=1):
    """So many connections to each of two gateways."""
    with ExitStack() as stack:
        found: dict[str, list[Caller]] = {}
        for _ in range(200):
            caller = Caller(port)
            stack.callback(caller.close)
            found.setdefault(caller.gateway, []).append(caller)
            if len(found) == 2 and all(len(callers) >= each for callers in found.values()):
                yield [callers[:each] for callers in found.values()]
                return
        raise AssertionError(f"connections are not spread: { ({name: len(all) for name, all in found.items()}) }")


@pytest.fixture
def server(tmp_path):
    for version in ("one", "two"):
        (tmp_path / f"{version}.py").write_text(MODEL.format(version=version))
    (tmp_path / "muleteer.yaml").write_text(YAML.format(traffic="one: 1"))
    with Server(tmp_path, "-c", "muleteer.yaml") as server:
        yield server


def gateways(server):
    return {row["id"]: row["pid"] for row in server.status()["processes"] if row["id"].startswith("gateway")}


def test_no_call_stands_behind_one_of_the_other_gateway_while_a_replica_idles(server):
    """Each round two calls come at once, one to each gateway, to two replicas. If nobody told of the other's, one replica
    would run both in half of the rounds; now only where the word took longer than the call.
    """
    behind, begun = 0, time.monotonic()
    with callers_of_both(server.port) as ((one,), (other,)):
        for _ in range(16):
            for caller in (one, other):
                caller.send(0.3)
            pids = set()
            for caller in (one, other):
                status, _, answer = caller.receive()
                assert status == 200
                pids.add(answer[1])
            behind += len(pids) == 1
    assert behind <= 3, f"in {behind} of 16 rounds one ran both, {time.monotonic() - begun:.1f} s in all"


def told_by_both(server):
    """The status once both gateways had their say in it: one that stands still is left out."""
    names = {"gateway-0", "gateway-1"}
    found = []

    def told():
        found.append(server.status())
        return {name for name, each in found[-1]["gateways"].items() if each["answers"]} == names

    wait_until(told, "what both gateways say", seconds=PATIENCE_S)
    return found[-1]


def test_what_gateways_count_is_added_up(server):
    with callers_of_both(server.port, each=2) as both:
        for caller in [caller for callers in both for caller in callers]:
            assert caller.ask(0.01)[0] == 200
        status = told_by_both(server)
    (backend,) = [backend for backend in status["backends"] if backend["name"] == "one"]
    calls = backend["calls"]["answered"]
    assert 8 <= calls < status["http"]["by_status"]["200"] <= calls + 3  # probes of the start
    assert backend["service"]["samples"] == calls
    (endpoint,) = status["endpoints"]
    assert endpoint["versions"]["one"]["outcomes"] == {"ok": calls}


def test_the_others_serve_on_while_one_is_killed(server):
    failures, asked_s, ends = [], [0.0], threading.Event()

    def keep_asking(caller):
        while not ends.is_set():
            begun = time.monotonic()
            if caller.ask(0.002)[0] != 200:
                failures.append(caller.gateway)
            asked_s.append(time.monotonic() - begun)

    with callers_of_both(server.port, each=2) as both:
        victim = gateways(server)["gateway-1"]
        dead = None
        threads = []
        try:
            os.kill(victim, signal.SIGKILL)
            for callers in both:
                try:
                    callers[0].ask(0.0)
                except (OSError, IndexError):
                    dead = callers
            living = [callers for callers in both if callers is not dead]
            assert dead is not None and len(living) == 1
            threads = [threading.Thread(target=keep_asking, args=[caller]) for caller in living[0]]
            for thread in threads:
                thread.start()
            waited = []
            for _ in range(20):  # of these, half come to the line of the dead one
                begun = time.monotonic()
                caller = Caller(server.port)
                waited.append(time.monotonic() - begun)
                caller.close()
            wait_until(
                lambda: gateways(server)["gateway-1"] not in (None, victim), "another gateway-1", seconds=PATIENCE_S
            )
            wait_until(lambda: server.status()["settled"], "settled", seconds=PATIENCE_S)
        finally:
            ends.set()
            for thread in threads:
                thread.join(PATIENCE_S)
    assert not failures
    assert max(waited) < 2.0 + max(asked_s), f"{waited}; a machine that stands still holds up the others, too"


def test_an_update_loses_nothing_and_both_follow_it(server):
    outcomes, ends = [], threading.Event()

    def keep_asking(caller):
        while not ends.is_set():
            sent_s = time.monotonic()
            status, _, answer = caller.ask(0.004)
            outcomes.append((sent_s, status, answer))

    settled = []
    with callers_of_both(server.port, each=2) as both:
        threads = [threading.Thread(target=keep_asking, args=[caller]) for callers in both for caller in callers]
        for thread in threads:
            thread.start()
        try:
            for traffic in ("two: 1", "one: 1", "one: 3, two: 1"):
                (server.folder / "muleteer.yaml").write_text(YAML.format(traffic=traffic))
                done = server.command("apply", "muleteer.yaml")
                assert done.returncode == 0 and "settled" in done.stdout, done.stdout + done.stderr
                begun = time.monotonic()
                after = lambda: sum(sent_s > begun for sent_s, _, _ in outcomes)  # noqa: B023, E731
                wait_until(lambda: after() > 100, "requests after it", seconds=PATIENCE_S)  # noqa: B023
                settled.append((begun, time.monotonic()))
        finally:
            ends.set()
            for thread in threads:
                thread.join(PATIENCE_S)
    assert {status for _, status, _ in outcomes} == {200}
    served = [{answer[0] for sent_s, _, answer in outcomes if begun < sent_s < end} for begun, end in settled]
    assert served == [{"two"}, {"one"}, {"one", "two"}]


# in virtual time


@pytest.mark.parametrize("gateways", [2, 3])
def test_together_they_are_as_quick_as_one(gateways):
    """Real dispatchers, links and sessions: at 80 % load, no call stands behind one while a replica idles for longer
    than a few trips of 0.1 ms; replicas that tell nothing show what it would be.
    """
    how = {"replicas": 8, "service_s": 0.005, "load": 0.8, "calls": 4000, "seed": 3}
    one, several = simulate(gateways=1, **how), simulate(gateways=gateways, **how)
    blind = simulate(gateways=gateways, told=False, **how)
    assert several.lost_s < 15 * TRIP_S < 0.01 < blind.lost_s
    assert sum(several.answers_s) < 1.1 * sum(one.answers_s) < sum(blind.answers_s)


# a replica tells


def counts(link):
    """The last that this gateway was told of others."""
    frame = link.wait_for(lambda frame: frame.type.name == "STATS")
    return json.loads(frame.payload)


def test_a_replica_tells_before_it_begins_and_when_it_idles(tmp_path):
    (tmp_path / "model.py").write_text(MODEL.format(version="one"))
    replica = Replica(tmp_path, "model.py:Model")
    try:
        replica.wait_ready()
        one, other = Link(replica.address), Link(replica.address)
        one.greet(), other.greet()
        id = one.call({"seconds": 0.3})
        assert counts(other) == {"others": 1}
        assert not any(frame.id == id for frame in one.frames)  # told while it runs, not after
        behind = other.call({"seconds": 0.01})
        assert one.outcome(id)[0][0] == "one"
        assert counts(one) == {"others": 1}
        assert counts(other) == {"others": 0}
        assert other.outcome(behind)[0][0] == "one"
        assert counts(one) == {"others": 0}
        one.call({"seconds": 0.05})
        assert counts(other) == {"others": 1}
        one.close()  # its call goes on without it
        assert counts(other) == {"others": 0}
        other.close()
    finally:
        replica.close()


def test_calls_that_are_over_at_once_are_not_told_of(tmp_path):
    (tmp_path / "model.py").write_text(MODEL.format(version="one"))
    replica = Replica(tmp_path, "model.py:Model")
    means_s = [0.0]

    def ask(link):
        """What the replica takes for the length of its calls is at most the last of `means_s`."""
        begun = time.monotonic()
        assert link.ask({"seconds": 0})[1] is None
        means_s.append(means_s[-1] + (time.monotonic() - begun - means_s[-1]) / min(len(means_s), 16))

    try:
        replica.wait_ready()
        one, other = Link(replica.address), Link(replica.address)
        one.greet(), other.greet()
        for _ in range(50):  # until they are known
            ask(one)
        for _ in range(40):  # of these rounds, one in which the machine holds up no call
            ask(other)
            other.frames.clear()
            known = len(means_s) - 1
            for _ in range(50):
                ask(one)
            ask(other)
            if max(means_s[known:]) < CREDIT_SERVICE_S_MAX:
                assert not other.frames
                break
        one.close()
        other.close()
    finally:
        replica.close()


# pure


class Told:
    """A session that keeps the last that was said to it."""

    others = 0

    def tell(self, others):
        news, self.others = others != self.others, others
        return news


def test_what_is_told_of_calls_as_they_get_shorter_and_longer():
    sharing, one, other = Sharing(), Told(), Told()
    for _ in range(15):
        sharing.took(CREDIT_SERVICE_S_MAX / 10)
    assert sharing.tell([one, other], [1, 0]) == [other], "too few are known"
    assert (one.others, other.others) == (0, 1)
    sharing.took(CREDIT_SERVICE_S_MAX / 10)
    assert sharing.tell([one, other], [1, 0]) == [other], "nothing is told any more, and that is news"
    assert (one.others, other.others) == (0, 0)
    assert sharing.tell([one, other], [1, 0], gone=1) == []
    sharing.took(20 * CREDIT_SERVICE_S_MAX)
    assert sharing.tell([one, other], [1, 0], gone=1) == [one, other]
    assert (one.others, other.others) == (1, 2)
    assert Sharing(CREDIT_SERVICE_S_MAX / 10).tell([one], [0]) == [one], (
        "the warm-up counts for all that were to be known"
    )


def test_what_a_replica_can_have_begun():
    seen: dict[str, float] = {}
    begun = Begun(1, seen.__setitem__)
    begun.add("a", 1.0)
    begun.add("b", 2.0)
    assert seen == {"a": 1.0, "b": SENT_AHEAD} and begun.ahead == ["b"]
    begun.resize(0, 3.0)  # another gateway's call runs there
    assert seen == {"a": SENT_AHEAD, "b": SENT_AHEAD} and begun.ahead == ["b", "a"]
    begun.resize(1, 4.0)
    assert seen["a"] == 4.0 and begun.ahead == ["b"]
    begun.ended("a", 5.0)
    assert seen["b"] == 5.0 and begun.ahead == []
    begun.add("c", 6.0)
    begun.ended("c", 7.0)  # refused unrun
    begun.resize(2, 8.0)
    begun.add("d", 9.0)
    assert seen["d"] == 9.0


def test_the_part_of_one_gateway():
    share = Share()
    assert share.slots(4, 1, 0.0) == 4
    assert share.slots(4, 2, 0.0) == 4  # the others do nothing
    share.moved(4, 0.0)
    assert share.slots(4, 2, 100.0) == 2  # an equal part is always ours
    share.moved(-3, 100.0)
    assert share.slots(4, 2, 100.0) == 2 and 2.9 < share.slots(4, 2, 102.0) < 3
