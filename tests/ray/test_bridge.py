"""The bridge while it joins a cluster, which may take long. No Ray."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from muleteer.base.clock import MonotonicClock
from muleteer.engine.port import ReplicaRequest
from muleteer.engine.ray.bridge import Bridge
from muleteer.engine.ray.cluster import Dead
from muleteer.engine.ray.place import View
from muleteer.spec.secret import instance_of
from muleteer.wire.lines import encode_line

KEY = b"bridge"
NODE = {"id": "n1", "address": "10.0.0.1", "reborn": False}
REQUEST = ReplicaRequest(id="m-1", backend="m", generation=1, target="m.py:M", base_dir="/")


class LateCluster:
    """Has one actor of ours, and lets nobody in before `joined`."""

    address = "nowhere"
    orphan_s = 1.0

    def __init__(self):
        self.joined = asyncio.Event()
        self.ended = False
        self._rows = []
        self._news = asyncio.Condition()

    async def connect(self):
        await self.joined.wait()

    async def view(self):
        return View()

    async def find(self, _instance):
        return {"m-1": self}

    async def watch(self, _handle, _life, seen):
        return asyncio.ensure_future(self._told(seen))

    async def order(self, _handle, order):
        assert order == {"type": "stop"}
        await self._tell({"state": "gone"})

    async def kill(self, _handle):
        self.ended = True
        await self._tell()

    async def _told(self, seen):
        async with self._news:
            if not self._rows:
                self._rows.append({"state": "ready", "address": "tcp:10.0.0.1:1"})
            await self._news.wait_for(lambda: self.ended or len(self._rows) > seen)
        if self.ended:
            raise Dead("killed")
        config = {"request": msgspec.to_builtins(REQUEST)}
        told = {"life": "1", "count": len(self._rows), "rows": self._rows[seen:], "node": NODE, "config": config}
        return msgspec.json.encode(told)

    async def _tell(self, *rows):
        async with self._news:
            self._rows += rows
            self._news.notify_all()


@pytest.mark.parametrize("late", [False, True])
def test_who_is_ended_while_it_joins_ends_what_it_finds_then(tmp_path, late):
    path = str(tmp_path / "sock")

    async def test(listener):
        cluster, said, told_late = LateCluster(), [], asyncio.Event()

        def notice(text):
            said.append(text)
            if text.startswith("still joining"):
                told_late.set()

        bridge = Bridge(listener, cluster, machine="", clock=MonotonicClock(), on_joined=lambda: None, notice=notice)
        serving = asyncio.ensure_future(bridge.run())
        _, controller = await asyncio.open_unix_connection(path)
        words = {"type": "open", "instance": instance_of(KEY), "key": KEY.hex(), "gateways": None}
        controller.write(encode_line(words))
        ending = asyncio.ensure_future(bridge.stop_all())
        if late:  # that this is said is no reason to wait no longer
            async with asyncio.timeout(30):
                await told_late.wait()
        cluster.joined.set()
        async with asyncio.timeout(30):
            await ending
        assert cluster.ended
        assert not [text for text in said if "earlier life" in text]
        serving.cancel()
        controller.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        asyncio.run(test(listener))
