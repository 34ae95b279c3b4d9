"""A replica that cannot be reached any more is ended at once: nobody waits for it to drain. No Ray."""

from __future__ import annotations

import asyncio

import pytest

from muleteer.engine.ray.cluster import Dead, Unavailable
from tests.ray.test_placed import SilentActor, Told

GRACE_S = 60.0
"""Longer than the test may take."""


class Lost(SilentActor):
    """Takes no order, or takes it and is lost then."""

    def __init__(self, *, takes_orders):
        super().__init__()
        self._takes_orders = takes_orders
        self.killed = False

    async def order(self, _handle, _order):
        if not self._takes_orders:
            raise Unavailable("its node is gone")
        asyncio.get_running_loop().create_task(self.refuse(Unavailable("its node is gone")))

    async def kill(self, _handle):
        if not self.killed:
            self.killed = True
            await self.refuse(Dead("killed"))


@pytest.mark.parametrize("takes_orders", [False, True])
def test_who_is_lost_is_not_waited_for(takes_orders):
    async def test():
        told = Told(Lost(takes_orders=takes_orders))
        task = asyncio.create_task(told.placed.run())
        await told.actor.tell("first", {"state": "ready", "address": "tcp:10.0.0.1:1"})
        await told.until("ready", None)
        async with asyncio.timeout(GRACE_S / 2):
            await told.placed.stop(GRACE_S)
            await task
        assert told.actor.killed
        assert told.now.state == "gone"

    asyncio.run(test())
