"""`python -m muleteer.gateway CONFIG`: serve HTTP in front of the replicas that the snapshot names."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys

import msgspec
import uvloop
from setproctitle import setproctitle

from muleteer.gateway.life import GatewayConfig, Life
from muleteer.spec.secret import SECRET_VARIABLE


def main() -> None:
    """The whole life of a gateway."""
    config, sockets = _read_arguments()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    setproctitle(f"muleteer: {config.name}")
    gc.collect()
    gc.freeze()  # what was imported is never garbage: no collection walks it again
    uvloop.run(Life(config, sockets).run())


def _read_arguments() -> tuple[GatewayConfig, dict[str, socket.socket]]:
    inherited = os.environ.pop("MULETEER_FDS", "")
    if not inherited or len(sys.argv) != 2:
        sys.exit("muleteer.gateway is started by `muleteer serve`, not by hand: MULETEER_FDS or CONFIG is missing")
    try:
        numbers = msgspec.json.decode(inherited, type=dict[str, int])
        config = msgspec.json.decode(sys.argv[1].encode(), type=GatewayConfig)
        config = msgspec.structs.replace(config, secret=os.environ.pop(SECRET_VARIABLE, ""))
    except msgspec.DecodeError as error:
        sys.exit(f"MULETEER_FDS or CONFIG of muleteer.gateway is wrong: {error}")
    missing = {"control", "http", "gateway"} - numbers.keys()
    if missing:
        sys.exit(f"MULETEER_FDS of muleteer.gateway lacks {', '.join(sorted(missing))}")
    return config, {name: socket.socket(fileno=number) for name, number in numbers.items()}


if __name__ == "__main__":
    main()
