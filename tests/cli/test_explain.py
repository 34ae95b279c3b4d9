"""`muleteer explain` with a real server: under load, asleep, failing, split."""

import http.client
import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest

import muleteer
from muleteer.cli.explain import render
from tests.cli.command import Folder
from tests.waiting import until

MODELS = """\
import os, time

class Sleeps:
    example = {"seconds": 0.01}
    def predict(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

class Fails:
    def __init__(self):
        if os.path.exists("fail"):
            raise ValueError("no weights")
    def predict(self): ...
"""
YAML = """\
backends:
  sized: {model: "explained.py:Sleeps", slo: {p99: 200ms}, replicas: {min: 1, max: 3}}
  fixed: {model: "explained.py:Sleeps", replicas: 2}
  asleep: {model: "explained.py:Sleeps", replicas: {min: 0, max: 2}}
  failing: {model: "explained.py:Fails"}
endpoints:
  split: {route: /split, traffic: {sized: 60, fixed: 40}}
  quiet: {route: /quiet, traffic: {asleep: 50, failing: 50}}
"""


@pytest.fixture(scope="module")
def server():
    folder = Folder()
    (folder.path / "explained.py").write_text(MODELS)
    (folder.path / "muleteer.yaml").write_text(YAML)
    done = folder.muleteer("serve", "-c", "muleteer.yaml", "-d", "--port", "0")
    assert done.returncode == 0, done.stderr
    yield folder
    folder.muleteer("stop", "--now")
    folder.close()


class Callers:
    """Threads that call one route, one request after the other, for as long as the block lasts."""

    def __init__(self, address, route, count):
        self.stop = threading.Event()
        self.statuses = []
        self.threads = [threading.Thread(target=self.call, args=(address, route)) for _ in range(count)]

    def call(self, address, route):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        while not self.stop.is_set():
            connection.request("POST", route, b'{"seconds": 0.01}', {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            self.statuses.append(answer.status)
        connection.close()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_a_day_of_explaining(server):
    quiet = server.muleteer("explain", "quiet")
    assert quiet.returncode == 0, quiet.stderr
    head, asleep, failing = quiet.stdout.rstrip("\n").split("\n\n")
    assert head == "endpoint quiet  /quiet  asleep 50%, failing 50%"
    assert asleep.startswith("backend asleep  asleep\n  replicas  none runs: it sleeps, and a call wakes it. ")
    assert failing.startswith("backend failing  ready\n  replicas  1 ready, as wanted: that number is declared. ")

    client = muleteer.connect(server.run_dir)
    with Callers(client.address, "/split", 3) as callers:
        until(lambda: measured(client, "sized") and measured(client, "fixed"), "both are measured")
        under_load = server.muleteer("explain", "split")
    assert set(callers.statuses) == {200}
    text = " ".join(under_load.stdout.split())  # lines are broken where the window ends
    sized, fixed = text.split(" backend fixed ")
    assert re.search(r"replicas \d ready, .*wanted\. .*\d at [\d.,]+ calls/s, ", sized)
    for part in (sized, fixed):
        assert re.search(
            r"measured [\d.,]+ calls/s; a call takes \d[\d.]*m?s \(mean\), \d[\d.]*m?s \(p99\), variation", part
        )
        assert re.search(r"queue \d+ may wait: of the deadline of 30s, ", part)
        assert re.search(r"one more .*with \d", part)
        assert re.search(r"memory a replica uses \d[\d.]*MiB \(PSS", part)
        assert re.search(r"start \d[\d.]*m?s from a demand to the first call", part)
    assert "where 200ms is aimed at (as declared)" in sized
    assert re.search(r"(More than needed|Just enough|Too few) for a timeout of 30s at [\d.,]+ calls/s", fixed)

    (server.path / "fail").touch()
    client.update_backend_config("failing", timeout="5s", load_timeout="9s", wait=False)
    (replica,) = next(row for row in client.status()["backends"] if row["name"] == "failing")["replicas"]
    os.kill(replica["pid"], signal.SIGKILL)
    trouble = "  trouble   Fails() raised ValueError: no weights\n"  # between two starts there is none to tell
    until(lambda: trouble in server.muleteer("explain", "failing").stdout, "the reason")


def measured(client, name):
    return client.explain(name)["numbers"]["memory_bytes"] and client.explain(name)["numbers"]["variation"]


def test_for_programs_and_by_wrong_names(server):
    def explained():
        return json.loads(server.muleteer("explain", "sized", "--json").stdout)

    # It has just been under load.
    until(lambda: (found := explained())["ready"] == found["wanted"], "as many as are wanted")
    found = explained()
    assert found["backend"] == "sized"
    assert found["wanted"] >= 1
    assert [each["topic"] for each in found["sentences"]][:3] == ["replicas", "limit", "measured"]
    wrong = server.muleteer("explain", "size")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == (
        "muleteer: there is no endpoint or backend 'size'; there are: asleep, failing, fixed, quiet, sized, split\n"
    )
    with pytest.raises(muleteer.MuleteerError, match="no backend 'size'"):
        muleteer.connect(server.run_dir).explain("size")


def test_without_a_server(folder):
    done = folder.muleteer("explain", "x")
    assert done.returncode == 5
    assert f"no muleteer runs in {Path(folder.run_dir)}" in done.stderr


def test_long_sentences_are_broken_and_strangers_text_is_harmless():
    answer = {
        "backend": "b", "state": "failed",
        "sentences": [{"topic": "trouble", "text": "it said \x1b[2Jand " + "more " * 20}],
    }  # fmt: skip
    assert render(answer, 50) == (
        "backend b  failed\n"
        "  trouble   it said \\x1b[2Jand more more more more\n"
        "            more more more more more more more\n"
        "            more more more more more more more\n"
        "            more more"
    )
