"""One server in this process: takes the run directory and the port, writes what is declared, becomes the supervisor.
Must not know flags, nor whether it runs in the foreground.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from muleteer import __version__
from muleteer.base.clock import MonotonicClock
from muleteer.base.errors import UsageError
from muleteer.cli.foreground import Later
from muleteer.cli.narrate import Narrator
from muleteer.cli.output import Paint
from muleteer.cli.probe import Probe
from muleteer.spec.address import EVERYWHERE, url_of
from muleteer.spec.run_dir import default_run_dir
from muleteer.spec.settings import Declared, ServerSettings
from muleteer.supervise import events
from muleteer.supervise.process import ProcessSpec
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.sockets import listen_tcp
from muleteer.supervise.supervisor import Supervisor

GATEWAY = "gateway-0"
CONTROLLER = "controller"
_MARGIN_S = 2.0
"""What a gateway may need over drain delay and grace, before it is killed."""


class Server:
    """One server, in this process.

    Args:
        declared: what to serve; the port may be 0.
        say: takes one line for the person; must not block.
        paint: colours it.
        show_output: whether lines of the processes are shown too (they are in their logs anyway).
        on_serving: called once, when requests are answered.
        lend_timer: called once, with what runs a call after some seconds.
    """

    def __init__(
        self,
        declared: Declared,
        *,
        say: Callable[[str], None],
        paint: Paint,
        show_output: bool = True,
        on_serving: Callable[[], None] = lambda: None,
        lend_timer: Callable[[Later], None] = lambda _: None,
    ) -> None:
        self._declared = declared
        self._say = say
        self._paint = paint
        self._show_output = show_output
        self._on_serving = on_serving
        self._lend_timer = lend_timer

    def run(self) -> int:
        """Serve until a signal; the exit status. Raises UsageError; then nothing is left running."""
        server = self._declared.server
        directory = RunDirectory(Path(server.run_dir))
        directory.open(server.host, server.port)
        try:
            listener = listen_tcp(server.host, server.port)
            bound = msgspec.structs.replace(server, port=listener.getsockname()[1])
            self._declared = msgspec.structs.replace(self._declared, server=bound)
            directory.publish(bound.host, bound.port)
            write_declared(directory.path, self._declared)
        except OSError as error:
            directory.close()
            raise UsageError(f"cannot write to the run directory {directory.path}: {error.strerror}") from None
        except UsageError:
            directory.close()
            raise
        return self._supervise(directory, listener)

    def _supervise(self, directory: RunDirectory, listener: socket.socket) -> int:
        server = self._declared.server

        def on_event(event: events.Event) -> None:
            if self._show_output or not isinstance(event, events.Output):
                narrator(event)

        def on_settled() -> None:
            probe.start()

        def on_yes() -> None:
            narrator.serving(run_dir_flag(server, os.environ))
            self._on_serving()

        def on_failure() -> None:
            supervisor.stop("a model cannot be served")

        narrator = Narrator(
            self._declared,
            url_of(server.host, server.port),
            clock=MonotonicClock(),
            paint=self._paint,
            say=self._say,
            on_settled=on_settled,
            on_failure=on_failure,
        )
        narrator.banner(__version__, str(directory.path), os.getpid())

        supervisor = Supervisor(directory, processes(server), sockets={"http": listener}, on_event=on_event)
        self._lend_timer(supervisor.after)
        host, port = listener.getsockname()[:2]
        probe = Probe(listener.family, (EVERYWHERE.get(host, host), port), supervisor.after, on_yes)
        try:
            status = supervisor.run()
        finally:
            probe.close()
        if narrator.failure is not None:
            raise narrator.failure
        self._say("stopped")
        return status


def processes(server: ServerSettings) -> tuple[ProcessSpec, ...]:
    """Controller and gateway; the controller asks for the replicas. `-P`: files of the user must not shadow ours."""
    run_dir = server.run_dir
    config = {
        "name": GATEWAY,
        "run_dir": run_dir,
        "drain_delay": server.drain_delay,
        "grace": server.grace,
        "debug": server.debug,
    }
    return (
        ProcessSpec(
            id=CONTROLLER,
            argv=_module("muleteer.control", {"run_dir": run_dir}),
            sockets={"admin": f"unix:{run_dir}/admin.sock"},
            stop_rank=2,
        ),
        ProcessSpec(
            id=GATEWAY,
            argv=_module("muleteer.gateway", config),
            sockets={"http": "http", "gateway": f"unix:{run_dir}/{GATEWAY}.sock"},
            grace_s=server.drain_delay + server.grace + _MARGIN_S,
            stop_rank=0,
        ),
    )


def write_declared(directory: Path, declared: Declared) -> None:
    """`declared.json` for the controller; a snapshot of an earlier server is removed. Raises OSError."""
    aside = directory / "declared.tmp"
    aside.write_bytes(msgspec.json.encode(declared))
    aside.replace(directory / "declared.json")
    (directory / "snapshot.json").unlink(missing_ok=True)


def run_dir_flag(server: ServerSettings, environ: Mapping[str, str]) -> str:
    """What other verbs need in order to find this server: nothing for the default directory."""
    if server.run_dir == str(Path(default_run_dir(environ)).resolve()):
        return ""
    return f" --run-dir {shlex.quote(server.run_dir)}"


def _module(name: str, config: dict[str, object]) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", name, msgspec.json.encode(config).decode())
