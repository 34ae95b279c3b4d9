"""Replicas that are forked from a template, with the real command line and under load."""

import tempfile
from pathlib import Path

import pytest

from bench.server import Server, wait_until
from tests.faults.load import Background, ask

pytestmark = pytest.mark.timeout(400)
MODEL = """\
import numpy as np

class Model:
    example = {"nonce": 0}
    def __init__(self):
        self.weights = np.full(1000, VERSION)
    def predict(self, nonce: int):
        return int(self.weights[nonce % 1000])
"""


class Preloaded(Server):
    def write(self, version):
        (self.folder / "m.py").write_text(MODEL.replace("VERSION", str(version)))

    def backend(self):
        return self.status()["backends"][0]

    def templates(self):
        return [process.pid for process in self.tree() if process.command.startswith("muleteer: template")]


@pytest.fixture
def server():
    server = Preloaded(
        Path(tempfile.mkdtemp(prefix="mp-")), "m.py:Model", "--replicas", "2", "--share", "preload", "--reload"
    )
    server.write(1)
    server.start()
    wait_until(lambda: server.backend()["state"] == "ready", "both replicas", seconds=60)
    yield server
    server.close()


def test_a_rolling_update_with_kills_on_the_way_loses_nothing(server):
    (template,) = server.templates()
    assert len(server.pids("replica")) == 2
    load = Background(server.port, rate=100, seconds=2.0, deadline_s=10.0, patient=True)
    wait_until(load.answers, "an answer of the first version")
    server.write(2)
    wait_until(lambda: ask(server.port).body == b"2", "the new version answers", seconds=60)
    wait_until(
        lambda: server.backend()["state"] == "ready" and len(server.templates()) == 1,
        "only the new one is left",
        seconds=60,
    )
    (following,) = server.templates()
    assert following != template
    server.kill(following, server.pids("replica")[0])
    wait_until(
        lambda: server.backend()["state"] == "ready" and server.templates() not in ([], [following]),
        "all back",
        seconds=60,
    )
    assert ask(server.port).body == b"2"
    records = load.finish().records
    assert {record.status for record in records} == {200}
    assert {record.body for record in records} == {b"1", b"2"}
    assert server.stop().returncode == 0
    assert server.orphans() == []
