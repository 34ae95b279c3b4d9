"""The controller process, put together: declaration, controller, engine, rollouts and admin API around one control
channel to the supervisor.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from muleteer.base.clock import MonotonicClock
from muleteer.base.limits import STATE_RETRY_S
from muleteer.control.admin.security import Gate, tcp_gate
from muleteer.control.admin.server import AdminServer, Listener
from muleteer.control.change import UnobservedError
from muleteer.control.commands import Commands
from muleteer.control.controller import Controller
from muleteer.control.declaration import Declaration
from muleteer.control.fleet import Hindrance, failed_for_good
from muleteer.control.proc import age_s
from muleteer.control.publish import Elsewhere
from muleteer.control.rolling import Rolling
from muleteer.engine.line_stream import LineStream
from muleteer.engine.local import LocalEngine
from muleteer.spec.address import url_of
from muleteer.spec.secret import derive
from muleteer.supervise.process import ProcessStatus
from muleteer.telemetry.log import log

if TYPE_CHECKING:
    from muleteer.control.explain import Explanation
    from muleteer.control.status import Server
    from muleteer.engine.ray.engine import RayEngine

ADMIN, ADMIN_TCP = "admin", "admin_tcp"
"""Names of the listening sockets in MULETEER_FDS; the second only where the admin API has a port."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the command line holds. `gateways`: names; each has its control socket `NAME.sock` in the run directory."""

    run_dir: str
    gateways: tuple[str, ...] = ("gateway-0",)


class ControlProcess:
    """One controller's life.

    Args:
        config: the command line's.
        declaration: open.
        sockets: `control`, the channel to the supervisor, and the listening sockets of the admin API.
    """

    def __init__(self, config: Config, declaration: Declaration, sockets: dict[str, socket.socket]) -> None:
        self._config = config
        self._control = sockets["control"]
        self._processes: dict[str, ProcessStatus] = {}
        self._declaration = declaration
        self._key = b""
        self._elsewhere: set[str] = set()
        self._channel = LineStream(self._receive, self._supervisor_gone)
        self._engine = self._make_engine()
        clock = MonotonicClock()
        self._controller = Controller(
            declaration.declared,
            self._engine,
            run_dir=config.run_dir,
            gateways=config.gateways,
            notice=self._notice,
            clock=clock,
            problems=declaration.problems,
            server=declaration.server,
            cookie_key=declaration.cookie_key,
            awake=self._versions_wanted,
            own_pids=self._own_pids,
            unservable=self._unservable,
        )
        self.rolling = Rolling(
            declaration,
            statistics=self._controller.publisher.gateway_statistics,
            able=self._able,
            follow=self._controller.declare,
            notice=self._notice,
            clock=clock,
        )
        self.commands = Commands(declaration, self.rolling, self._controller.declare)
        self._admin = AdminServer(_listeners(sockets, declaration), self, self._admin_failed)

    def _make_engine(self) -> LocalEngine | RayEngine:
        run_dir, server = self._config.run_dir, self._declaration.server
        if server.engine == "local":
            return LocalEngine(self._channel.send, run_dir, server)
        from muleteer.engine.ray.engine import RayEngine
        from muleteer.engine.ray.key import keep_key

        key = keep_key([Path(server.state_dir or run_dir), Path(run_dir)])
        self._key = key
        wish = None
        if server.gateways == "every_node":
            names = ("host", "port", "drain_delay", "grace", "debug")
            wish = {name: getattr(server, name) for name in names}
        return RayEngine(
            f"{run_dir}/ray.sock", key, self._report_ray, gateways=wish, on_gateways=self._gateways_elsewhere
        )

    def _own_pids(self) -> set[int]:
        """Supervisor, controller, gateways, and what replicas are forked from."""
        return {os.getppid(), *(row.pid for row in self._processes.values() if row.pid is not None)}

    def _gateways_elsewhere(self, rows: list[dict[str, Any]]) -> None:
        """All that nodes of the cluster have; those whose host lives are steered."""
        problems = self._declaration.problems
        for row in rows:
            if row["why"]:
                problems.begin(row["name"], f"{row['name']}: {row['why']}")
            else:
                problems.end(row["name"])
        for name in self._elsewhere - {row["name"] for row in rows}:
            problems.end(name)
        self._elsewhere = {row["name"] for row in rows}
        found = [
            Elsewhere(row["name"], row["control"], row["url"], derive(self._key, row["name"]))
            for row in rows
            if row["control"]
        ]
        self._controller.follow_gateways(found, self._engine.receive)

    def _report_ray(self, text: str) -> None:
        if text:
            self._declaration.problems.begin("ray", text)
        else:
            self._declaration.problems.end("ray")

    async def run(self) -> None:
        """Control until SIGTERM."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=self._control)
        controlling = asyncio.create_task(self._control_for_ever())
        loop.add_signal_handler(signal.SIGTERM, controlling.cancel)
        with suppress(asyncio.CancelledError):
            await controlling
        await self._admin.close()

    async def status(self) -> dict[str, Any]:
        """See `admin.Control`."""
        from muleteer.control.status import build  # with the admin API, when somebody asks

        gateways = await self._controller.publisher.gateway_statistics()
        return build(
            self._server(),
            self._controller.declared,
            self._controller.statistics(),
            gateways,
            self._processes,
            revision=self._declaration.revision,
            rollouts={view.endpoint: view for view in self.rolling.views()},
        )

    async def explain(self, name: str) -> Explanation | None:
        """See `admin.Control`."""
        from muleteer.control.explain import explain_named

        gateways = await self._controller.publisher.gateway_statistics()
        return explain_named(name, self._controller.declared, self._controller.statistics(), gateways)

    def problems(self) -> dict[str, str]:
        """See `admin.Control`."""
        return self._declaration.problems.statistics()

    def retry(self, name: str) -> list[str] | None:
        """See `admin.Control`."""
        if not self._controller.adopted.is_set():
            raise UnobservedError("what runs is not known yet, so nothing can be retried; `muleteer status` says why")
        return self._controller.retry(name)

    def shutdown(self) -> None:
        """See `admin.Control`."""
        self._channel.send({"type": "shutdown"})

    async def _control_for_ever(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._controller.run(self._answering))
            tasks.create_task(self._roll())
            tasks.create_task(self._mend_state())

    async def _roll(self) -> None:
        await self._controller.adopted.wait()  # a share that is not published yet is not to be judged
        await self.rolling.run()

    async def _mend_state(self) -> None:
        """While the state file cannot be used, try again; once it can be read, all begins with what it holds."""
        while True:
            await asyncio.sleep(STATE_RETRY_S)
            if self._declaration.retry():
                log("the state file can be read: starting over with what it holds")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _able(self, name: str) -> bool | str:
        """See `Rolling`."""
        found = self._controller.backend_statistics(name)
        if found is None:
            return f"{name} was deleted"
        reason = failed_for_good(found)
        if reason is not None:
            return f"{name} does not start: {reason}"
        return any(
            replica.status.state == "ready" and replica.status.generation == found.generation and not replica.leaving
            for replica in found.replicas
        )

    def _versions_wanted(self) -> set[str]:
        return self.rolling.versions_wanted()

    def _answering(self) -> None:
        self._channel.send({"type": "ready", "info": {}})
        self._admin.open()

    def _admin_failed(self, error: BaseException) -> None:
        log("the admin API ended", error=str(error))
        os._exit(1)  # the supervisor starts us afresh, and the clients wait in the backlog

    def _notice(self, text: str) -> None:
        self._channel.send({"type": "notice", "text": text})

    def _unservable(self, backend: str, hindrance: Hindrance) -> None:
        self._channel.send({"type": "notice", "unservable": backend, **hindrance._asdict()})

    def _receive(self, message: dict[str, Any]) -> None:
        self._engine.receive(message)
        rows = message["processes"] if message["type"] == "processes" else [message["process"]]
        for row in rows:
            process = msgspec.convert(row, ProcessStatus)
            if "backend" in process.labels:
                continue
            if process.state == "stopped":
                self._processes.pop(process.id, None)
            else:
                self._processes[process.id] = process

    def _supervisor_gone(self) -> None:
        os._exit(1)  # nothing may outlive it

    def _server(self) -> Server:
        from muleteer.control.status import Server
        from muleteer.supervise.rundir import read_lock

        pid = os.getppid()
        lock = read_lock(Path(self._config.run_dir))
        told = self._declaration.server
        on_tcp = told.admin_port is not None and told.admin_token is not None
        return Server(
            pid=pid,
            uptime_s=age_s(pid),
            address=url_of(lock.host, lock.port) if lock is not None and lock.port else None,
            admin_address=url_of(told.admin_host, told.admin_port or 0) if on_tcp else None,
        )


def _listeners(sockets: dict[str, socket.socket], declaration: Declaration) -> list[Listener]:
    """Where the admin API listens. TCP without a token is not served at all."""
    found = []
    if ADMIN in sockets:
        found.append(Listener(sockets[ADMIN], Gate()))
    server = declaration.server
    if ADMIN_TCP in sockets and server.admin_token is not None:
        port = sockets[ADMIN_TCP].getsockname()[1]
        found.append(Listener(sockets[ADMIN_TCP], tcp_gate(server.admin_host, port, server.admin_token)))
    return found
