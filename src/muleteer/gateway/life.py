"""The life of a gateway process, from its sockets to its exit. Must not know single requests."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec

from muleteer.base.errors import SpecError
from muleteer.base.limits import ANSWER_BYTES_MAX, FRAME_OVERHEAD_BYTES, HELLO_S_MAX, LINK_UP_S_MAX
from muleteer.gateway.aborts import Aborts
from muleteer.gateway.application import Application
from muleteer.gateway.channel import Channel
from muleteer.gateway.http.server import HttpServer
from muleteer.gateway.steering import Steering
from muleteer.spec.snapshot import Snapshot
from muleteer.telemetry.log import log
from muleteer.wire.tls import server_context, tls_wanted

_LINK_UP_POLL_S = 0.002
_OWN = frozenset({"control", "http", "gateway"})


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the command line holds.

    Attributes:
        name: e.g. `gateway-0`.
        run_dir: holds `snapshot.json`.
        drain_delay: seconds from SIGTERM, with 503 on /readyz, until the port closes.
        grace: seconds then for requests in flight.
        debug: show the model's traceback to the client.
        payload_max: the largest frame accepted from a replica, in bytes.
        secret: what the control socket asks for, where it is on a network. From the environment, never on the command
            line.
    """

    name: str
    run_dir: str
    drain_delay: float = 0.0
    grace: float = 25.0
    debug: bool = False
    payload_max: int = ANSWER_BYTES_MAX + FRAME_OVERHEAD_BYTES
    secret: str = ""


class Life:
    """One gateway process. `sockets`: inherited, by name: `control`, `http`, `gateway`; any other is the `http` of
    another gateway.
    """

    def __init__(self, config: GatewayConfig, sockets: dict[str, socket.socket]) -> None:
        self._config = config
        self._sockets = sockets
        self._channel = Channel()
        self._aborts = Aborts() if config.secret else None  # what is beside it elsewhere keeps no replicas
        self._application = Application(
            name=config.name,
            payload_max=config.payload_max,
            abort=self._aborts or self._channel.abort,
            debug=config.debug,
        )
        self._http = HttpServer(self._application)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM, and then until what is in flight is answered."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopped)
        await self._channel.open(self._sockets["control"])
        self._read_snapshot()
        await self._link_up()
        steering = await self._listen(self._sockets["gateway"])
        others = [sock for name, sock in self._sockets.items() if name not in _OWN]
        await self._http.open(self._sockets["http"], others)
        self._channel.ready()
        await self._stop.wait()

        # 1. say so: load balancers stop sending, while we still accept
        self._application.draining = True
        await asyncio.sleep(self._config.drain_delay)
        # 2. close the port, answer what is in flight
        try:
            async with asyncio.timeout(self._config.grace):
                await self._http.drain()
        except TimeoutError:
            log("requests were still open at the end of the grace", **msgspec.to_builtins(self._http.statistics()))
        # 3. leave
        await self._http.close()
        await self._application.close()
        steering.close()

    async def _listen(self, sock: socket.socket) -> asyncio.Server:
        """The control socket: a Unix one, or one on the network, with a secret."""
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            return await loop.create_unix_server(lambda: Steering(self._application, self._statistics), sock=sock)
        assert self._config.secret, "a control socket on a network needs a secret"
        strangers: set[Steering] = set()

        def steering() -> Steering:
            secret = self._config.secret
            return Steering(
                self._application, self._statistics, aborts=self._aborts, secret=secret, strangers=strangers
            )

        context = server_context() if tls_wanted() else None
        timeout_s = HELLO_S_MAX if context is not None else None
        return await loop.create_server(steering, sock=sock, ssl=context, ssl_handshake_timeout=timeout_s)

    def _stopped(self) -> None:
        if self._stop.is_set():
            os._exit(0)  # the second signal: whoever sent it will not wait
        self._stop.set()

    def _read_snapshot(self) -> None:
        """The last one published: a gateway serves without a controller."""
        path = Path(self._config.run_dir, "snapshot.json")
        try:
            self._application.apply(msgspec.json.decode(path.read_bytes(), type=Snapshot))
        except FileNotFoundError:
            pass  # the first start
        except (OSError, msgspec.MsgspecError, SpecError) as error:
            log("the snapshot in the run directory is of no use", path=str(path), error=str(error))

    async def _link_up(self) -> None:
        """Before the port opens: who waits in its backlog while a gateway is replaced must not hear `loading` from the
        new one. Replicas that are ready answer within milliseconds; for the others the port does not stay shut.
        """
        for _ in range(round(LINK_UP_S_MAX / _LINK_UP_POLL_S)):
            if self._application.linked:
                return
            await asyncio.sleep(_LINK_UP_POLL_S)

    def _statistics(self) -> dict[str, Any]:
        return {**msgspec.structs.asdict(self._application.statistics()), "http": self._http.statistics()}
