"""One gateway on each node of the cluster but ours, as nodes come and go. Must not know what gateways do.

Each is kept by a detached actor that is bound to its node; Ray starts the actor anew as long as the node lives. A
gateway that cannot be kept, because its port is taken or muleteer is missing there, is tried again, and why is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from muleteer.base.limits import RAY_CALL_S, RAY_RETRY_S
from muleteer.engine.ray.actor import WATCH_S
from muleteer.engine.ray.cluster import Cluster, Dead, RayError, Unavailable
from muleteer.engine.ray.gateway_host import HOST, GatewayWish
from muleteer.engine.ray.place import Node, View
from muleteer.spec.secret import derive

PREFIX = "gateway@"
"""Begins the names of their actors; no replica has such an id, since backends are named without `@`."""
_TRY_S = 5.0
_STOP_MARGIN_S = 5.0


class GatewayRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one. `control`, `url`: empty until its host has said them; `why`: what keeps it from serving."""

    name: str
    node: str
    state: str = "starting"
    control: str = ""
    url: str = ""
    why: str = ""


class _Told(msgspec.Struct, frozen=True):
    """What `Keeper.watch` returns."""

    life: str
    count: int
    rows: list[dict[str, Any]]
    config: dict[str, Any] | None = None


class NodeGateways:
    """Args:
    cluster: connected.
    instance, key: of the server; the secret of each gateway is derived from the key.
    wish: what each node is to have.
    tell: called when a row has changed.
    """

    def __init__(
        self, cluster: Cluster, *, instance: str, key: bytes, wish: GatewayWish, tell: Callable[[], None]
    ) -> None:
        self._cluster = cluster
        self._instance = instance
        self._key = key
        self._wish = wish
        self._tell = tell
        self._here: str | None = None
        self._asked = False
        self._table: dict[str, _NodeGateway] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def rows(self) -> list[GatewayRow]:
        """As of now."""
        return [each.row for each in self._table.values()]

    async def follow(self, view: View) -> None:
        """Start one on each new node, forget those of lost ones. Raises RayError."""
        if not self._asked:
            self._here = await self._cluster.here()
            self._asked = True
        wanted = {node.id: node for node in view.living if node.id != self._here}
        for id in [id for id in self._table if id not in wanted]:
            del self._table[id]
            self._tasks.pop(id).cancel()
            self._tell()
        for id, node in wanted.items():
            if id not in self._table:
                name = f"{PREFIX}{node.address}"
                found = self._table[id] = _NodeGateway(node, name, self._cluster, self._tell)
                secret = derive(self._key, name)
                self._tasks[id] = asyncio.ensure_future(found.run(self._instance, secret, self._wish))
                self._tasks[id].add_done_callback(_raise)

    async def stop(self) -> None:
        """Drain and end them all."""
        grace_s = self._wish.drain_delay + self._wish.grace
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*(each.stop(grace_s) for each in self._table.values()))


class _NodeGateway:
    """That of one node."""

    def __init__(self, node: Node, name: str, cluster: Cluster, tell: Callable[[], None]) -> None:
        self.row = GatewayRow(name=name, node=node.address)
        self._node = node
        self._cluster = cluster
        self._tell = tell
        self._handle: Any = None
        self._config: dict[str, Any] = {}

    async def run(self, instance: str, secret: str, wish: GatewayWish) -> None:
        """Keep one there, until cancelled: then the node is gone, or the server ends."""
        while True:
            try:
                self._config = {
                    "module": HOST,
                    "id": self.row.name,
                    "secret": secret,
                    "wish": msgspec.to_builtins(wish),
                }
                name = f"{instance}/{self.row.name}"
                self._handle = await self._cluster.create_on(self._node.id, name, self._config)
                await self._follow()
                await self._cluster.kill(self._handle)  # an earlier bridge had stopped it
            except RayError as error:
                self._put(state="backoff", why=str(error))
            await asyncio.sleep(RAY_RETRY_S)

    async def stop(self, grace_s: float) -> None:
        """Drain it, then end its actor. `run` is cancelled already."""
        if self._handle is None:
            return
        with suppress(RayError, TimeoutError):
            await self._cluster.order(self._handle, {"type": "stop"})
            async with asyncio.timeout(grace_s + _STOP_MARGIN_S):
                await self._follow()
        with suppress(RayError):
            await self._cluster.kill(self._handle)

    async def _follow(self) -> None:
        """Take its rows until it is gone. Raises RayError."""
        life, seen = "", 0
        self._put(state="starting")
        while self.row.state != "gone":
            answer = await self._cluster.watch(self._handle, life, seen)
            try:
                told = msgspec.json.decode(await asyncio.wait_for(answer, WATCH_S + RAY_CALL_S), type=_Told)
            except (TimeoutError, Unavailable):
                self._put(state="backoff", why="its actor does not answer")
                await asyncio.sleep(RAY_RETRY_S)
                life = ""
                continue
            if told.config is not None and told.config | self._config != told.config:
                await self._cluster.kill(self._handle)
                raise Dead("it was started with other settings")
            life, seen = told.life, told.count
            for row in told.rows:
                self._take(row)
            if self.row.state == "failed":
                await asyncio.sleep(_TRY_S)
                await self._cluster.order(self._handle, {"type": "retry"})

    def _take(self, row: dict[str, Any]) -> None:
        last_exit = row.get("last_exit") or {}
        why = "" if row["state"] == "ready" else str(last_exit.get("message") or "")
        self._put(state=row["state"], why=why, control=row.get("control", ""), url=row.get("url", ""))

    def _put(self, **changed: str) -> None:
        row = msgspec.structs.replace(self.row, **changed)
        if row != self.row:
            self.row = row
            self._tell()


def _raise(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.result()  # a fault of ours ends this process, and its successor adopts what runs
