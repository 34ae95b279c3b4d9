"""Keeps one link to one replica's address, for as long as the address is routed. Must not know calls."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from muleteer.base.errors import UsageError
from muleteer.base.limits import LINK_DIAL_S, LINK_RETRY_S
from muleteer.gateway.link import Link
from muleteer.spec.snapshot import ReplicaAddress
from muleteer.telemetry.log import log
from muleteer.wire.tcp import tune
from muleteer.wire.tls import client_context, said


class NotSealed(OSError):
    """TLS with a replica failed, or cannot be begun here. Nothing was sent to it."""


class Dialer:
    """Dials at once after the end of a link that was ready, and every `LINK_RETRY_S` after one that was not.

    A local address is held by the supervisor over all lives of its replica, so a dial succeeds while the model still
    loads and the wait is for READY, not for the connect.

    Attributes:
        link: the current one; None between two.
    """

    def __init__(self, address: ReplicaAddress, new_link: Callable[[str], Link]) -> None:
        self.address = address
        self.link: Link | None = None
        self._new_link = new_link
        self._retired = False
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start dialling, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        """Until retired."""
        told = ""
        while not self._retired:
            link = self._new_link(self.address.id)
            link.secret = self.address.secret
            link.host = host_of(self.address.address)
            try:
                await connect(self.address.address, link)
            except OSError as error:
                if isinstance(error, NotSealed) and str(error) != told:
                    told = str(error)
                    log("replica not linked", replica=self.address.id, error=told)
                await asyncio.sleep(LINK_RETRY_S)
                continue
            except asyncio.CancelledError:
                link.close()  # it may be connected, and we not yet told
                raise
            self.link = link
            await link.ended.wait()
            self.link = None
            if not link.was_ready:
                await asyncio.sleep(LINK_RETRY_S)

    def retire(self) -> None:
        """The address is routed no longer: answer what is in flight, then close."""
        self._retired = True
        if self.link is not None:
            self.link.leave()
        elif self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Close now, calls in flight are lost."""
        self._retired = True
        if self.link is not None:
            self.link.close()
            await self.link.ended.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def host_of(address: str) -> str:
    """Of `tcp:host:port` and `tls:host:port`; empty for `unix:`."""
    scheme, _, rest = address.partition(":")
    return "" if scheme == "unix" else rest.rpartition(":")[0]


async def connect(address: str, link: Link) -> None:
    """Open `unix:/path`, `tcp:host:port` or `tls:host:port`. Raises OSError."""
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        await loop.create_unix_connection(lambda: link, rest)
        return
    host, _, port = rest.rpartition(":")
    try:
        context = client_context() if scheme == "tls" else None
    except UsageError as error:
        raise NotSealed(str(error)) from None
    try:
        async with asyncio.timeout(LINK_DIAL_S):
            new = asyncio.Protocol if context is not None else lambda: link
            transport, _ = await loop.create_connection(new, host.strip("[]"), int(port))
    except TimeoutError as error:
        raise OSError(f"{rest} does not answer") from error
    tune(transport.get_extra_info("socket"))
    if context is None:
        return
    try:  # without a deadline of ours: a replica that still loads shakes hands later
        sealed = await loop.start_tls(transport, link, context)
    except ssl.SSLError as error:
        raise NotSealed(f"TLS with {rest} failed: {said(error)}") from None
    if sealed is None:
        raise OSError(f"{rest} closed the connection")
    link.connection_made(sealed)
