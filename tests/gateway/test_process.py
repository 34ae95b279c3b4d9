"""The gateway as a process: inherited sockets, control socket, snapshot file, signals, the end of its supervisor."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import msgspec
import pytest

from muleteer.base.limits import STRANGERS_MAX
from muleteer.spec.snapshot import BackendRoute, EndpointRoute, Snapshot
from tests.certificates import authority, certificate
from tests.waiting import until

PATIENCE_S = 40.0
"""Only ends a test that has failed."""


class Gateway:
    """One process, started as the supervisor would."""

    def __init__(self, directory: Path, *, secret="", env=(), **config):
        self.directory = directory
        self.control, control = socket.socketpair()
        self.control.settimeout(PATIENCE_S)
        http = socket.create_server(("127.0.0.1", 0))
        self.port = http.getsockname()[1]
        path = directory / "gateway-0.sock"
        path.unlink(missing_ok=True)
        if secret:
            steering = socket.create_server(("127.0.0.1", 0))
        else:
            steering = socket.socket(socket.AF_UNIX)
            steering.bind(str(path))
            steering.listen()
        self.steered_at = steering.getsockname()
        inherited = {"control": control, "http": http, "gateway": steering}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "muleteer.gateway",
                json.dumps({"name": "gateway-0", "run_dir": str(directory), **config}),
            ],
            env={
                **os.environ,
                "MULETEER_FDS": json.dumps({name: sock.fileno() for name, sock in inherited.items()}),
                "MULETEER_SECRET": secret,
                **dict(env),
            },
            pass_fds=[sock.fileno() for sock in inherited.values()],
            stderr=subprocess.PIPE,
        )
        for sock in inherited.values():
            sock.close()
        self.lines = self.control.makefile("rb")
        assert json.loads(self.lines.readline()) == {"type": "ready", "info": {}}

    def ask(self, message):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.directory / "gateway-0.sock"))
            sock.sendall(json.dumps(message).encode() + b"\n")
            return json.loads(sock.makefile("rb").readline())

    def get(self, path):
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S)

    def reasons(self):
        """Why it is not ready, asked at little cost: some tests have but seconds for it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/readyz")
            return json.loads(connection.getresponse().read())["reasons"]
        finally:
            connection.close()

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process.stderr.close()
        self.lines.close()
        self.control.close()


@pytest.fixture
def start():
    with tempfile.TemporaryDirectory(prefix="mt-") as directory, contextlib.ExitStack() as stack:

        def start(**config):
            gateway = Gateway(Path(directory), **config)
            stack.callback(gateway.close)
            return gateway

        start.directory = Path(directory)
        yield start


def snapshot(revision=1, traffic=None):
    endpoint = EndpointRoute(name="e", route="/predict", traffic=traffic or {"m": 1.0})
    return msgspec.to_builtins(Snapshot(revision, (endpoint,), (BackendRoute(name="m"),)))


def test_it_is_alive_without_routes_and_takes_a_snapshot(start):
    gateway = start()
    assert gateway.get("/livez").status_code == 200
    assert gateway.get("/readyz").status_code == 503
    early = gateway.get("/predict")  # not 404: a client of a server that starts may come again
    assert (early.status_code, early.json()["code"], early.headers["retry-after"]) == (503, "loading", "1")
    assert gateway.ask({"type": "snapshot", "snapshot": snapshot(7)}) == {"type": "applied", "revision": 7}
    assert gateway.get("/elsewhere").status_code == 404
    answer = gateway.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = httpx2.post(f"http://127.0.0.1:{gateway.port}/predict", json={})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "loading", "1")
    assert gateway.get("/readyz").json()["reasons"] == {"m": "loading"}
    statistics = gateway.ask({"type": "statistics"})["statistics"]
    assert statistics["revision"] == 7
    assert statistics["backends"]["m"]["calls"]["refused"] == {"loading": 1}
    assert statistics["http"]["by_code"]["loading"] == 2


@pytest.mark.parametrize(
    "bad",
    [None, {}, {"revision": "x"}, {**snapshot(), "surplus": 1}, snapshot(2, {"other": 1.0}), snapshot(2, {"m": 0.0})],
)
def test_a_bad_snapshot_is_refused_and_the_old_one_stays(start, bad):
    gateway = start()
    gateway.ask({"type": "snapshot", "snapshot": snapshot(1)})
    refused = gateway.ask({"type": "snapshot", "snapshot": bad})
    assert refused["type"] == "refused" and refused["error"]
    assert gateway.ask({"type": "statistics"})["statistics"]["revision"] == 1


def test_on_a_network_only_who_knows_the_secret_is_heard(start):
    gateway = start(secret="s3cret")
    assert b"s3cret" not in Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes()

    def say(*lines):
        with socket.create_connection(gateway.steered_at, PATIENCE_S) as sock:
            sock.sendall(b"".join(lines))
            with contextlib.suppress(ConnectionResetError):
                return sock.makefile("rb").readline()
        return b""

    hello, watch = b'{"type":"hello","secret":"s3cret"}\n', b'{"type":"watch"}\n'
    statistics = b'{"type":"statistics"}\n'
    applied = say(hello, watch, json.dumps({"type": "snapshot", "snapshot": snapshot(7)}).encode() + b"\n")
    assert json.loads(applied) == {"type": "applied", "revision": 7}
    for words in (statistics, hello.replace(b"s3", b"S3"), b'{"type":"hello"}\n', b"x" * 5000, b"\n\n[]\n"):
        assert say(words, statistics) == b"", words
    assert json.loads(say(hello, statistics))["statistics"]["revision"] == 7
    waiting = [socket.create_connection(gateway.steered_at, PATIENCE_S) for _ in range(STRANGERS_MAX + 1)]
    try:
        assert waiting[-1].recv(1) == b""  # at once: there are too many who have said nothing
    finally:
        for each in waiting:
            each.close()


def test_where_ray_encrypts_so_does_the_control_socket(start, tmp_path):
    signer, other = authority(tmp_path), authority(tmp_path, "other")
    gateway = start(secret="s3cret", env=certificate(tmp_path, "gateway", signer))

    def say(shown):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(f"{signer}.crt")
        context.check_hostname = False
        context.load_cert_chain(shown["RAY_TLS_SERVER_CERT"], shown["RAY_TLS_SERVER_KEY"])
        with (
            socket.create_connection(gateway.steered_at, PATIENCE_S) as bare,
            context.wrap_socket(bare) as sock,
            contextlib.suppress(OSError),
        ):
            sock.sendall(b'{"type":"hello","secret":"s3cret"}\n{"type":"statistics"}\n')
            return sock.recv(65536)
        return b""

    assert b'"revision":0' in say(certificate(tmp_path, "controller", signer))
    assert say(certificate(tmp_path, "stranger", other)) == b""
    with socket.create_connection(gateway.steered_at, PATIENCE_S) as plain:
        plain.sendall(b'{"type":"hello","secret":"s3cret"}\n{"type":"statistics"}\n')
        with contextlib.suppress(ConnectionResetError):
            assert b"statistics" not in plain.recv(65536)


def test_the_snapshot_in_the_run_directory_is_read_first(start):
    (start.directory / "snapshot.json").write_bytes(msgspec.json.encode(snapshot(5)))
    assert start().ask({"type": "statistics"})["statistics"]["revision"] == 5


def test_a_torn_snapshot_file_is_logged_and_let_be(start):
    (start.directory / "snapshot.json").write_bytes(msgspec.json.encode(snapshot(5))[:-9])
    gateway = start()
    assert gateway.ask({"type": "statistics"})["statistics"]["revision"] == 0
    gateway.process.terminate()
    assert b"snapshot in the run directory is of no use" in gateway.process.stderr.read()


def test_sigterm_says_not_ready_still_accepts_then_exits_0(start):
    drain_delay_s = 4.0  # it must be asked in this time, on a machine that stands still for a part of it
    gateway = start(drain_delay=drain_delay_s)
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    until(lambda: gateway.reasons() == {"gateway-0": "draining"}, "it says so")
    assert gateway.reasons(), "it still accepts"
    assert gateway.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began >= drain_delay_s
    with pytest.raises(httpx2.ConnectError):
        gateway.get("/livez")


def test_a_second_sigterm_is_quick(start):
    gateway = start(drain_delay=30.0)
    gateway.process.send_signal(signal.SIGTERM)
    until(lambda: "gateway-0" in gateway.reasons(), "it drains")
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.wait(20)


def test_it_leaves_at_once_when_its_supervisor_is_gone(start):
    gateway = start()
    gateway.lines.close()
    gateway.control.close()
    assert gateway.process.wait(PATIENCE_S) == 70


def test_started_by_hand_it_says_so():
    done = subprocess.run([sys.executable, "-m", "muleteer.gateway", "{}"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "started by `muleteer serve`" in done.stderr
