"""SIGKILL of the controller at random moments of applies and rollouts: real supervisor, controller and state file."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

import msgspec

from muleteer.spec.settings import Declared, ServerSettings
from muleteer.spec.start import Start
from tests.control.gateway_peer import GatewayPeer
from tests.control.http_peer import ask
from tests.engine.supervised import run_directory, supervised
from tests.waiting import until

KILLS = 20
KILLS_MAX = 100
COUNT_MAX = 400  # for three steps of seven


class Server:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.admin = str(run_dir / "admin.sock")

    def patiently(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the next controller that lives."""
        give_up = time.monotonic() + 60
        while True:
            try:
                answer = ask(self.admin, method, path, body)
            except (OSError, HTTPException):
                assert time.monotonic() < give_up, "no controller answers"
                time.sleep(0.02)
            else:
                assert answer.status == 200, answer
                return answer.body

    def gateway(self) -> Gateway:
        """Opened once the supervisor has swept the run directory."""
        self.pid()
        return Gateway(self.run_dir)

    def pid(self) -> int:
        rows = self.patiently("GET", "/v1/status")["processes"]
        return next(row["pid"] for row in rows if row["id"] == "controller")


@contextmanager
def serving() -> Iterator[Server]:
    with run_directory() as run_dir:
        (run_dir / "m.py").write_text("class M:\n    def predict(self, x: int): return x\n")
        start = Start(start_id="1", declared=Declared(server=ServerSettings(run_dir=str(run_dir))))
        (run_dir / "declared.json").write_bytes(msgspec.json.encode(start))
        with supervised(run_dir, "-m", "muleteer.control", msgspec.json.encode({"run_dir": str(run_dir)}).decode()):
            yield Server(run_dir)


def file(number: int) -> dict[str, Any]:
    """Every part of it names its number: a mixture of two would show."""
    names = [f"b{number}-{index}" for index in range(40)]
    return {
        "backends": {name: {"model": "m.py:M", "replicas": 0, "timeout": number + 1} for name in names},
        "endpoints": {f"e{index}": {"route": f"/e{index}", "backend": name} for index, name in enumerate(names)},
    }


def number_of(declared: dict[str, Any]) -> int:
    """Which file is declared. Raises AssertionError if it is a mixture."""
    if not declared["backends"]:
        return 0
    number = int(next(iter(declared["backends"])).partition("-")[0][1:])
    written = file(number)
    assert declared["endpoints"] == written["endpoints"]
    assert set(declared["backends"]) == set(written["backends"])
    # 30 s is the default, and defaults are not written out
    assert {row.get("timeout", "30s") for row in declared["backends"].values()} == {f"{number + 1}s"}
    return number


def test_a_kill_in_the_middle_of_an_apply_leaves_the_old_or_the_new() -> None:
    chance = random.Random(20)
    kept = lost = 0
    with serving() as server:
        for before in (1, 2):  # the second undisturbed one tells where in time the middle is, roughly
            began = time.monotonic()
            server.patiently("POST", "/v1/apply", {"declared": file(before), "base_dir": str(server.run_dir)})
            within_s = 1.5 * (time.monotonic() - began)
        number = before
        while number < KILLS or not (kept and lost):
            number += 1
            assert number < KILLS_MAX, (kept, lost, within_s)
            pid = server.pid()
            request = {"declared": file(number), "base_dir": str(server.run_dir)}
            answered: list[int] = []

            def send(request: Any = request, answered: list[int] = answered) -> None:
                with suppress(OSError, HTTPException):
                    answered.append(ask(server.admin, "POST", "/v1/apply", request).status)

            sender = threading.Thread(target=send)
            sender.start()
            time.sleep(chance.uniform(0, within_s))
            os.kill(pid, signal.SIGKILL)
            sender.join()
            now = server.patiently("GET", "/v1/declared")
            found = number_of(now["declared"])
            assert found in (before, number)
            assert not answered or (answered == [200] and found == number), "what was answered is kept"
            kept, lost = kept + (found == number), lost + (found == before)
            within_s *= 0.8 if found == number else 1.25  # the machine is not always as quick as it was then
            before = found
        history = server.patiently("GET", "/v1/history?limit=100")["history"]
        assert [row["revision"] for row in history] == list(range(len(history), 0, -1))
        assert len(history) == 3 + kept, "nothing was declared twice or by halves"


class Gateway:
    """A gateway's control socket in a thread, whose counts grow: up to `COUNT_MAX` until `unbounded` is set."""

    def __init__(self, run_dir: Path) -> None:
        self.peer = GatewayPeer(str(run_dir / "gateway-0.sock"))
        self.loop = asyncio.new_event_loop()
        self.unbounded = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        await self.peer.open()
        count = 0
        while not self._end.is_set():
            count += 100 if count < COUNT_MAX or self.unbounded.is_set() else 0
            version = {"outcomes": {"ok": count}, "latency": {"counts": {"100": count}}}
            versions = {"a": version, "b": version}
            self.peer.statistics = {"epoch": "1", "endpoints": {"e": {"versions": versions}}}
            try:
                await asyncio.wait_for(self._end.wait(), 0.05)
            except TimeoutError:
                continue
        await self.peer.close()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def shares(self) -> list[float]:
        """Of the new version, as published, without repetition."""
        found = [row["endpoints"][0]["traffic"].get("b", 0.0) for row in self.peer.snapshots if row["endpoints"]]
        return [share for number, share in enumerate(found) if not number or found[number - 1] != share]


def test_a_rollout_goes_on_where_the_killed_controller_was() -> None:
    chance = random.Random(21)
    with serving() as server, server.gateway() as gateway:
        backend = {"model": "m.py:M", "base_dir": str(server.run_dir)}
        for name in ("a", "b"):
            server.patiently("PUT", f"/v1/backends/{name}", backend)
        server.patiently("PUT", "/v1/endpoints/e", {"route": "/e", "backend": "a"})
        steps = [1, 2, 5, 10, 20, 50, 100]
        policy = {"to": "b", "steps": steps, "interval_s": 0.3, "min_requests": 100}
        server.patiently("POST", "/v1/endpoints/e/rollout", policy)
        kills = 0
        give_up = time.monotonic() + 90
        while not (found := server.patiently("GET", "/v1/endpoints/e/rollout"))["ended"]:
            assert time.monotonic() < give_up, found
            if kills < 6:
                time.sleep(chance.uniform(0, 1.5))
                os.kill(server.pid(), signal.SIGKILL)
                kills += 1
            if kills == 3:
                gateway.unbounded.set()  # however long the kills took, it is not over before
            time.sleep(0.1)
        assert found["phase"] == "completed"
        declared = server.patiently("GET", "/v1/declared")["declared"]
        assert declared["endpoints"]["e"]["traffic"] == {"a": 0, "b": 100}
        expected = [0.0, *map(float, steps)]
        until(lambda: gateway.shares()[-1] == 100, gateway.shares)  # what is declared is published a moment later
        shares = gateway.shares()
        assert shares == [share for share in expected if share in shares], "only forward"
