"""`muleteer check`: one replica by itself, called on its example through the same wire that a gateway speaks."""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from muleteer.base.clock import MonotonicClock
from muleteer.base.errors import StartupFailedError, UsageError, UsageErrors
from muleteer.base.limits import FRAME_OVERHEAD_BYTES
from muleteer.cli.exits import cannot_serve
from muleteer.cli.flags import Parser, add_settings, forget_secrets, given_settings
from muleteer.cli.output import harmless, say
from muleteer.engine.local import process_spec
from muleteer.engine.port import ReplicaRequest
from muleteer.spec.load import resolve
from muleteer.spec.settings import SETTINGS, BackendSettings
from muleteer.spec.targets import check_target
from muleteer.spec.units import format_bytes
from muleteer.supervise import messages
from muleteer.supervise.child import Child, spawn
from muleteer.supervise.output import LogFile, Output
from muleteer.supervise.sockets import listen_unix
from muleteer.wire.connection import Connection, Role
from muleteer.wire.frames import Frame, FrameType, join_payload, split_payload

OF_INTEREST = ("concurrency", "timeout", "max_body", "load_timeout")
_LABEL = 10
_ANSWER_CHARS_MAX = 200


def run(arguments: Sequence[str]) -> int:
    """Check one TARGET. Raises UsageError, StartupFailedError with the reason."""
    parser = Parser("check", "Start one replica of TARGET by itself, call it on its `example`, and show what it costs.")
    parser.add_argument("target", metavar="TARGET", help="file.py:Name or package.module:Name")
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="calls to measure (default: 20)")
    add_settings(parser, [SETTINGS[name] for name in OF_INTEREST])
    found = parser.parse(arguments)
    settings, problems = resolve(given_settings(found), os.environ)
    forget_secrets(os.environ, SETTINGS.values())
    if problems:
        raise UsageErrors(problems)
    if found.calls < 1:
        raise UsageError("--calls must be at least 1")
    name = check_target(found.target, Path.cwd()).name
    say(found.target)
    with TemporaryDirectory(prefix="muleteer-check-") as directory:
        request = ReplicaRequest(
            id=name,
            backend=name,
            generation=0,
            target=found.target,
            base_dir=str(Path.cwd()),
            settings=settings.backend(),
            debug=True,
        )
        CheckedReplica(request, Path(directory)).run(found.calls)
    return 0


class CheckedReplica:
    """One replica without a supervisor.

    Args:
        request: what to start.
        directory: for its socket; removed by the caller.
    """

    def __init__(self, request: ReplicaRequest, directory: Path) -> None:
        self._request = request
        self._directory = directory
        self._clock = MonotonicClock()

    def run(self, calls: int) -> None:
        """Start it, call it, end it. Raises StartupFailedError."""
        path = str(self._directory / "link.sock")
        listener = listen_unix(path)
        spec = process_spec(self._request, f"unix:{path}")
        try:
            child = spawn(spec, {"link": listener}, self._clock, self._output)
        finally:
            listener.close()
        try:
            info = self._wait_until_ready(child)
            _show_types(info)
            if "example" in info:
                self._call(path, child, msgspec.json.encode(info["example"]), calls)
            else:
                _row(
                    "calls", "none: a class attribute `example` with one input would be called, here and at each start"
                )
            _row("memory", format_bytes(_rss_bytes(child.pid)))
        finally:
            _end(child)
        say("ok")

    def _output(self, fd: int) -> Output:
        log = LogFile(self._directory / "output.log")
        return Output(fd, log, lambda text: say(f"{self._request.id} | {harmless(text)}", to=sys.stderr))

    def _wait_until_ready(self, child: Child) -> dict[str, object]:
        """What it said with `ready`. Raises StartupFailedError if it never does."""
        deadline = self._clock.now() + self._request.settings.load_timeout
        watched = [child.channel.fileno(), child.output.fileno()]
        while (left := deadline - self._clock.now()) > 0:
            readable, _, _ = select.select(watched, [], [], left)
            if child.output.fileno() in readable and child.output.read() < 0:
                watched.remove(child.output.fileno())
            if child.channel.fileno() not in readable:
                continue
            for raw in child.channel.receive():
                message = messages.parse(raw)
                if isinstance(message, messages.Stage):
                    _row(message.stage, _milliseconds(message.seconds))
                elif isinstance(message, messages.Ready):
                    _row("ready", f"{_milliseconds(self._clock.now() - child.started_s)} after its start")
                    return message.info
                elif isinstance(message, messages.Failed):
                    child.said = (message.reason, message.message)
            if not child.channel.open:
                self._raise_ended(child)
        raise StartupFailedError(
            f"cannot serve {self._request.target}: not ready after {self._request.settings.load_timeout:g} s"
        )

    def _raise_ended(self, child: Child) -> None:
        dead = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # not reaped: _end still kills its group
        assert dead is not None
        child.output.read_rest()
        exited = dead.si_code == os.CLD_EXITED
        code, number = (dead.si_status, None) if exited else (None, signal.Signals(dead.si_status))
        ended = child.last_exit(code, number, stopped=False, oom=False)
        raise cannot_serve(self._request.target, ended)

    def _call(self, path: str, child: Child, body: bytes, calls: int) -> None:
        link = _Link(path, self._request.settings)
        try:
            took: list[float] = []
            for _ in range(calls):
                began = time.perf_counter()
                answer = link.call(body)
                took.append(time.perf_counter() - began)
        except (OSError, EOFError) as error:
            child.output.read_rest()
            raise StartupFailedError(f"the call on `example` failed: {error or type(error).__name__}") from None
        finally:
            link.close()
        _row("example", f"{_shortened(body)} → {_shortened(answer)}")
        spread = f"{_milliseconds(min(took))} to {_milliseconds(max(took))}"
        _row("call", f"{_milliseconds(statistics.median(took))} (median of {calls}, {spread})")


class _Link:
    """The gateway's end of a link, blocking."""

    def __init__(self, path: str, settings: BackendSettings) -> None:
        self._timeout_s = settings.timeout
        self._connection = Connection(Role.GATEWAY, payload_max=settings.max_body + FRAME_OVERHEAD_BYTES)
        self._calls = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(settings.timeout)
        self._socket.connect(path)
        hello = msgspec.json.encode({"protocol": 1, "gateway": "check"})
        self._socket.sendall(self._connection.send(FrameType.HELLO, payload=hello))
        self._next()  # READY

    def call(self, body: bytes) -> bytes:
        """The JSON that the model answers. Raises OSError, EOFError, StartupFailedError."""
        self._calls += 1
        payload = join_payload(msgspec.json.encode({"id": f"check-{self._calls}"}), body)
        budget = int(self._timeout_s * 1000)
        self._socket.sendall(self._connection.send(FrameType.CALL, id=self._calls, budget=budget, payload=payload))
        answer = self._next()
        if answer.type is FrameType.ERROR:
            error = msgspec.json.decode(answer.payload)
            raise StartupFailedError(
                f"the call on `example` failed: {error['error']}\n{error.get('traceback', '')}".rstrip()
            )
        return split_payload(answer.payload)[1]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _next(self) -> Frame:
        while True:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError("the replica died")
            frames = self._connection.receive(data)
            if frames:
                return frames[0]


def _end(child: Child) -> None:
    child.kill()
    with suppress(ChildProcessError):
        os.waitpid(child.pid, 0)
    child.close()


def _show_types(info: dict[str, object]) -> None:
    parameters = info.get("parameters")
    _row("takes", ", ".join(map(str, parameters)) if isinstance(parameters, list) and parameters else "nothing")
    _row("returns", str(info.get("returns") or "not said: `-> type` on predict would tell"))


def _row(label: str, text: str) -> None:
    say(f"  {harmless(label):<{_LABEL}}{harmless(text)}")


def _shortened(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return text if len(text) <= _ANSWER_CHARS_MAX else text[:_ANSWER_CHARS_MAX] + "…"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 1 if seconds >= 0.001 else 3}f} ms"


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
