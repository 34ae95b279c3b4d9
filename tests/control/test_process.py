"""The controller as a process: real supervisor, real replicas, real kills, the admin API on its real socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, EndpointSpec, ServerSettings
from muleteer.spec.start import Start
from tests.control.http_peer import ask
from tests.engine.supervised import run_directory, supervised

MODEL = "class Model:\n    version = 1\n    def predict(self, x: int):\n        return x\n"


class Server:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        found = ask(str(self.run_dir / "admin.sock"), method, path, body, **headers)
        return found.status, found.body

    def status(self) -> dict[str, Any]:
        code, status = self.ask("GET", "/v1/status")
        assert code == 200
        return status

    def until(self, holds: Callable[[dict[str, Any]], Any], timeout_s: float = 60.0) -> dict[str, Any]:
        """The first status for which `holds`; a controller that is being restarted is waited for."""
        give_up = time.monotonic() + timeout_s
        last: object = None
        while time.monotonic() < give_up:
            try:
                last = self.status()
                if holds(last):
                    return last
            except (OSError, http.client.HTTPException) as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"not in {timeout_s} s: {last}")

    def edit(self, source: str) -> None:
        """As one step: a file that is empty for a moment might be loaded as it is."""
        aside = self.run_dir / "m.py.new"
        aside.write_text(source)
        aside.replace(self.run_dir / "m.py")

    def pids(self) -> dict[str, int]:
        return {row["id"]: row["pid"] for row in self.status()["backends"][0]["replicas"]}

    def until_another_controller(self, pid: int) -> dict[str, Any]:
        return self.until(lambda status: is_ready(status) and controller(status)["pid"] != pid)


@contextmanager
def serving(
    source: str = MODEL, *, reload: bool = True, engine: Literal["local", "ray"] = "local", **settings: Any
) -> Iterator[Server]:
    with run_directory() as run_dir:
        (run_dir / "m.py").write_text(source)
        backend = BackendSpec(
            name="m", target="m.py:Model", base_dir=str(run_dir), settings=BackendSettings(**settings)
        )
        declared = Declared(
            server=ServerSettings(run_dir=str(run_dir), reload=reload, engine=engine),
            backends=(backend,),
            endpoints=(EndpointSpec(name="m", route="/m", traffic={"m": 1.0}),),
        )
        (run_dir / "declared.json").write_bytes(msgspec.json.encode(Start(start_id="1", declared=declared)))
        config = msgspec.json.encode({"run_dir": str(run_dir)}).decode()
        with supervised(run_dir, "-m", "muleteer.control", config):
            yield Server(run_dir)


def controller(status: dict[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in status["processes"] if row["id"] == "controller"]
    return row


def is_settled(status: dict[str, Any]) -> bool:
    """But for the gateway, which these tests do not have."""
    return status["backends"][0]["settled"]


def is_ready(status: dict[str, Any]) -> bool:
    return status["backends"][0]["state"] == "ready"


def test_a_killed_controller_comes_back_and_adopts() -> None:
    with serving(replicas=2) as server:
        status = server.until(is_ready)
        pids = server.pids()
        for kills in (1, 2, 3):
            pid = controller(status)["pid"]
            os.kill(pid, signal.SIGKILL)
            status = server.until_another_controller(pid)
            assert server.pids() == pids
            row = controller(status)
            assert (row["restarts"], row["last_exit"]["signal"]) == (kills, "SIGKILL")


def test_a_killed_replica_comes_back_under_its_name_and_address() -> None:
    with serving() as server:
        (before,) = server.until(is_ready)["backends"][0]["replicas"]
        os.kill(before["pid"], signal.SIGKILL)
        (after,) = server.until(
            lambda status: is_ready(status) and status["backends"][0]["replicas"][0]["restarts"] == 1
        )["backends"][0]["replicas"]
        assert (after["id"], after["address"]) == (before["id"], before["address"])
        assert after["pid"] != before["pid"]
        assert (after["last_exit"]["reason"], after["last_exit"]["signal"]) == ("killed", "SIGKILL")
        assert after["rss_bytes"] is None or after["rss_bytes"] > 2**20


def test_a_reload_with_real_processes() -> None:
    with serving() as server:
        before = server.until(is_ready)["backends"][0]
        server.edit(MODEL.replace("version = 1", "version = 2"))
        after = server.until(
            lambda status: status["backends"][0]["generation"] == 2 and len(status["backends"][0]["replicas"]) == 1
        )["backends"][0]
        assert after["replicas"][0]["id"] == "m-2"
        assert not Path(before["replicas"][0]["address"].removeprefix("unix:")).exists()
        assert not Path(f"/proc/{before['replicas'][0]['pid']}").exists()
        server.edit("class Model(")
        broken = server.until(lambda status: status["backends"][0]["reason"])["backends"][0]
        assert broken["state"] == "ready"
        assert "SyntaxError" in broken["reason"] or "never closed" in broken["reason"]
        assert broken["replicas"][0]["pid"] == after["replicas"][0]["pid"]


def test_without_the_engine_the_admin_api_says_what_is_not_known() -> None:
    """Engine ray, and no bridge to ask what runs."""
    with serving(engine="ray", replicas=2) as server:
        status = server.until(lambda status: "ray" in status["problems"])
        (backend,) = status["backends"]
        assert (backend["state"], backend["replicas"], status["settled"]) == ("unknown", [], False)
        assert status["problems"]["ray"].startswith("the bridge to Ray cannot be reached")
        server.until(lambda status: controller(status)["state"] == "ready")  # nothing kills it for being late
        assert server.ask("GET", "/v1/backends/m")[0] == 200
        code, answer = server.ask("POST", "/v1/backends/m/retry")
        assert (code, answer["code"]) == (503, "unobserved")
        code, changed = server.ask("PATCH", "/v1/backends/m", {"replicas": 3})
        assert (code, changed["revision"]) == (200, 2)
        code, explained = server.ask("GET", "/v1/backends/m/explain")
        assert (code, explained["state"]) == (200, "unknown")
        assert [each["topic"] for each in explained["sentences"]] == ["trouble"], "the rest would be made up"


def test_the_admin_api_refuses_what_it_should() -> None:
    with serving() as server:
        server.until(is_ready)
        assert server.ask("GET", "/v1/health") == (200, {"ok": True, "problems": {}})
        assert server.ask("POST", "/v1/backends/m/retry") == (200, {"retried": []})
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/backends/m/retry")):
            code, answer = server.ask(method, path, Origin="http://muleteer")
            assert (code, answer["code"]) == (403, "foreign_origin")
        assert server.ask("POST", "/v1/backends/nobody/retry")[0] == 404
        for name in ("..", "%2e%2e", "a%20b", "-x", "a" * 129):
            code, answer = server.ask("POST", f"/v1/backends/{name}/retry")
            assert (code, answer["code"]) in {(400, "bad_request"), (404, "not_found")}, name
        assert server.ask("GET", "/v1/backends/m/retry")[0] == 405
        assert server.ask("GET", "/nowhere")[1]["code"] == "not_found"


def test_the_controller_stops_quickly_and_cleanly() -> None:
    with serving() as server:
        pid = controller(server.until(is_ready))["pid"]
        os.kill(pid, signal.SIGTERM)
        last_exit = controller(server.until_another_controller(pid))["last_exit"]
        assert (last_exit["code"], last_exit["signal"]) == (0, None)


def test_an_update_with_real_processes_survives_a_crash_of_the_controller() -> None:
    """The fingerprint tells a successor what is outdated; what is current it leaves alone."""
    with serving(reload=False, replicas=2) as server:
        old = set(server.until(is_ready) and server.pids().values())
        code, changed = server.ask("PATCH", "/v1/backends/m", {"concurrency": 2})
        assert (code, changed["revision"]) == (200, 2)
        pid = controller(server.status())["pid"]
        os.kill(pid, signal.SIGKILL)
        status = server.until(lambda status: is_settled(status) and status["revision"] == 2)
        assert controller(status)["pid"] != pid
        new = set(server.pids().values())
        assert (len(new), old & new) == (2, set())
        os.kill(controller(status)["pid"], signal.SIGKILL)
        status = server.until(lambda again: is_settled(again) and controller(again)["restarts"] == 2)
        assert set(server.pids().values()) == new
        assert status["backends"][0]["generation"] == 2


def test_a_bad_update_leaves_the_old_version_serving_and_says_why() -> None:
    with serving(reload=False) as server:
        before = server.until(is_ready) and server.pids()
        (server.run_dir / "bad.py").write_text(
            "class Model:\n    def __init__(self):\n        raise OSError('no weights')\n"
        )
        assert server.ask("PATCH", "/v1/backends/m", {"model": "bad.py:Model"})[0] == 200
        status = server.until(lambda status: status["backends"][0]["reason"])
        row = status["backends"][0]
        assert (row["state"], row["settled"], row["target"]) == ("ready", False, "bad.py:Model")
        assert "no weights" in row["reason"]
        assert before.items() <= server.pids().items()
        assert server.ask("POST", "/v1/rollback", {})[0] == 200
        server.until(is_settled)
        assert is_ready(server.status())


def test_on_tcp_with_a_token_which_is_nowhere_to_be_seen() -> None:
    token = "correct-horse-battery"
    with run_directory() as run_dir:
        settings = ServerSettings(run_dir=str(run_dir), admin_port=1, admin_token=token)
        start = Start(start_id="1", declared=Declared(server=settings), server=settings)
        (run_dir / "declared.json").write_bytes(msgspec.json.encode(start))
        config = msgspec.json.encode({"run_dir": str(run_dir)}).decode()
        with supervised(run_dir, "-m", "muleteer.control", config):
            server = Server(run_dir)
            pid = controller(server.until(lambda status: status["revision"] == 1))["pid"]
            where = ("127.0.0.1", int((run_dir / "admin.port").read_text()))
            assert server.status()["admin_address"] == "http://127.0.0.1:1"
            assert ask(where, "GET", "/v1/declared").status == 401
            found = ask(where, "GET", "/v1/declared", Authorization=f"Bearer {token}")
            assert (found.status, found.body["declared"]["server"]["admin_port"]) == (200, 1)
            assert token not in json.dumps([found.body, server.status(), server.ask("GET", "/v1/history/1")])
            assert token not in Path(f"/proc/{pid}/cmdline").read_text()
            os.kill(pid, signal.SIGKILL)
            server.until(lambda status: controller(status)["pid"] != pid)
            assert ask(where, "GET", "/v1/health", Authorization=f"Bearer {token}").status == 200


def test_shutdown_stops_everything() -> None:
    with run_directory() as run_dir:
        start = Start(start_id="1", declared=Declared(server=ServerSettings(run_dir=str(run_dir))))
        (run_dir / "declared.json").write_bytes(msgspec.json.encode(start))
        config = msgspec.json.encode({"run_dir": str(run_dir)}).decode()
        with supervised(run_dir, "-m", "muleteer.control", config) as supervisor:
            server = Server(run_dir)
            server.until(lambda status: status["revision"] == 1)
            assert server.ask("POST", "/v1/shutdown")[0] == 200
            assert supervisor.wait(60) == 0


@pytest.mark.parametrize("arguments", [[], ['{"run_dir": "/nowhere"}']])
def test_started_by_hand_it_says_so(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MULETEER_FDS"}
    done = subprocess.run(
        [sys.executable, "-m", "muleteer.control", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "muleteer serve" in done.stderr
