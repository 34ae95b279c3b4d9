"""One replica without a supervisor, started exactly as `serve` starts it. Must not know what is shown of it."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Self

from muleteer.base.clock import MonotonicClock
from muleteer.base.errors import StartupFailedError
from muleteer.engine import detect, threads
from muleteer.engine.launch import process_spec
from muleteer.engine.port import ReplicaRequest
from muleteer.supervise import messages
from muleteer.supervise.child import Child, spawn
from muleteer.supervise.output import LogFile, Output
from muleteer.supervise.process import LastExit
from muleteer.supervise.sockets import listen_unix
from muleteer.trial.link import Answered, Link, Unit

OnStage = Callable[[str, float], None]
OnLine = Callable[[str], None]
_FOLDER_CHARS_MAX = 60  # leaves room for a folder and a socket: their whole path may have 107 bytes
_LOOK_S = 0.25  # how often an overdue call is looked for


class EndedError(Exception):
    """The replica ended before it was ready."""

    def __init__(self, last_exit: LastExit) -> None:
        super().__init__(last_exit.reason)
        self.last_exit = last_exit


def scratch(verb: str) -> TemporaryDirectory[str]:
    """A private folder for replicas, short enough for their sockets whatever TMPDIR says."""
    folder = gettempdir()
    return TemporaryDirectory(prefix=f"muleteer-{verb}-", dir=folder if len(folder) <= _FOLDER_CHARS_MAX else "/tmp")  # noqa: S108


class TrialReplica:
    """A context manager: leaving it kills the replica's whole group.

    Args:
        request: what to start.
        directory: for socket and output; removed by the caller.
        on_stage: told each stage of the start and its seconds.
        on_line: told each line that the model writes.

    Attributes:
        info: what it said with `ready`.
        startup_s: from its start until a call could be sent.
    """

    def __init__(
        self,
        request: ReplicaRequest,
        directory: Path,
        *,
        on_stage: OnStage = lambda _stage, _seconds: None,
        on_line: OnLine = lambda _line: None,
    ) -> None:
        self.request = request
        self.info: dict[str, object] = {}
        self.startup_s = 0.0
        self._path = str(directory / f"{request.id.rpartition('-')[2][-8:]}.sock")
        self._log = directory / f"{request.id}.log"
        self._on_stage = on_stage
        self._on_line = on_line
        self._clock = MonotonicClock()
        self._child: Child | None = None
        self._link: Link | None = None
        self._talks = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    @property
    def child(self) -> Child:
        """Its process, once it was started."""
        assert self._child is not None, "start() comes first"
        return self._child

    @property
    def pid(self) -> int:
        """Of its process, which lives."""
        pid = self.child.pid
        assert pid is not None, "started here, not forked elsewhere"
        return pid

    @property
    def link(self) -> Link:
        """How to call it, once it was started."""
        assert self._link is not None, "start() comes first"
        return self._link

    def start(self) -> None:
        """Start it and wait until it is ready. Raises EndedError, StartupFailedError if it is not ready in time."""
        settings = self.request.settings
        spec = process_spec(
            self.request, f"unix:{self._path}", threads.environment(settings, detect.cpus(), os.environ)
        )
        listener: socket.socket = listen_unix(self._path)
        try:
            self._child = spawn(
                spec, {"link": listener}, self._clock, lambda fd: Output(fd, LogFile(self._log), self._on_line)
            )
        finally:
            listener.close()
        self._wait_until_ready(self._child)
        self._link = Link(self._path, self.request.settings)
        try:
            self._link.open()
        except (OSError, EOFError) as error:
            raise self.lost(error) from None
        self.startup_s = self._clock.now() - self._child.started_s

    def call(self, unit: Unit) -> Answered:
        """Send one unit and wait for it. Raises StartupFailedError."""
        self.send(unit)
        while True:
            for replica in readable([self]):
                for answered in replica.receive():
                    return answered

    def send(self, unit: Unit) -> None:
        """Send one unit. Raises StartupFailedError."""
        try:
            self.link.send(unit)
        except OSError as error:
            raise self.lost(error) from None

    def receive(self) -> list[Answered]:
        """What was answered, reading once. Raises StartupFailedError."""
        try:
            return self.link.receive()
        except (OSError, EOFError) as error:
            raise self.lost(error) from None

    def read_output(self) -> None:
        """Take what the model wrote: a full pipe would stop it."""
        self._talks = self._talks and self.child.output.read() >= 0

    @property
    def watched(self) -> list[int]:
        """Descriptors that a reader waits for: the link, and the output until its end."""
        return [self.link.fileno(), *([self.child.output.fileno()] if self._talks else [])]

    def lost(self, error: Exception) -> StartupFailedError:
        """The error of a replica that no longer answers."""
        self.child.output.read_rest()
        return StartupFailedError(
            f"{self.request.target} did not answer a call: {error or type(error).__name__}"
            + "".join(f"\n  {line}" for line in self.child.output.tail.splitlines()[-5:])
        )

    def end(self) -> None:
        """Kill it and its group, if it was started."""
        if self._link is not None:
            self._link.close()
        if self._child is not None:
            self._child.kill()
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._child.close()
            self._child = None

    def _wait_until_ready(self, child: Child) -> None:
        limit_s = self.request.settings.load_timeout
        deadline = child.started_s + limit_s
        watched = [child.channel.fileno(), child.output.fileno()]
        while (left := deadline - self._clock.now()) > 0:
            ready, _, _ = select.select(watched, [], [], left)
            if child.output.fileno() in ready and child.output.read() < 0:
                watched.remove(child.output.fileno())
                self._talks = False
            if child.channel.fileno() not in ready:
                continue
            for raw in child.channel.receive():
                message = messages.parse(raw)
                if isinstance(message, messages.Stage):
                    self._on_stage(message.stage, message.seconds)
                elif isinstance(message, messages.Ready):
                    self.info = message.info
                    return
                elif isinstance(message, messages.Failed):
                    child.said = (message.reason, message.message)
            if not child.channel.open:
                raise EndedError(self._ended(child))
        raise StartupFailedError(f"cannot serve {self.request.target}: not ready after {limit_s:g} s")

    def _ended(self, child: Child) -> LastExit:
        dead = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # not reaped: end() still kills its group
        assert dead is not None
        child.output.read_rest()
        exited = dead.si_code == os.CLD_EXITED
        code, number = (dead.si_status, None) if exited else (None, signal.Signals(dead.si_status))
        return child.last_exit(code, number, stopped=False, oom=False)


def readable(replicas: Sequence[TrialReplica]) -> list[TrialReplica]:
    """Wait, at most `_LOOK_S`, for something on their links; what they write meanwhile is taken. Raises
    StartupFailedError if a call is overdue.
    """
    watched = [fd for replica in replicas for fd in replica.watched]
    ready, _, _ = select.select(watched, [], [], _LOOK_S)
    found = []
    for replica in replicas:
        link, *output = replica.watched
        if output and output[0] in ready:
            replica.read_output()
        if link in ready:
            found.append(replica)
        elif (late := replica.link.overdue(time.monotonic())) is not None:
            raise StartupFailedError(f"{late.what} was not answered within {replica.request.settings.timeout:g} s")
    return found
