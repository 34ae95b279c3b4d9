"""One dialer by itself: what it does when its address goes while it dials."""

import asyncio

import pytest

from muleteer.base.clock import MonotonicClock
from muleteer.gateway.dial import Dialer
from muleteer.gateway.link import Link
from muleteer.spec.snapshot import ReplicaAddress


class Owner:
    def __init__(self):
        self.ready = []

    def link_ready(self, link):
        self.ready.append(link)

    def link_lost(self, link, calls, error):
        pass


@pytest.mark.parametrize("turns", range(6))
def test_an_address_that_goes_while_it_is_dialled_leaves_no_link_behind(uvloop_rig, turns):
    async def test(rig):
        replica = await rig.replica()
        links, owner = [], Owner()

        def new_link(name):
            links.append(
                Link(backend="model", replica=name, gateway="g", payload_max=1024, owner=owner, clock=MonotonicClock())
            )
            return links[-1]

        dialer = Dialer(ReplicaAddress("model-1", replica.address), new_link)
        dialer.open()
        for _ in range(turns):
            await asyncio.sleep(0)
        ready = list(owner.ready)
        dialer.retire()
        await rig.until(lambda: not replica.linked and all(link.state in ("lost", "connecting") for link in links))
        await asyncio.sleep(0.05)  # nothing is to happen in this time
        assert owner.ready == ready
        assert not replica.linked

    uvloop_rig(test)
