"""Opens the connection to a gateway's control socket, wherever it is. Must not know what is said on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from muleteer.base.limits import LINK_DIAL_S
from muleteer.engine.line_stream import LineStream
from muleteer.wire.tcp import tune
from muleteer.wire.tls import client_context


async def connect(address: str, new_stream: Callable[[], LineStream]) -> LineStream:
    """Open `unix:path`, `tcp:host:port` or `tls:host:port`; the kernel finds out if the other end falls silent.

    Raises OSError, UsageError where our certificate is of no use.
    """
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        return (await loop.create_unix_connection(new_stream, rest))[1]
    host, _, port = rest.rpartition(":")
    try:
        async with asyncio.timeout(LINK_DIAL_S):
            context = client_context() if scheme == "tls" else None
            transport, stream = await loop.create_connection(
                new_stream, host.strip("[]"), int(port), ssl=context, server_hostname="" if context else None
            )
    except TimeoutError as error:
        raise OSError(f"{rest} does not answer") from error
    tune(transport.get_extra_info("socket"))
    return stream
