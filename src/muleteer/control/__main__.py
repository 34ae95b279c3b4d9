"""`python -m muleteer.control CONFIG`: the controller process, put together. CONFIG: `{"run_dir": …}`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from setproctitle import setproctitle

from muleteer.base.clock import MonotonicClock
from muleteer.control.admin import AdminServer
from muleteer.control.controller import Controller
from muleteer.control.line_stream import LineStream
from muleteer.control.proc import age_s
from muleteer.engine.local import LocalEngine
from muleteer.spec.address import url_of
from muleteer.spec.settings import Declared
from muleteer.supervise.process import ProcessStatus
from muleteer.telemetry.log import log

if TYPE_CHECKING:
    from muleteer.control.status import Server


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the command line holds. `gateways`: names; each has its control socket `NAME.sock` in the run directory."""

    run_dir: str
    gateways: tuple[str, ...] = ("gateway-0",)


class ControlProcess:
    """Controller, engine and admin API around one control channel.

    Args:
        control: the channel to the supervisor.
        admin: listening socket of the admin API; None leaves it out.
    """

    def __init__(self, config: Config, declared: Declared, control: socket.socket, admin: socket.socket | None) -> None:
        self._config = config
        self._control = control
        self._admin = AdminServer(admin, self, self._admin_failed) if admin is not None else None
        self._channel = LineStream(self._receive, self._supervisor_gone)
        self._engine = LocalEngine(self._channel.send, config.run_dir)
        self._processes: dict[str, ProcessStatus] = {}
        self._controller = Controller(
            declared,
            self._engine,
            run_dir=config.run_dir,
            gateways=config.gateways,
            notice=self._notice,
            clock=MonotonicClock(),
        )

    async def run(self) -> None:
        """Control until SIGTERM."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=self._control)
        controlling = asyncio.create_task(self._controller.run(self._published))
        loop.add_signal_handler(signal.SIGTERM, controlling.cancel)
        with suppress(asyncio.CancelledError):
            await controlling
        if self._admin is not None:
            await self._admin.close()

    async def status(self) -> dict[str, Any]:
        """See `admin.Control`."""
        from muleteer.control.status import build  # with the admin API, when somebody asks

        gateways = await self._controller.publisher.gateway_statistics()
        return build(
            self._server(), self._controller.declared, self._controller.statistics(), gateways, self._processes
        )

    def problems(self) -> dict[str, str]:
        """See `admin.Control`."""
        return self._controller.problems.statistics()

    def retry(self, name: str) -> list[str] | None:
        """See `admin.Control`."""
        return self._controller.retry(name)

    def _published(self) -> None:
        self._channel.send({"type": "ready", "info": {}})
        if self._admin is not None:
            self._admin.open()

    def _admin_failed(self, error: BaseException) -> None:
        log("the admin API ended", error=str(error))
        os._exit(1)  # the supervisor starts us afresh, and the clients wait in the backlog

    def _notice(self, text: str) -> None:
        self._channel.send({"type": "notice", "text": text})

    def _receive(self, message: dict[str, Any]) -> None:
        self._engine.receive(message)
        rows = message.get("processes") if message["type"] == "processes" else [message.get("process")]
        for row in rows or ():
            if row is None:
                continue
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
        return Server(
            pid=pid,
            uptime_s=age_s(pid),
            address=url_of(lock.host, lock.port) if lock is not None and lock.port else None,
        )


def main() -> int:
    """Run as a child of the supervisor. Returns the exit status."""
    given = os.environ.get("MULETEER_FDS")
    if given is None or len(sys.argv) != 2:
        sys.stderr.write("muleteer.control is started by the supervisor: run `muleteer serve`\n")
        return 2
    descriptors = msgspec.json.decode(given, type=dict[str, int])
    try:
        config = msgspec.json.decode(sys.argv[1], type=Config)
        declared = msgspec.json.decode(Path(config.run_dir, "declared.json").read_bytes(), type=Declared)
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"muleteer.control cannot start: {error}\n")
        return 1
    setproctitle("muleteer: controller")
    control = socket.socket(fileno=descriptors["control"])
    admin = socket.socket(fileno=descriptors["admin"]) if "admin" in descriptors else None
    asyncio.run(ControlProcess(config, declared, control, admin).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
