"""What is told of a replica while its actor does not answer: the cause, once, and not what follows from it. No Ray."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec

from muleteer.base.clock import MonotonicClock
from muleteer.engine.port import ReplicaRequest
from muleteer.engine.ray.cluster import Dead, Unavailable
from muleteer.engine.ray.place import Node, View, Waiting
from muleteer.engine.ray.placed import Placed

HERE = Node(id="n1", address="10.0.0.1", alive=True, resources={"CPU": 4.0}, free={"CPU": 0.0})
THERE = Node(id="n2", address="10.0.0.2", alive=True, resources={"CPU": 4.0}, free={"CPU": 4.0})
LEFT = msgspec.structs.replace(HERE, alive=False, reason="it vanished")


class SilentActor:
    """A cluster of one actor, which answers what the test says, when it says it."""

    def __init__(self):
        self.asked = asyncio.Queue()

    async def create(self, _request, _secret, _instance):
        return self

    async def watch(self, _handle, _life, _seen):
        answer = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        return answer

    async def kill(self, _handle):
        await self.refuse(Dead("killed"))

    async def tell(self, life, *rows, node=HERE, reborn=False):
        self._count = getattr(self, "_count", 0) + len(rows)
        node = {"id": node.id, "address": node.address, "reborn": reborn}
        told = {"life": life, "count": self._count, "rows": [*rows], "node": node}
        (await self._open()).set_result(msgspec.json.encode(told))

    async def refuse(self, error):
        (await self._open()).set_exception(error)

    async def _open(self):
        while (answer := await self.asked.get()).done():
            pass
        return answer


class Told:
    def __init__(self, actor=None):
        self.actor = actor or SilentActor()
        self.view = View((HERE,))
        self.news = []
        self.clock = MonotonicClock()
        self._told = asyncio.Event()
        self.placed = Placed(
            "m-1",
            "secret",
            "instance",
            cluster=self.actor,
            view=lambda: self.view,
            machine="",
            tell=self._tell,
            clock=self.clock,
            request=ReplicaRequest(id="m-1", backend="m", generation=1, target="m.py:M", base_dir="/"),
        )

    def _tell(self, status):
        self.news.append(status)
        self._told.set()

    async def until(self, state, reason):
        await self._until(lambda: (self.now.state, self.reason) == (state, reason))

    async def until_message(self, text):
        await self._until(lambda: self.now.last_exit is not None and self.now.last_exit.message == text)

    async def _until(self, holds):
        async with asyncio.timeout(10):
            while not holds():
                self._told.clear()
                await self._told.wait()

    @property
    def now(self):
        return self.news[-1]

    @property
    def reason(self):
        return self.now.last_exit.reason if self.now.last_exit else None


@asynccontextmanager
async def serving():
    told = Told()
    task = asyncio.create_task(told.placed.run())
    await told.actor.tell("first", {"state": "ready", "address": "tcp:10.0.0.1:1"})
    await told.until("ready", None)
    try:
        yield told
    finally:
        task.cancel()


def test_one_that_has_got_its_place_starts_and_waits_for_none():
    async def test():
        told = Told()
        told.view = View((HERE,), (Waiting({"CPU": 1.0}, 1),))
        task = asyncio.create_task(told.placed.run())
        await told.until("backoff", "unplaced")
        told.view = View((HERE,), ())  # full, and nobody waits: what it asked for is its own
        await told.until("starting", "unplaced")
        await told.actor.tell("first", {"state": "ready", "address": "tcp:10.0.0.1:1"})
        await told.until("ready", None)
        task.cancel()

    asyncio.run(test())


def test_a_lost_actor_is_told_once_until_its_node_is_known_to_be_lost():
    async def test():
        async with serving() as told:
            told.view = View((msgspec.structs.replace(HERE, free={"CPU": 4.0}),))  # as last seen
            await told.actor.refuse(Unavailable("no answer"))
            await told.until("backoff", "actor_lost")
            before = len(told.news)
            for _ in range(3):  # Ray takes its time: now it waits, now it says that the actor does not answer
                await asyncio.sleep(1.2)
                await told.actor.refuse(Unavailable("no answer"))
            assert told.news[before:] == []
            told.view = View((LEFT,))
            await told.actor.refuse(Unavailable("no answer"))
            await told.until("backoff", "node_lost")
            assert told.now.last_exit.message == "node 10.0.0.1 left the cluster: it vanished"
            await told.until_message(  # there is no room for it elsewhere
                "node 10.0.0.1 left the cluster: it vanished; now it waits for a node with 1 CPUs: none of 0 is that "
                "large; the most there is on one: 0 CPUs"
            )
            assert (told.now.state, told.reason) == ("backoff", "node_lost")
            await told.actor.tell("second", {"state": "ready", "address": "tcp:10.0.0.1:2"}, reborn=True)
            await told.until("ready", "node_lost")

            # what was the matter then says nothing about now
            told.view = View((HERE,))
            await told.actor.refuse(Unavailable("no answer"))
            await told.until("backoff", "actor_lost")

    asyncio.run(test())


def test_a_lost_node_is_told_also_if_the_actor_is_back_before_it_was_seen():
    async def test():
        async with serving() as told:
            told.view = View((HERE, THERE))  # as last seen, while Ray knows better
            await told.actor.refuse(Unavailable("no answer"))
            await told.until("backoff", "actor_lost")
            await told.actor.tell("second", {"state": "ready", "address": "tcp:10.0.0.2:2"}, node=THERE, reborn=True)
            await told.until("ready", "actor_lost")
            told.view = View((LEFT, THERE))
            told.placed.look(told.clock.now())
            assert (told.now.state, told.reason, told.now.node) == ("ready", "node_lost", "10.0.0.2")
            assert told.now.last_exit.message == "node 10.0.0.1 left the cluster: it vanished"
            await told.actor.tell("second")  # nothing new: nothing is told again
            await told.actor.tell("second")
            assert (told.now.state, told.reason) == ("ready", "node_lost")

    asyncio.run(test())


def test_a_node_that_is_lost_later_was_not_the_cause():
    async def test():
        async with serving() as told:
            told.view = View((HERE, THERE))
            await told.actor.refuse(Unavailable("its process was killed"))
            await told.until("backoff", "actor_lost")
            await told.actor.tell("second", {"state": "ready", "address": "tcp:10.0.0.2:2"}, node=THERE, reborn=True)
            await told.until("ready", "actor_lost")
            told.placed.look(told.clock.now())
            told.view = View((LEFT, THERE))
            told.placed.look(told.clock.now())
            assert told.reason == "actor_lost"

    asyncio.run(test())
