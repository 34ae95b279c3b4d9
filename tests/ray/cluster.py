"""A real Ray cluster of two nodes on this machine, small, and surely gone at the end.

The second node listens on another loopback address, so that "the node" of a replica can be told from its address.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")
SECOND = "127.0.0.2"
_STORE_BYTES = 80_000_000
_TRIES = 3
_ENVIRONMENT = {
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # a node whose process is gone is declared so after 4 s instead of 15; one that is only slow is not
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


class RayCluster:
    """`start()` and `stop()`; everything of it lies in one folder, by which its processes are found."""

    second = SECOND
    _second_prefix: tuple[str, ...] = ()

    def __init__(self, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mulray"))
        self.environment = {**os.environ, **_ENVIRONMENT, **environment}
        self.address = self.client_address = ""

    def start(self, *, cpus: int = 8, nodes: int = 2) -> None:
        for _ in range(_TRIES - 1):
            try:
                self._start_head(cpus)
                break
            except AssertionError:  # a port that was free a moment ago is not
                self._end_processes()
        else:
            self._start_head(cpus)
        if nodes == 2:
            self.add_node(cpus=cpus)

    def _start_head(self, cpus: int) -> None:
        host, port, client_port = self.head_host(), free_port(), free_port()
        self.address = f"{host}:{port}"
        self.client_address = f"ray://{host}:{client_port}"
        self._ray(
            "start",
            "--head",
            f"--port={port}",
            f"--node-ip-address={host}",
            f"--ray-client-server-port={client_port}",
            f"--temp-dir={self.folder}",
            "--include-dashboard=false",
            *self._common(cpus),
        )

    def add_node(self, *, cpus: int = 8) -> None:
        """The second node, also again after it was killed."""
        arguments = ("start", f"--address={self.address}", f"--node-ip-address={self.second}", *self._common(cpus))
        for _ in range(_TRIES - 1):
            try:
                return self._ray(*arguments, prefix=self._second_prefix)
            except AssertionError:  # Ray gives a node 30 s, and a machine may need more for it
                with suppress(ProcessLookupError, ValueError):
                    os.kill(self.raylet(self.second), signal.SIGKILL)
        return self._ray(*arguments, prefix=self._second_prefix)

    def stop(self) -> None:
        self._end_processes()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_processes(self) -> None:
        for _ in range(50):
            mine = self.processes()
            if not mine:
                break
            for pid in mine:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def head_host(self) -> str:
        """Ray replaces 127.0.0.1 by an address of the machine: take that one from the start."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
            except OSError:
                return "127.0.0.1"
            return probe.getsockname()[0]

    def processes(self) -> list[int]:
        """Everything of this cluster: Ray's own processes name the folder or the head, and all else descends from them."""
        marks = [mark for mark in (str(self.folder), self.address) if mark]
        found = {pid for pid, line in _command_lines() if any(mark in line for mark in marks)} - {os.getpid()}
        parents = _parents()
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def raylet(self, host: str) -> int:
        """The pid of the raylet of one node."""
        return self._find(lambda line: "/raylet/raylet " in line and f"--node_ip_address={host} " in line)

    def gcs(self) -> int:
        """The pid of the head's control service."""
        return self._find(lambda line: "/gcs/gcs_server " in line)

    def _find(self, matches) -> int:
        parents = _parents()
        all_of_it = {pid for pid, line in _command_lines() if str(self.folder) in line and matches(line)}
        (found,) = [
            pid for pid in all_of_it if parents.get(pid) not in all_of_it
        ]  # others: forked, and not yet executed
        return found

    def _common(self, cpus: int) -> list[str]:
        return [
            f"--num-cpus={cpus}",
            f"--object-store-memory={_STORE_BYTES}",
            "--disable-usage-stats",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--include-log-monitor=false",
        ]

    def _ray(self, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        done = subprocess.run(
            [*prefix, RAY, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr


class SeparateCluster(RayCluster):
    """Its second node has a network of its own, which `cut()` takes away without a word to either side. Needs root."""

    def __init__(self, **environment: str) -> None:
        super().__init__(**environment)
        self.head, self.second = (f"10.213.{os.getpid() % 254 + 1}.{number}" for number in (1, 2))
        self._space = f"mul{os.getpid()}"
        self._link = f"mul{os.getpid()}a"
        self._second_prefix = ("ip", "netns", "exec", self._space)

    def open_network(self) -> bool:
        """Whether this machine lets us."""
        within = ("netns", "exec", self._space, "ip")
        return all(
            _ip(*words)
            for words in (
                ("netns", "add", self._space),
                ("link", "add", self._link, "type", "veth", "peer", "name", "far", "netns", self._space),
                ("addr", "add", f"{self.head}/24", "dev", self._link),
                ("link", "set", self._link, "up"),
                (*within, "addr", "add", f"{self.second}/24", "dev", "far"),
                (*within, "link", "set", "far", "up"),
                (*within, "link", "set", "lo", "up"),
            )
        )

    def head_host(self) -> str:
        return self.head

    def cut(self) -> None:
        assert _ip("link", "set", self._link, "down")

    def stop(self) -> None:
        super().stop()
        _ip("link", "del", self._link)
        _ip("netns", "del", self._space)


def _ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _command_lines():
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield int(directory.name), line


def _parents() -> dict[int, int]:
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def free_port() -> int:
    """One that nobody has and that nobody gets who asks for just any: it may be taken a good while later."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(20_000, max(first_given, 30_000))
        with suppress(OSError), socket.create_server(("0.0.0.0", port)):
            return port


class BridgeProcess:
    """The bridge as the supervisor starts it, without the supervisor."""

    def __init__(self, cluster: RayCluster, folder: Path, **config: float) -> None:
        self.path = str(folder / "engine.sock")
        self._cluster = cluster
        self._config = json.dumps({"address": cluster.address, **config})
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        self.start()

    def start(self) -> None:
        """Another life, after `kill`."""
        self._control, theirs = socket.socketpair()
        fds = {"control": theirs.fileno(), "engine": self._listener.fileno()}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "muleteer.engine.ray", self._config],
            env={**self._cluster.environment, "MULETEER_FDS": json.dumps(fds)},
            pass_fds=tuple(fds.values()),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def wait_ready(self) -> None:
        """Until it takes SIGTERM as the order that it is."""
        self._control.settimeout(90)
        self._said = self._control.recv(4096)
        assert b'"ready"' in self._said

    def last_words(self) -> str:
        """All that it has told its supervisor, when it ends by itself."""
        while more := self._control.recv(4096):
            self._said += more
        return self._said.decode()

    def kill(self) -> None:
        """As a fault would."""
        self.process.kill()
        self.process.wait()
        self._control.close()

    def close(self) -> None:
        """SIGTERM: it ends what it keeps."""
        self.process.terminate()
        try:
            self.process.wait(90)
        finally:
            self.kill()
            self._listener.close()
