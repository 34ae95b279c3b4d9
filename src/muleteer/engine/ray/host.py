"""`python -m muleteer.engine.ray.host`: keeps one replica on a node of the cluster. Single-threaded; knows no Ray.

Beside the actor that started it, as the supervisor is beside a controller, with the same parts: it holds the TCP
listener, so the address outlives the model; it starts the model's process, restarts it, and says what comes of it.
Orders come as JSON lines on stdin, rows go out on stdout; the first line in says what to keep. The end of stdin is the
end of all.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from muleteer import __version__
from muleteer.base.clock import MonotonicClock
from muleteer.base.errors import UsageError, WireError
from muleteer.base.limits import CONTROL_LINE_BYTES_MAX
from muleteer.engine import gpus, threads
from muleteer.engine.launch import process_spec, replica_status
from muleteer.engine.port import ReplicaRequest
from muleteer.spec.secret import SECRET_VARIABLE
from muleteer.supervise import events
from muleteer.supervise.child import become_subreaper
from muleteer.supervise.kept import KeptProcess, Request, Surroundings
from muleteer.supervise.loop import Loop
from muleteer.supervise.oom import OomWitness, counter_files
from muleteer.supervise.orphans import kill_orphans
from muleteer.supervise.process import LastExit, ProcessSpec
from muleteer.supervise.reaping import reap
from muleteer.supervise.sockets import listen_tcp
from muleteer.supervise.states import State
from muleteer.wire.lines import LineDecoder, encode_line
from muleteer.wire.tls import server_context, tls_wanted

LISTENER = "link"


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The first line.

    Attributes:
        version: of the muleteer that asks.
        request: the replica, as plain values: another version may shape it otherwise.
        secret: what a gateway must show.
        shipped: the model's folder came with the actor and is `folder`; else it is where `request` says.
        folder: the actor's working directory.
        address: of this node, to listen on.
    """

    version: str
    request: dict[str, Any]
    secret: str
    shipped: bool
    folder: str
    address: str


class Host:
    """One process, from its first life to its last; a subclass says which. `run()` once.

    Args:
        address: of this node.
        orders, rows: descriptors, to read from and to write to.
    """

    def __init__(self, address: str, orders: int, rows: int) -> None:
        self._address = address
        self._orders = os.fdopen(orders, "rb", buffering=0)
        self._rows = rows
        self._clock = MonotonicClock()
        self._loop = Loop(self._clock)
        self._oom = OomWitness(counter_files())
        self._decoder = LineDecoder(CONTROL_LINE_BYTES_MAX)
        self._kept: KeptProcess | None = None
        self._over = False

    def run(self) -> None:
        """Until it was stopped, or stdin ended. Nothing is left then."""
        become_subreaper()
        self._loop.open((signal.SIGCHLD,), self._on_child)
        self._loop.watch(self._orders, self._on_order)
        try:
            with listen_tcp(self._address, 0) as listener:
                self._keep(listener)
                while not self._over:
                    self._loop.turn()
        finally:
            if self._kept is not None:
                self._kept.abandon()
            kill_orphans(set())
            self._loop.close()

    def what(self, listener: socket.socket) -> tuple[ProcessSpec, dict[str, socket.socket]]:
        """What to keep, and the sockets that it may ask for; `listener` is on this node. Raises UsageError."""
        raise NotImplementedError

    def row(self, kept: KeptProcess) -> dict[str, Any]:
        """What to tell of it."""
        raise NotImplementedError

    def _keep(self, listener: socket.socket) -> None:
        spec, given = self.what(listener)
        around = Surroundings(
            self._loop,
            self._clock,
            random.random,
            Path(os.devnull),  # no file of ours: Ray keeps what the actor prints, and status the end of it
            given,
            _say,
            self._on_change,
            _refuse,
        )
        self._kept = KeptProcess(spec, around)
        self._kept.start()

    def _on_change(self, kept: KeptProcess) -> None:
        if kept.state is State.STOPPED:
            self._over = True
        line = encode_line({**self.row(kept), "machine": machine()})
        while line:
            line = line[os.write(self._rows, line) :]

    def _on_order(self) -> None:
        data = self._orders.read(65536)
        if not data:
            self._over = True
            return
        kept = self._kept
        for order in self._decoder.feed(data):
            if kept is None or kept.state is State.STOPPED:
                return
            if order["type"] == "stop":
                kept.stop()
            elif order["type"] == "retry":
                kept.retry()
            elif order["type"] == "abort":
                kept.abort(order["pid"], order["reason"])

    def _on_child(self, _number: signal.Signals) -> None:
        for _ in reap(self._of_pid, self._oom, self._clock):
            pass

    def _of_pid(self, pid: int) -> KeptProcess | None:
        kept = self._kept
        return kept if kept is not None and kept.child is not None and kept.child.pid == pid else None


class ReplicaHost(Host):
    """Keeps a replica."""

    def __init__(self, config: HostConfig, orders: int, rows: int) -> None:
        super().__init__(config.address, orders, rows)
        self._config = config
        self._request = msgspec.convert(config.request, ReplicaRequest)

    def what(self, listener: socket.socket) -> tuple[ProcessSpec, dict[str, socket.socket]]:
        """See Host."""
        request = self._request
        if self._config.shipped:
            request = msgspec.structs.replace(request, base_dir=self._config.folder)
        if tls_wanted():
            server_context()  # what it would fail for again and again is said once
        scheme = "tls" if tls_wanted() else "tcp"
        environment = threads.environment(request.settings, os.cpu_count() or 1, os.environ)
        spec = process_spec(request, address_of(listener, scheme), environment, _given_gpus(request.settings.gpus))
        env = {**spec.env, SECRET_VARIABLE: self._config.secret}
        return msgspec.structs.replace(spec, sockets={LISTENER: LISTENER}, env=env), {LISTENER: listener}

    def row(self, kept: KeptProcess) -> dict[str, Any]:
        """See Host."""
        status = replica_status(kept.status())
        if self._config.shipped:
            status = msgspec.structs.replace(status, files=tuple(self._own(file) for file in status.files))
        found: dict[str, Any] = msgspec.to_builtins(status)
        return found

    def _own(self, file: str) -> str:
        """A shipped file by its path where it came from: that is where it will change."""
        folder = Path(self._config.folder)
        path = Path(file)
        return str(Path(self._request.base_dir) / path.relative_to(folder)) if path.is_relative_to(folder) else file


def address_of(listener: socket.socket, scheme: str = "tcp") -> str:
    """As it is dialled: `tcp:host:port`, or `tls:host:port`."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}:[{host}]:{port}" if ":" in host else f"{scheme}:{host}:{port}"


def first_line() -> tuple[bytes, int]:
    """What the actor says first, and where rows go. Nothing but rows may go there, so stdout becomes stderr."""
    rows = os.dup(1)
    os.dup2(2, 1)
    os.set_inheritable(rows, False)
    first = b""
    while not first.endswith(b"\n"):
        byte = os.read(0, 1)  # no more: what follows is for the loop
        if not byte:
            sys.exit(0)
        first += byte
    return first, rows


def main() -> None:
    """Read the first line, then keep."""
    first, rows = first_line()
    config = msgspec.json.decode(first, type=HostConfig)
    reason = ""
    if config.version != __version__:
        reason = f"it has muleteer {__version__}, the server {config.version}: install the same on every node"
    else:
        from setproctitle import setproctitle

        setproctitle(f"muleteer: ray host {config.request['id']}")
        try:
            ReplicaHost(config, 0, rows).run()
        except UsageError as error:
            reason = str(error)
    if reason:
        os.write(rows, encode_line(failed(config.request["id"], reason)))


def failed(id: str, reason: str) -> dict[str, Any]:
    """The row of a process that cannot be kept here at all."""
    last_exit = LastExit(reason="unfit_node", message=reason)
    return {"id": id, "state": "failed", "last_exit": msgspec.to_builtins(last_exit)}


def machine() -> str:
    """Two processes with the same text share their process ids."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    return ""


def _given_gpus(amount: float) -> gpus.Taken | None:
    """The devices that Ray has assigned to the actor."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return gpus.Taken(tuple(given.split(",")), min(amount, 1.0)) if amount and given else None


def _say(event: events.Event) -> None:
    if isinstance(event, events.Output):
        print(event.text, file=sys.stderr, flush=True)


def _refuse(_kept: KeptProcess, request: Request) -> None:
    raise WireError(f"a process here may not ask for {type(request).__name__.lower()}")


if __name__ == "__main__":
    main()
