"""One server in this process: takes the run directory and the port, writes what is declared, becomes the supervisor.
Must not know flags, nor whether it runs in the foreground.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from muleteer import __version__
from muleteer.base.clock import MonotonicClock
from muleteer.base.errors import UsageError
from muleteer.cli.flags import run_dir_flag
from muleteer.cli.foreground import Later
from muleteer.cli.narrate import Narrator
from muleteer.cli.output import Paint
from muleteer.cli.probe import GIVEN_UP, NO_ROOM, Probe
from muleteer.client.admin import user
from muleteer.spec.address import EVERYWHERE, url_of
from muleteer.spec.settings import Declared, ServerSettings
from muleteer.spec.start import Start
from muleteer.supervise import events
from muleteer.supervise.process import ProcessSpec
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.sockets import listen_tcp, listen_tcp_together
from muleteer.supervise.supervisor import Supervisor

CONTROLLER = "controller"
RAY = "ray"
HTTP = "http"
ADMIN_TCP = "admin_tcp"
"""Names of listening sockets, for the supervisor and for MULETEER_FDS."""
_MARGIN_S = 2.0
"""What a gateway may need over drain delay and grace, before it is killed."""
_MARGIN_RAY_S = 20.0
"""What ending actors may need over the grace of their replicas."""


class Task(NamedTuple):
    """What one server is to do.

    Attributes:
        declared: what is served, and with which settings.
        what: the command, for the history.
        restored: it is what was declared last, in an earlier life: then one model that fails does not stop the others.
        tether: a descriptor whose end stops the server, or None.
    """

    declared: Declared
    what: str = "serve"
    restored: bool = False
    tether: int | None = None


class Server:
    """One server, in this process.

    Args:
        task: what to serve; the port may be 0.
        say: takes one line for the person; must not block.
        paint: colours it.
        show_output: whether lines of the processes are shown too (they are in their logs anyway).
        on_serving: called once, when requests are answered, with what is wrong all the same: backends for which there
            is no room beside the others, one line each.
        lend_timer: called once, with what runs a call after some seconds.
    """

    def __init__(
        self,
        task: Task,
        *,
        say: Callable[[str], None],
        paint: Paint,
        show_output: bool = True,
        on_serving: Callable[[list[str]], None] = lambda _left_out: None,
        lend_timer: Callable[[Later], None] = lambda _: None,
    ) -> None:
        self._task = task
        self._declared = task.declared
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
        listening: dict[str, socket.socket] = {}
        try:
            https = listen_tcp_together(server.host, server.port, len(gateway_names(server)))
            listening |= zip(_http_names(server), https, strict=True)
            bound = msgspec.structs.replace(server, port=https[0].getsockname()[1])
            if server.admin_port is not None:
                listening[ADMIN_TCP] = listen_tcp(server.admin_host, server.admin_port)
                bound = msgspec.structs.replace(bound, admin_port=listening[ADMIN_TCP].getsockname()[1])
            self._declared = msgspec.structs.replace(self._declared, server=bound)
            directory.publish(bound.host, bound.port)
            write_start(directory.path, self._start())
        except (OSError, UsageError) as error:
            for each in listening.values():
                each.close()
            directory.close()
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"cannot write to the run directory {directory.path}: {error.strerror}") from None
        return self._supervise(directory, listening)

    def _start(self) -> Start:
        return Start(
            start_id=uuid.uuid4().hex,
            who=f"cli:{user()}",
            what=self._task.what,
            declared=None if self._task.restored else self._declared,
            server=self._declared.server,
        )

    def _supervise(self, directory: RunDirectory, listening: dict[str, socket.socket]) -> int:
        server = self._declared.server

        def on_event(event: events.Event) -> None:
            if self._show_output or not isinstance(event, events.Output):
                narrator(event)

        def on_settled() -> None:
            probe.start()

        def on_yes() -> None:
            narrator.serving(run_dir_flag(server.run_dir, os.environ))
            left_out = {} if self._task.restored else narrator.left_out
            self._on_serving([f"{name} is not served: {why}" for name, why in left_out.items()])

        def on_failure() -> None:
            supervisor.stop("the start failed")

        narrator = Narrator(
            self._declared,
            url_of(server.host, server.port),
            clock=MonotonicClock(),
            paint=self._paint,
            say=self._say,
            on_settled=on_settled,
            on_failure=on_failure,
            forgiving=self._task.restored,
        )
        narrator.banner(__version__, str(directory.path), os.getpid())

        supervisor = Supervisor(
            directory, processes(server), sockets=listening, on_event=on_event, tether=self._task.tether
        )
        self._lend_timer(supervisor.after)
        host, port = listening[HTTP].getsockname()[:2]
        probe = Probe(
            listening[HTTP].family,
            (EVERYWHERE.get(host, host), port),
            supervisor.after,
            on_yes,
            unmanned=narrator.unmanned(),
            given_up=NO_ROOM if narrator.waits_for_all else GIVEN_UP,
        )
        try:
            status = supervisor.run()
        finally:
            probe.close()
        if narrator.failure is not None:
            raise narrator.failure
        self._say("stopped")
        return status


def processes(server: ServerSettings) -> tuple[ProcessSpec, ...]:
    """Controller, gateways, and the bridge to a Ray cluster if there is one; the controller asks for the replicas.

    `-P`: files of the user must not shadow ours.
    """
    run_dir = server.run_dir
    gateways = gateway_names(server)
    return (
        *([_ray_bridge(server)] if server.engine == "ray" else []),
        ProcessSpec(
            id=CONTROLLER,
            argv=_module("muleteer.control", {"run_dir": run_dir, "gateways": gateways}),
            sockets={
                "admin": f"unix:{run_dir}/admin.sock",
                **({ADMIN_TCP: ADMIN_TCP} if server.admin_port is not None else {}),
            },
            stop_rank=2,
        ),
        *(_gateway(number, name, server) for number, name in enumerate(gateways)),
    )


def gateway_names(server: ServerSettings) -> list[str]:
    """Of the gateways on this machine."""
    return [f"gateway-{number}" for number in range(server.gateways if isinstance(server.gateways, int) else 1)]


def _http_names(server: ServerSettings) -> list[str]:
    """Of their listening sockets, in the same order."""
    return [HTTP, *(f"{HTTP}-{number}" for number in range(1, len(gateway_names(server))))]


def _gateway(number: int, name: str, server: ServerSettings) -> ProcessSpec:
    """Each has its own line on the one port, and takes over what another one leaves waiting."""
    https = _http_names(server)
    own = https.pop(number)
    config = {
        "name": name,
        "run_dir": server.run_dir,
        "drain_delay": server.drain_delay,
        "grace": server.grace,
        "debug": server.debug,
    }
    return ProcessSpec(
        id=name,
        argv=_module("muleteer.gateway", config),
        sockets={
            HTTP: own,
            **{f"other-{other}": other for other in https},
            "gateway": f"unix:{server.run_dir}/{name}.sock",
        },
        grace_s=server.drain_delay + server.grace + _MARGIN_S,
        stop_rank=0,
    )


def _ray_bridge(server: ServerSettings) -> ProcessSpec:
    """Between controller and cluster. It stops where replicas do, and ends them."""
    return ProcessSpec(
        id=RAY,
        argv=_module(
            "muleteer.engine.ray", {"address": server.ray_address, "private": [server.run_dir, server.state_dir]}
        ),
        sockets={"engine": f"unix:{server.run_dir}/ray.sock"},
        grace_s=server.grace + _MARGIN_RAY_S,
        stop_rank=1,
        takes_aborts=True,
    )


def write_start(directory: Path, start: Start) -> None:
    """`declared.json` for the controller, private: it may hold a token; a snapshot of an earlier server is removed.

    Raises OSError.
    """
    aside = directory / "declared.tmp"
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    aside.write_bytes(msgspec.json.encode(start))
    aside.replace(directory / "declared.json")
    (directory / "snapshot.json").unlink(missing_ok=True)


def _module(name: str, config: dict[str, object]) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", name, msgspec.json.encode(config).decode())
