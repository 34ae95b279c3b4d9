"""Keeps one link to one replica's address, for as long as the address is routed. Must not know calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from muleteer.base.limits import LINK_RETRY_S
from muleteer.gateway.link import Link
from muleteer.spec.snapshot import ReplicaAddress


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
        while not self._retired:
            link = self._new_link(self.address.id)
            try:
                await connect(self.address.address, link)
            except OSError:
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


async def connect(address: str, link: Link) -> None:
    """Open `unix:/path` or `tcp:host:port`. Raises OSError."""
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        await loop.create_unix_connection(lambda: link, rest)
        return
    host, _, port = rest.rpartition(":")
    await loop.create_connection(lambda: link, host, int(port))
