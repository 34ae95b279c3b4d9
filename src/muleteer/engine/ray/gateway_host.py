"""`python -m muleteer.engine.ray.gateway_host`: keeps one gateway on a node of the cluster, as `host` keeps a replica.

It holds two listeners over all lives of the gateway: HTTP on the port of the server, and the control socket, where
only who knows the secret is heard.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import Any

import msgspec

from muleteer import __version__
from muleteer.base.errors import UsageError
from muleteer.engine.ray.host import Host, address_of, failed, first_line
from muleteer.spec.address import url_of
from muleteer.spec.secret import SECRET_VARIABLE
from muleteer.supervise.kept import KeptProcess
from muleteer.supervise.process import ProcessSpec
from muleteer.supervise.sockets import listen_tcp
from muleteer.wire.lines import encode_line
from muleteer.wire.tls import server_context, tls_wanted

HOST = "muleteer.engine.ray.gateway_host"
_MARGIN_S = 2.0


class GatewayWish(msgspec.Struct, frozen=True, kw_only=True):
    """What every node is to have. `host`, `port`: as of the server; the others as of its gateways."""

    host: str
    port: int
    drain_delay: float
    grace: float
    debug: bool


class GatewayHostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The first line; what the actor adds for replicas is let pass. `id`: the name of the gateway; `address`: of this
    node.
    """

    version: str
    id: str
    wish: GatewayWish
    secret: str
    address: str
    folder: str


class GatewayHost(Host):
    """Keeps a gateway."""

    def __init__(self, config: GatewayHostConfig, orders: int, rows: int) -> None:
        super().__init__(config.address, orders, rows)
        self._config = config
        self._http: socket.socket | None = None
        self._info: dict[str, Any] = {}

    def what(self, listener: socket.socket) -> tuple[ProcessSpec, dict[str, socket.socket]]:
        """See Host."""
        config, wish = self._config, self._config.wish
        host = host_on(wish.host, config.address)
        self._http = listen_tcp(host, wish.port)
        shown = config.address if _any_address(host) else host
        if tls_wanted():
            server_context()  # what it would fail for again and again is said once
        scheme = "tls" if tls_wanted() else "tcp"
        self._info = {"control": address_of(listener, scheme), "url": url_of(shown, wish.port)}
        settings = {
            "name": config.id,
            "run_dir": config.folder,
            "drain_delay": wish.drain_delay,
            "grace": wish.grace,
            "debug": wish.debug,
        }
        spec = ProcessSpec(
            id=config.id,
            argv=(sys.executable, "-P", "-m", "muleteer.gateway", msgspec.json.encode(settings).decode()),
            env={SECRET_VARIABLE: config.secret},
            sockets={"http": "http", "gateway": "gateway"},
            grace_s=wish.drain_delay + wish.grace + _MARGIN_S,
        )
        return spec, {"http": self._http, "gateway": listener}

    def row(self, kept: KeptProcess) -> dict[str, Any]:
        """See Host."""
        status = kept.status()
        state = "gone" if status.state == "stopped" else status.state
        return {"id": status.id, "state": state, "pid": status.pid, "restarts": status.restarts, **self._info}


def host_on(host: str, node: str) -> str:
    """Where a gateway on another node listens: on every address, or for its own machine only, if ours does; any other
    address is one of ours, and `node` is that of the node.
    """
    return host if _any_address(host) or _loopback(host) else node


def _any_address(host: str) -> bool:
    return host.strip("[]") in ("0.0.0.0", "::")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    """Read the first line, then keep."""
    first, rows = first_line()
    config = msgspec.json.decode(first, type=GatewayHostConfig)
    if config.version != __version__:
        reason = f"it has muleteer {__version__}, the server {config.version}: install the same on every node"
        os.write(rows, encode_line(failed(config.id, reason)))
        return
    from setproctitle import setproctitle

    setproctitle(f"muleteer: ray host {config.id}")
    try:
        GatewayHost(config, 0, rows).run()
    except UsageError as error:
        os.write(rows, encode_line(failed(config.id, str(error))))


if __name__ == "__main__":
    main()
