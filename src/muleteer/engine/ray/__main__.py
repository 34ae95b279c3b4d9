"""`python -m muleteer.engine.ray CONFIG`: the bridge between controller and cluster, kept by the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import msgspec

from muleteer.base.clock import MonotonicClock
from muleteer.base.limits import CONTROL_LINE_BYTES_MAX, RAY_ORPHAN_S
from muleteer.engine.ray.bridge import Bridge
from muleteer.engine.ray.cluster import Cluster, Hung
from muleteer.engine.ray.host import machine
from muleteer.wire.lines import LineDecoder, encode_line

ENGINE = "engine"
"""Name of the listening socket in MULETEER_FDS."""
_LAST_WORD_S = 0.5
"""For the reason to be read before the connection ends."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the command line holds. `address`: None: as Ray finds one. `private`: folders that are never uploaded.
    `orphan_s`: actors end when no server has watched them for so long.
    """

    address: str | None = None
    private: tuple[str, ...] = ()
    orphan_s: float = RAY_ORPHAN_S


def main() -> None:
    """The whole life of the bridge."""
    numbers = msgspec.json.decode(os.environ.pop("MULETEER_FDS", "{}"), type=dict[str, int])
    if len(sys.argv) != 2 or not {"control", ENGINE} <= set(numbers):
        sys.exit("muleteer.engine.ray is started by `muleteer serve --engine ray`, not by hand")
    config = msgspec.json.decode(sys.argv[1].encode(), type=Config)
    sockets = {name: socket.socket(fileno=number) for name, number in numbers.items()}
    for each in sockets.values():
        each.set_inheritable(False)
    from setproctitle import setproctitle

    setproctitle("muleteer: ray bridge")
    asyncio.run(_live(config, sockets))
    os._exit(0)  # Ray's threads have no say in how long this takes


async def _live(config: Config, sockets: dict[str, socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: _fail(context))
    told_to_end = asyncio.Event()

    def take_signals() -> None:
        loop.add_signal_handler(signal.SIGTERM, told_to_end.set)

    reader, writer = await asyncio.open_unix_connection(sock=sockets["control"])
    bridge = Bridge(
        sockets[ENGINE],
        Cluster(config.address, config.private, orphan_s=config.orphan_s),
        machine=machine(),
        clock=MonotonicClock(),
        on_joined=take_signals,
        notice=lambda text: writer.write(encode_line({"type": "notice", "text": text})),
    )
    asyncio.ensure_future(_follow_supervisor(reader, bridge))  # noqa: RUF006  it ends this process
    serving = asyncio.ensure_future(bridge.run())
    ending = asyncio.ensure_future(told_to_end.wait())
    take_signals()
    writer.write(encode_line({"type": "ready", "info": {}}))
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    if told_to_end.is_set():
        await bridge.stop_all()
        return
    try:
        serving.result()
    except Hung:
        await asyncio.sleep(_LAST_WORD_S)
        os._exit(1)  # the supervisor starts another, after a pause


async def _follow_supervisor(reader: asyncio.StreamReader, bridge: Bridge) -> None:
    """Take its aborts. Its end is ours; the replicas stay for a server that comes back."""
    lines = LineDecoder(CONTROL_LINE_BYTES_MAX)
    while data := await reader.read(4096):
        for message in lines.feed(data):
            if message["type"] == "abort":
                bridge.abort(message["process"], message["pid"], message["reason"])
    os._exit(70)


def _fail(context: dict[str, object]) -> None:
    """A fault in a task: end, so that the supervisor starts one that has none."""
    import traceback

    print(context.get("message"), file=sys.stderr)
    if isinstance(error := context.get("exception"), BaseException):
        traceback.print_exception(error)
    os._exit(1)


if __name__ == "__main__":
    main()
