"""Models that do not all fit, by the real command: who starts, who gives way, who is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from bench.server import Server, wait_until
from muleteer.base.limits import SIZING_TICK_S

MODEL = """
import os, time
class Model:
    def __init__(self):
        self.held = [b"x" * 40_000_000]
    def predict(self, until: str = "", grow: int = 0):
        self.held.append(b"x" * grow)
        while until and not os.path.exists(until):
            time.sleep(0.05)
        return "ok"
"""
DECLARED = """
server: {memory_budget: 510MiB}
backends:
  a: {model: "model.py:Model", replicas: {min: 0, max: 1}, memory: 200MiB, idle: 1h}
  b: {model: "model.py:Model", replicas: {min: 0, max: 1}, memory: 200MiB, idle: 1h}
  c: {model: "model.py:Model", replicas: {min: 0, max: 1}, memory: 430MiB, idle: 1h}
endpoints:
  a: {route: /a, traffic: {a: 1}}
  b: {route: /b, traffic: {b: 1}}
  c: {route: /c, traffic: {c: 1}}
"""


RECENT_S = 4 * SIZING_TICK_S
LOADS = """
import time
class Model:
    def __init__(self):
        self.held = []
        for _ in range(20):
            self.held.append(b"x" * 20_000_000)
            time.sleep(0.1)
        time.sleep(3600)  # it is ended before, however late
    def predict(self):
        return "ok"
"""
GROWING = """
server: {memory_budget: 260MiB}
backends:
  leaks: {model: "model.py:Model", memory: 70MiB}
  idle: {model: "model.py:Model", replicas: {min: 0, max: 1}, memory: 70MiB, idle: 1h}
endpoints:
  leaks: {route: /leaks, traffic: {leaks: 1}}
  idle: {route: /idle, traffic: {idle: 1}}
"""


def ask(server: Server, route: str, body: object) -> tuple[int, dict | str, str | None]:
    """Status, answer, Retry-After."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{route}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.status, json.load(answer), None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers["retry-after"]


def running(server: Server) -> dict[str, list[dict]]:
    """BACKEND → its replicas that stay."""
    return {
        backend["name"]: [each for each in backend["replicas"] if each["state"] not in ("stopping", "gone")]
        for backend in server.status()["backends"]
    }


def measured_bytes(server: Server, backend: str) -> int:
    """0 before the first look at it."""
    (replica,) = running(server)[backend]
    return replica["measured_bytes"] or 0


def measured(server: Server, backend: str) -> bool:
    (replica,) = running(server)[backend]
    return replica["memory_bytes"] == replica["measured_bytes"]


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="mule-"))
    (path / "model.py").write_text(MODEL)
    (path / "room.yaml").write_text(DECLARED)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_calls_make_room_and_what_cannot_fit_is_refused(folder) -> None:
    with Server(folder, "-c", "room.yaml") as server:
        assert ask(server, "/a", {})[:2] == (200, "ok")
        assert ask(server, "/b", {})[:2] == (200, "ok")
        wait_until(lambda: 40e6 < measured_bytes(server, "a") < 100e6, "a is measured as it serves")
        wait_until(lambda: 40e6 < measured_bytes(server, "b") < 100e6, "b is measured as it serves")
        told = server.status()
        assert told["budget"]["memory_bytes"] == 510 * 2**20
        replicas = sum(row["memory_bytes"] for rows in running(server).values() for row in rows)
        assert replicas + 20_000_000 < told["used"]["memory_bytes"] < 510 * 2**20, "our own processes count, too"
        wait_until(lambda: measured(server, "a"), "what a holds counts, not what was set aside")
        with ThreadPoolExecutor(1) as others:
            working = others.submit(ask, server, "/a", {"until": str(folder / "enough")})
            wait_until(lambda: running(server)["a"][0]["in_flight"] == 1, "a works")
            wait_until(lambda: ask(server, "/c", {})[0] == 503, "c is refused", seconds=20)
            refused, error, retry_after = ask(server, "/c", {})
            assert (refused, error["code"]) == (503, "memory"), error
            assert int(retry_after) >= 1
            (folder / "enough").touch()
            assert working.result()[:2] == (200, "ok"), "who works is left to work"
        wait_until(lambda: ask(server, "/c", {})[0] == 200, "c has room once a is idle", seconds=30)
        assert running(server)["a"] == [], "one that holds 50 MB beside 430 MiB is too much"
        assert server.status()["problems"] == {}
        wait_until(lambda: ask(server, "/a", {})[0] == 200, "and a comes back when it is called", seconds=30)


def test_one_that_fits_nowhere_is_not_started_again_and_again(folder) -> None:
    (folder / "loads.py").write_text(LOADS)
    with Server(
        folder, "loads.py:Model", "--replicas", "0:1", "--memory", "20MiB", "--memory-budget", "250MiB"
    ) as server:
        refused, error, _ = ask(server, "/predict", {})
        assert (refused, error["code"]) == (503, "memory"), error
        assert ask(server, "/predict", {})[0] == 503
        log = server.run_dir / "logs" / "controller.log"
        wait_until(lambda: "replacing Model-" in log.read_text(), "it is logged")
        assert log.read_text().count("replacing Model-") == 1, "what it took the first time is known"


NEVER = """
server: {memory_budget: 300MiB}
backends:
  small: {model: "model.py:Model", memory: 60MiB}
  large: {model: "model.py:Model", memory: SIZE}
endpoints:
  small: {route: /small, traffic: {small: 1}}
  large: {route: /large, traffic: {large: 1}}
"""


def test_one_that_is_applied_and_never_fits_is_failed_until_it_needs_less(folder) -> None:
    (folder / "never.yaml").write_text(NEVER.replace("SIZE", "290MiB"))

    def large() -> tuple[str, str | None]:
        (found,) = (each for each in server.status()["backends"] if each["name"] == "large")
        return found["state"], found["reason"]

    with Server(
        folder, "model.py:Model", "--name", "small", "--memory", "60MiB", "--memory-budget", "300MiB"
    ) as server:
        applied = server.command("apply", "never.yaml")
        assert applied.returncode == 6
        assert "large does not start: a replica takes 290MiB, and all that replicas may hold is " in applied.stderr
        assert large()[0] == "failed"
        assert str(large()[1]).startswith("a replica takes 290MiB, and all that replicas may hold is ")
        assert ask(server, "/small", {})[:2] == (200, "ok")
        wait_until(lambda: ask(server, "/large", {})[0] != 404, "the gateway knows the route")
        refused, error, _ = ask(server, "/large", {})
        assert (refused, error["code"]) == (503, "memory"), error
        (folder / "never.yaml").write_text(NEVER.replace("SIZE", "61MiB"))
        applied = server.command("apply", "never.yaml")
        assert applied.returncode == 0, applied.stderr
        assert large() == ("ready", None)
        assert ask(server, "/large", {})[:2] == (200, "ok")


def test_what_is_told_of_one_that_sleeps_and_of_one_that_is_scaled_to_nothing(folder) -> None:
    def explained(topic: str) -> str:
        (told,) = json.loads(server.command("explain", "Model", "--json").stdout)["backends"]
        return "; ".join(each["text"] for each in told["sentences"] if each["topic"] == topic)

    with Server(folder, "model.py:Model", "--replicas", "0:2", "--idle", "1s", "--slo", "p99=100ms") as server:
        assert ask(server, "/predict", {})[:2] == (200, "ok")
        wait_until(lambda: running(server)["Model"] == [], "it sleeps", seconds=20)
        assert "(PSS" in explained("memory"), "what it held is remembered"
        assert server.command("scale", "Model", "0").returncode == 0
        refused, error, retry_after = ask(server, "/predict", {})
        assert (refused, error["code"], error["error"]) == (503, "loading", "0 replicas of Model are declared"), error
        assert int(retry_after) > 1
        assert explained("replicas") == "none runs: none is declared"
        assert explained("one more") == explained("limit") == ""


def test_one_that_outgrows_the_budget_is_replaced_after_the_idle_ones_are_gone(folder) -> None:
    (folder / "growing.yaml").write_text(GROWING)
    with Server(folder, "-c", "growing.yaml") as server:
        assert ask(server, "/idle", {})[:2] == (200, "ok")
        time.sleep(RECENT_S)  # what was called just now counts as at work
        (before,) = running(server)["leaks"]
        assert ask(server, "/leaks", {"grow": 220_000_000})[:2] == (200, "ok")
        wait_until(
            lambda: [each["state"] for each in running(server)["leaks"] if each["id"] != before["id"]] == ["ready"],
            "another has taken its place",
            seconds=30,
        )
        assert running(server)["idle"] == []
        log = server.run_dir / "logs" / "controller.log"
        wait_until(lambda: "giving up idle-1" in log.read_text(), "it is told who gave way")
        wait_until(lambda: f"replacing {before['id']}" in log.read_text(), "it is told who was replaced")
        wait_until(lambda: server.status()["problems"] == {}, "all is well")
        assert ask(server, "/idle", {})[:2] == (200, "ok"), "there is room again"


CROWDED = """
server: {memory_budget: 300MiB}
backends:
  first: {model: "big.py:Model", memory: 130MiB}
  large: {model: "model.py:Model", memory: LARGE}
endpoints:
  first: {route: /first, traffic: {first: 1}}
  large: {route: /large, traffic: {large: 1}}
"""
ALONE = """
backends:
  large: {model: "model.py:Model", memory: 181MiB}
endpoints:
  large: {route: /large, traffic: {large: 1}}
"""


def row(server: Server, backend: str) -> dict:
    (found,) = (each for each in server.status()["backends"] if each["name"] == backend)
    return found


def served(folder: Path, *arguments: str) -> tuple[Server, subprocess.CompletedProcess[str]]:
    """`serve -d`, whatever its exit status."""
    server = Server(folder, *arguments)
    try:
        started = server.command(*server.serve_arguments(), "--detach")
        server.find()
    except BaseException:
        server.close()
        raise
    return server, started


def test_of_two_that_fit_alone_and_not_together_the_second_is_told_and_starts_once_there_is_room(folder) -> None:
    (folder / "big.py").write_text(MODEL.replace("40_000_000", "110_000_000"))
    (folder / "crowded.yaml").write_text(CROWDED.replace("LARGE", "180MiB"))
    (folder / "more.yaml").write_text(CROWDED.replace("LARGE", "181MiB"))
    (folder / "alone.yaml").write_text(ALONE)
    server, started = served(folder, "-c", "crowded.yaml")
    with closing(server):
        assert started.returncode == 6, started
        assert "large is not served: no room: a replica takes 180MiB, and of the " in started.stderr
        assert " for all replicas first holds " in started.stderr
        assert "; raise that, or give one of them fewer replicas, less memory, or replicas: {min: 0}" in started.stderr
        assert "the others are served all the same" in started.stderr
        assert started.stdout.count("large: no room: ") == 1
        assert "/large is not served: there is no room for its model" in started.stdout
        assert ask(server, "/first", {})[:2] == (200, "ok")
        refused, error, retry_after = ask(server, "/large", {})
        assert (refused, error["code"]) == (503, "memory"), error
        assert int(retry_after or 0) >= 1
        assert row(server, "large")["state"] == "failed"
        assert row(server, "large")["reason"].startswith("no room: a replica takes 180MiB")
        server.kill(*server.pids("controller"))
        wait_until(lambda: server.command("status").returncode == 0, "another controller answers")
        wait_until(lambda: row(server, "large")["state"] == "failed", "it says the same")
        assert "large-1" not in (server.run_dir / "logs" / "supervisor.log").read_text(), "what it adopts holds memory"
        applied = server.command("apply", "more.yaml")
        assert applied.returncode == 6
        assert "large does not start: no room: a replica takes 181MiB, and of the " in applied.stderr
        assert ask(server, "/first", {})[:2] == (200, "ok")
        assert server.command("apply", "alone.yaml").returncode == 0
        wait_until(lambda: ask(server, "/large", {})[:2] == (200, "ok"), "it starts by itself", seconds=20)
        wait_until(lambda: row(server, "large")["state"] == "ready", "the controller hears of it, too")
        assert row(server, "large")["reason"] is None


def test_as_many_of_four_replicas_as_have_room_serve_and_the_rest_is_told(folder) -> None:
    arguments = ("--replicas", "4", "--memory", "130MiB", "--memory-budget", "300MiB")
    server, started = served(folder, "model.py:Model", *arguments)
    with closing(server):
        assert started.returncode == 0, started.stderr
        assert "Model: room for 3 of 4 replicas: another takes 130MiB, and of the " in started.stdout
        assert ask(server, "/predict", {})[:2] == (200, "ok")
        assert row(server, "Model")["state"] == "degraded"
        scaled = server.command("scale", "Model", "9")
        assert scaled.returncode == 0, scaled.stderr
        assert "Model: room for 3 of 9 replicas: another takes " in scaled.stdout


def test_an_update_of_two_on_a_full_budget_never_leaves_nobody(folder) -> None:
    (folder / "big.py").write_text(MODEL.replace("40_000_000", "110_000_000"))
    (folder / "new.py").write_text((folder / "big.py").read_text().replace('"ok"', '"new"'))
    (folder / "new.yaml").write_text(
        'backends: {Model: {model: "new.py:Model", replicas: 2, memory: 125MiB}}\n'
        "endpoints: {Model: {route: /predict, traffic: {Model: 1}}}\n"
    )
    flags = ("--replicas", "2", "--memory", "125MiB", "--memory-budget", "340MiB")
    with Server(folder, "big.py:Model", *flags) as server, ThreadPoolExecutor(1) as others:
        wait_until(lambda: [each["state"] for each in running(server)["Model"]] == ["ready"] * 2, "both serve")
        served, applying = [], others.submit(server.command, "apply", "new.yaml")
        while not applying.done():
            served.append((ask(server, "/predict", {})[:2], [each["state"] for each in running(server)["Model"]]))
        assert applying.result().returncode == 0, applying.result().stderr
        assert {answer for answer, _ in served} <= {(200, "ok"), (200, "new")}
        assert min((states.count("ready") for _, states in served), default=1) >= 1, served
        made_way, log = " makes way for its replacement: there is no room for both", server.run_dir / "logs"
        wait_until(lambda: (log / "supervisor.log").read_text().count(made_way) == 2, "both made way, and it is told")
        assert "calls wait" not in (log / "supervisor.log").read_text()
