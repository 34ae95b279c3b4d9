"""Starts the real command line in a folder of its own, finds its processes, and leaves nothing behind.

The fault tests share it. Must not know what is measured or broken.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from bench.measure import Process, descendants, processes
from muleteer.client.admin import get
from muleteer.wire.lines import LineDecoder, encode_line

COMMAND = Path(sys.executable).with_name("muleteer")
POLL_S = 0.01


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 20.0) -> float:
    """Seconds until `condition()` is true. Raises TimeoutError that says what was waited for."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - start


class Server:
    """One `muleteer serve … --detach` in `folder`. A context manager: starts, and in the end stops what is left.

    Args:
        arguments: of `serve`, without host, port and run directory.
        env: added to the environment.
        port: 0 picks a free one.

    Attributes:
        prefix: words before each command, e.g. of a shell that sets limits.
    """

    prefix: tuple[str, ...] = ()

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        port: int = 0,
        run_dir: Path | None = None,
    ) -> None:
        self.folder = folder
        self.run_dir = run_dir or folder / "run"
        self.pid = 0
        self.port = port
        self._arguments = arguments
        self._env = os.environ | {"XDG_STATE_HOME": str(folder / "state")} | (env or {})
        self._seen: dict[int, Process] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def command(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one verb on this server's run directory."""
        return subprocess.run(
            [*self.prefix, str(COMMAND), *arguments, "--run-dir", str(self.run_dir)],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def serve_arguments(self) -> list[str]:
        """What `serve` is called with, the run directory excepted."""
        return ["serve", *self._arguments, "--port", str(self.port)]

    def start(self) -> None:
        """Start it and wait until the port answers. Raises RuntimeError with what it said."""
        done = self.command(*self.serve_arguments(), "--detach")
        if done.returncode:
            raise RuntimeError(f"muleteer serve: exit {done.returncode}: {done.stdout}{done.stderr}")
        self.find()
        wait_until(self.ready, "ready", seconds=30)

    def find(self) -> None:
        """Read pid and port from the lock."""
        wait_until(lambda: self.lock().get("port"), "the lock names the port")
        self.pid, self.port = self.lock()["pid"], self.lock()["port"]

    def lock(self) -> dict[str, Any]:
        """The JSON in the lock, or nothing."""
        try:
            found: dict[str, Any] = json.loads((self.run_dir / "lock").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def probe(self, path: str) -> int:
        """The status of one GET on a new connection, 0 without an answer within 5 s."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as link:
                link.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                head = link.recv(4096)
        except OSError:
            return 0
        return int(head[9:12]) if head[:5] == b"HTTP/" else 0

    def ready(self) -> bool:
        """Whether /readyz says so."""
        return self.probe("/readyz") == 200

    def status(self) -> dict[str, Any]:
        """What the controller tells."""
        found: dict[str, Any] = get(self.run_dir / "admin.sock", "/v1/status")
        return found

    def statistics(self, gateway: str = "gateway-0") -> dict[str, Any]:
        """What a gateway tells about itself, asked on its control socket."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(20)
            link.connect(str(self.run_dir / f"{gateway}.sock"))
            link.sendall(encode_line({"type": "statistics"}))
            decoder = LineDecoder()
            while True:
                data = link.recv(65536)
                if not data:
                    raise ConnectionError("the gateway closed its control socket")
                for message in decoder.feed(data):
                    if message["type"] == "statistics":
                        found: dict[str, Any] = message["statistics"]
                        return found

    def tree(self) -> list[Process]:
        """The supervisor and all below it."""
        tree = descendants(self.pid) if self.pid else []
        self._seen |= {process.pid: process for process in tree}
        return tree

    def pids(self, role: str) -> list[int]:
        """Processes of one role: `supervisor`, `controller`, `gateway` or `replica`, in order of their pids."""
        if role == "supervisor":
            return [self.pid]
        module = {"controller": "muleteer.control", "gateway": "muleteer.gateway", "replica": "muleteer.replica"}[role]
        titles = (module, f"muleteer: {role}", f"muleteer {role}")
        return sorted(p.pid for p in self.tree()[1:] if any(title in p.command for title in titles))

    def kill(self, *pids: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to processes of this server; those already gone are left out."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def orphans(self) -> list[Process]:
        """Processes of this server that live although they should not: seen below it once, or working in its folder."""
        alive = processes()
        found = {pid: p for pid, p in alive.items() if pid in self._seen and p.command == self._seen[pid].command}
        for pid, process in alive.items():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").readlink() == self.folder and pid != os.getpid():
                    found[pid] = process
        return list(found.values())

    def stop(self) -> subprocess.CompletedProcess[str]:
        """`muleteer stop`."""
        self.tree()
        return self.command("stop")

    def close(self) -> None:
        """Stop it if it runs, and kill what is left."""
        self.tree()
        if self.lock() and self.pid and descendants(self.pid):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.command("stop", "--now", timeout_s=20)
        for process in self.orphans():
            self.kill(process.pid, number=signal.SIGCONT)
            self.kill(process.pid)


def encoded(value: object) -> bytes:
    """JSON."""
    return msgspec.json.encode(value)
