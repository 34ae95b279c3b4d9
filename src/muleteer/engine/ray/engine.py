"""The Ray engine as the controller has it: wishes out, changes in, over the bridge's socket. Imports no Ray, waits for
nothing, and keeps what it was told while the bridge is away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from muleteer.base.limits import RAY_RETRY_S
from muleteer.engine.line_stream import LineStream
from muleteer.engine.port import Capacity, EngineStatistics, ReplicaRequest, ReplicaStatus
from muleteer.spec.secret import instance_of

_GRACE_S = 25.0


class RayEngine:
    """Speaks to the bridge.

    Args:
        path: the bridge's socket.
        key: of this server; says which actors are its own, and their secrets are derived from it.
        report: told what does not work now; empty once all does.
        gateways: what each other node is to have as its gateway; None: no gateways there.
        on_gateways: told of all of them, whenever something about one has changed.
    """

    name = "ray"

    def __init__(
        self,
        path: str,
        key: bytes,
        report: Callable[[str], None],
        *,
        gateways: dict[str, Any] | None = None,
        on_gateways: Callable[[list[dict[str, Any]]], None] = lambda _rows: None,
    ) -> None:
        self._path = path
        self._gateways = gateways
        self._on_gateways = on_gateways
        self._key = key
        self._report = report
        self._bridge: LineStream | None = None
        self._ended = asyncio.Event()
        self._adopted = asyncio.Event()
        self._changes: asyncio.Queue[ReplicaStatus | None] = asyncio.Queue()
        self._replicas: dict[str, ReplicaStatus] = {}
        self._requests: dict[str, ReplicaRequest] = {}
        self._leaving: set[str] = set()
        self._capacity = Capacity(0.0, None)
        self._nodes: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses of the nodes that are there."""
        return self._nodes

    def receive(self, message: dict[str, Any]) -> None:
        """One message: an `abort` by a gateway of another node. Those of ours go from the supervisor to the bridge."""
        if message["type"] == "abort" and message["process"] in self._replicas:
            self._send({"type": "abort", "id": message["process"], "pid": message["pid"], "reason": message["reason"]})

    async def open(self) -> tuple[ReplicaStatus, ...]:
        """Wait until the bridge has asked Ray, and return the replicas there are. As long as that is not possible the
        gateways go on with what they have.
        """
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())
        await self._adopted.wait()
        return tuple(self._replicas.values())

    async def changes(self) -> AsyncIterator[ReplicaStatus]:
        """Every change since `open`; for one reader."""
        while (status := await self._changes.get()) is not None:
            yield status

    def start(self, request: ReplicaRequest) -> ReplicaStatus:
        """See `Engine.start`."""
        known = self._replicas.get(request.id)
        if known is not None:
            return known
        status = ReplicaStatus.first(request)
        self._replicas[request.id] = status
        self._requests[request.id] = request
        self._ask_start(request)
        return status

    def stop(self, id: str) -> None:
        """See `Engine.stop`."""
        if id in self._replicas:
            self._leaving.add(id)
            self._ask_stop(id)

    def retry(self, id: str) -> None:
        """See `Engine.retry`."""
        replica = self._replicas.get(id)
        if replica is not None and replica.state == "failed":
            self._send({"type": "retry", "id": id})

    def capacity(self) -> Capacity:
        """What all living nodes have, by Ray's own count."""
        return self._capacity

    def close(self) -> None:
        """End `changes`."""
        if self._task is not None:
            self._task.cancel()
        if self._bridge is not None:
            self._bridge.close()
        self._changes.put_nowait(None)

    def statistics(self) -> EngineStatistics:
        """A frozen snapshot."""
        return EngineStatistics(dict(Counter(replica.state for replica in self._replicas.values())))

    # the bridge

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._ended.clear()
            try:
                _, lines = await loop.create_unix_connection(lambda: LineStream(self._take, self._gone), self._path)
            except OSError as error:
                self._report(f"the bridge to Ray cannot be reached: {error.strerror}")
                await asyncio.sleep(RAY_RETRY_S)
                continue
            self._bridge = lines
            key, instance = self._key.hex(), instance_of(self._key)
            self._send({"type": "open", "instance": instance, "key": key, "gateways": self._gateways})
            await self._ended.wait()
            self._report("the bridge to Ray ended; replicas that live go on, another one starts")

    def _gone(self) -> None:
        self._bridge = None
        self._ended.set()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "replica":
            self._observe(msgspec.convert(message["replica"], ReplicaStatus))
        elif message["type"] == "replicas":
            self._compare(msgspec.convert(message["replicas"], tuple[ReplicaStatus, ...]))
        elif message["type"] == "cluster":
            self._capacity = msgspec.convert(message["capacity"], Capacity)
            self._nodes = tuple(message["nodes"])
        elif message["type"] == "problem":
            self._report(message["text"])
        elif message["type"] == "gateways":
            self._on_gateways(message["rows"])

    def _compare(self, rows: tuple[ReplicaStatus, ...]) -> None:
        """All that a bridge has, which may be another than the last: ask again for what it does not know."""
        there = {row.id for row in rows}
        for row in rows:
            self._observe(row)
        for id in list(self._replicas):
            if id in there:
                continue
            request = self._requests.get(id)
            if request is not None and id not in self._leaving:
                self._ask_start(request)
            else:
                self._observe(msgspec.structs.replace(self._replicas[id], state="gone", pid=None))
        for id in self._leaving & there:
            self._ask_stop(id)
        self._report("")
        self._adopted.set()

    def _observe(self, status: ReplicaStatus) -> None:
        if status.state == "gone":
            self._requests.pop(status.id, None)
            self._leaving.discard(status.id)
            if self._replicas.pop(status.id, None) is None:
                return
        else:
            self._replicas[status.id] = status
        if self._adopted.is_set():
            self._changes.put_nowait(status)

    def _ask_start(self, request: ReplicaRequest) -> None:
        self._send({"type": "start", "request": msgspec.to_builtins(request)})

    def _ask_stop(self, id: str) -> None:
        request = self._requests.get(id)
        self._send({"type": "stop", "id": id, "grace_s": request.grace_s if request is not None else _GRACE_S})

    def _send(self, message: dict[str, Any]) -> None:
        if self._bridge is not None:
            self._bridge.send(message)
