"""Traffic with the real command line, real processes and a muleteer.yaml: what a person declares is what happens."""

import http.client
import json
import math
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import uvloop

from bench.load import Load, Target
from bench.server import Server, wait_until

MODEL = """\
import os

class One:
    example = {"nonce": 0}
    version = 1
    def predict(self, nonce: int):
        return {"nonce": nonce, "version": self.version, "pid": os.getpid()}

class Two(One):
    version = 2
"""
FILE = """\
backends:
  one: {model: "model.py:One", replicas: 3}
  two: {model: "model.py:Two"}
endpoints:
  split: {route: /split, traffic: {one: 90, two: 10}, override: {header: muleteer-backend}}
  kept: {route: /kept, traffic: {one: 1}, affinity: {cookie: sid, replica: true}}
  shadowed: {route: /shadowed, traffic: {one: 1}, shadow: {backend: two, percent: 100}}
"""
PATIENCE_S = 40.0
"""Only ends a test that has failed."""


@pytest.fixture
def server():
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        (folder / "model.py").write_text(MODEL)
        (folder / "muleteer.yaml").write_text(FILE)
        with Server(folder, "-c", "muleteer.yaml") as server:
            wait_until(lambda: links(server) == 4, "every replica", seconds=PATIENCE_S)
            yield server


def links(server):
    return sum(backend["links_ready"] for backend in server.statistics()["backends"].values())


def ask(server, path, **headers):
    """Status, header fields and JSON of one POST on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, b'{"nonce": 1}', {"content-type": "application/json", **fields})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())
    finally:
        connection.close()


class Loading(threading.Thread):
    """300 requests a second to /split until told to stop. Those that a machine that stands still leaves without a free
    connection are not sent, and count for nothing.
    """

    def __init__(self, server):
        super().__init__()
        body = lambda nonce: b'{"nonce": %d}' % nonce  # noqa: E731
        self.load = Load(Target(server.port, "/split", body, connections_max=256))
        self.start()

    def run(self):
        uvloop.run(self.load.open_loop(300, 120))

    def answered(self):
        return [record for record in self.load.records if record.done and record.failure != "unsent"]

    def wait_more(self, count):
        """Until that many that are sent from now on are answered. Returns those that were answered."""
        began_s = time.monotonic()
        later = lambda: sum(record.sent > began_s for record in self.answered())  # noqa: E731
        wait_until(lambda: later() >= count, "load", seconds=PATIENCE_S)
        return self.answered()


def share_of_two(records):
    return Counter(record.header(b"muleteer-backend") for record in records)[b"two"] / len(records)


def within_noise(share, wanted, count):
    return abs(share - wanted) < 4.5 * math.sqrt(wanted * (1 - wanted) / count)


def test_weights_change_under_load_and_every_request_counts_for_its_version(server):
    loading = Loading(server)
    try:
        before = loading.wait_more(1000)
        done = server.command("traffic", "split", "one=50", "two=50")
        assert done.returncode == 0, done.stderr
        changed_s = time.monotonic()
        loading.wait_more(1000)
    finally:
        loading.load.stop()
        loading.join()
    records = loading.answered()
    after = [record for record in records if record.sent > changed_s]
    assert {record.status for record in records} == {200}
    for record in records:
        answer = json.loads(record.body)
        assert answer["nonce"] == record.nonce
        assert record.header(b"muleteer-backend") == {1: b"one", 2: b"two"}[answer["version"]]
    assert within_noise(share_of_two(before), 0.1, len(before))
    assert within_noise(share_of_two(after), 0.5, len(after))
    versions = server.statistics()["endpoints"]["split"]["versions"]
    by_version = Counter(record.header(b"muleteer-backend").decode() for record in records)
    assert {name: counted["outcomes"] for name, counted in versions.items()} == {
        name: {"ok": count} for name, count in by_version.items()
    }
    assert all(sum(versions[name]["latency"]["counts"].values()) == count for name, count in by_version.items())


def test_wishes(server):
    for _ in range(5):
        assert ask(server, "/split", muleteer_backend="two")[2]["version"] == 2
    status, _, error = ask(server, "/split", muleteer_backend="three")
    assert (status, error["code"]) == (400, "bad_request")
    assert ask(server, "/kept", muleteer_backend="two")[2]["version"] == 1, "not allowed there"


def test_sessions_keep_to_their_replica_and_say_when_it_died(server):
    sessions = []
    while len({pid for _, pid in sessions}) < 3 or len(sessions) < 20:
        status, headers, answer = ask(server, "/kept")
        assert (status, headers["muleteer-affinity"]) == (200, "new")
        sessions.append((headers["set-cookie"].partition(";")[0], answer["pid"]))
    for cookie, pid in sessions:
        _, headers, answer = ask(server, "/kept", cookie=cookie)
        assert (answer["pid"], headers["muleteer-affinity"]) == (pid, "kept")
        assert "set-cookie" not in headers
    victim = sessions[0][1]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in server.pids("replica"), "the end of a replica", seconds=PATIENCE_S)
    for cookie, pid in sessions:
        status, headers, answer = ask(server, "/kept", cookie=cookie)
        assert status == 200
        assert headers["muleteer-affinity"] == ("moved" if pid == victim else "kept")
        assert (answer["pid"] != pid) == (pid == victim)


def test_copies_are_compared_and_nobody_waits_for_a_shadow_that_is_stopped(server):
    for _ in range(20):
        assert ask(server, "/shadowed")[0] == 200
    counted = lambda: server.statistics()["endpoints"]["shadowed"]["shadows"]["two"]  # noqa: E731
    ends = ("equal", "different", "uncompared", "error", "dropped")
    wait_until(lambda: sum(counted()[end] for end in ends) == 20, "the end of every copy", seconds=PATIENCE_S)
    assert counted()["sent"] > 0 and counted()["equal"] == counted()["error"] == 0, "they tell their pid and version"
    (shadow,) = (replica["pid"] for replica in server.statistics()["backends"]["two"]["replicas"].values())
    os.kill(shadow, signal.SIGSTOP)
    try:
        dropped = counted()["dropped"]
        for _ in range(20):
            assert ask(server, "/shadowed")[0] == 200
        wait_until(lambda: counted()["dropped"] >= dropped + 19, "copies that are dropped", seconds=PATIENCE_S)
    finally:
        os.kill(shadow, signal.SIGCONT)
