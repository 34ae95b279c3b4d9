"""The local engine: replicas are children of the supervisor, told through the control channel. No process is started
here, and none is waited for: this module only translates.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from muleteer.engine import detect, gpus, threads
from muleteer.engine.launch import process_spec, replica_status
from muleteer.engine.port import Capacity, EngineStatistics, ReplicaRequest, ReplicaState, ReplicaStatus
from muleteer.spec.settings import ServerSettings
from muleteer.supervise.process import LastExit, ProcessStatus

_SOCKET = re.compile(r"/(\d+)\.sock$")


class LocalEngine:
    """Speaks to the supervisor.

    Args:
        send: writes one message on the control channel.
        run_dir: absolute path of the run directory.
        server: what was declared of cores, memory and GPUs counts more than what is found.
    """

    name = "local"

    def __init__(
        self, send: Callable[[dict[str, Any]], None], run_dir: str, server: ServerSettings | None = None
    ) -> None:
        self._send = send
        self._run_dir = run_dir
        self._server = server if server is not None else ServerSettings()
        self._devices = detect.gpus(self._server.gpu_devices, os.environ)
        self._taken: dict[str, gpus.Taken] = {}
        self._waiting: dict[str, ReplicaRequest] = {}  # for GPUs: the supervisor does not know of them
        self._adopted: asyncio.Event = asyncio.Event()
        self._changes: asyncio.Queue[ReplicaStatus | None] = asyncio.Queue()
        self._replicas: dict[str, ReplicaStatus] = {}
        self._sockets_used = 0

    def receive(self, message: dict[str, Any]) -> None:
        """One message of the supervisor: `processes` or `process`. Rows that are no replicas are skipped."""
        if message["type"] == "processes":
            for row in message["processes"]:
                self._observe(row, tell=False)
            self._adopted.set()
        elif message["type"] == "process":
            self._observe(message["process"], tell=self._adopted.is_set())

    async def open(self) -> tuple[ReplicaStatus, ...]:
        """Wait for the supervisor's first word, and return the replicas it has."""
        await self._adopted.wait()
        if self._devices is None:
            self._devices = await asyncio.to_thread(detect.ask_driver)
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
        self._sockets_used += 1
        # Socket paths end at 107 bytes, so they carry a number and not the id.
        address = f"unix:{self._run_dir}/sockets/{self._sockets_used}.sock"
        status = ReplicaStatus.first(request, address=address)
        self._replicas[request.id] = status
        self._waiting[request.id] = request
        self._place(request)
        return self._replicas[request.id]

    def stop(self, id: str) -> None:
        """See `Engine.stop`."""
        if self._waiting.pop(id, None) is not None:
            self._changes.put_nowait(msgspec.structs.replace(self._replicas.pop(id), state="gone"))
        elif id in self._replicas:
            self._send({"type": "remove", "process": id})

    def retry(self, id: str) -> None:
        """See `Engine.retry`."""
        replica = self._replicas.get(id)
        if id in self._waiting:
            self._place(self._waiting[id], tell=True)
        elif replica is not None and replica.state == "failed":
            self._send({"type": "retry", "process": id})

    def capacity(self) -> Capacity:
        """What was declared, of memory as far as it is there; else what the machine or our container has."""
        cpus = self._cores()
        found, declared = detect.memory(), self._server.memory_budget
        if declared is not None:
            return Capacity(cpus, declared if found is None else min(declared, found.total), self._devices or ())
        if found is None:
            return Capacity(cpus, None, self._devices or ())
        return Capacity(cpus, found.total, self._devices or (), found.available)

    def close(self) -> None:
        """End `changes`."""
        self._changes.put_nowait(None)

    def statistics(self) -> EngineStatistics:
        """A frozen snapshot."""
        return EngineStatistics(dict(Counter(replica.state for replica in self._replicas.values())))

    def _observe(self, row: dict[str, Any], *, tell: bool) -> None:
        labels = row.get("labels", {})
        if "backend" not in labels:
            return
        status = replica_status(msgspec.convert(row, ProcessStatus))
        number = _SOCKET.search(status.address)
        if number is not None:
            self._sockets_used = max(self._sockets_used, int(number[1]))
        if status.state == "gone":
            self._replicas.pop(status.id, None)
            self._taken.pop(status.id, None)
        else:
            self._replicas[status.id] = status
            if status.gpus:
                self._taken[status.id] = gpus.Taken(status.gpus, float(labels.get("gpu_part", 1)))
        if tell:
            self._changes.put_nowait(status)
        if status.state == "gone":
            for waiting in list(self._waiting.values()):
                self._place(waiting, tell=True)

    def _place(self, request: ReplicaRequest, *, tell: bool = False) -> None:
        """Start it if its GPUs are free, else say why not; `tell`: as a change."""
        before, devices = self._replicas[request.id], self._devices or ()
        amount = request.settings.gpus
        taken = gpus.assign(devices, self._taken.values(), amount) if amount else None
        never = gpus.impossible(devices, amount) if amount else None
        if amount and (taken is None or never is not None):
            users = ", ".join(self._taken)
            why = never or f"waits for {amount:g} GPUs: {', '.join(devices)} are taken by {users}"
            last_exit = LastExit(reason="no_gpu", message=why)
            state: ReplicaState = "failed" if never else "backoff"
            after = msgspec.structs.replace(before, state=state, last_exit=last_exit)
        else:
            after = msgspec.structs.replace(
                before, state="starting", last_exit=None, gpus=taken.devices if taken is not None else ()
            )
            del self._waiting[request.id]
            if taken is not None:
                self._taken[request.id] = taken
            env = threads.environment(request.settings, self._cores(), os.environ)
            spec = process_spec(request, before.address, env, taken)
            self._send({"type": "ensure", "process": msgspec.to_builtins(spec)})
        self._replicas[request.id] = after
        if tell and after != before:
            self._changes.put_nowait(after)

    def _cores(self) -> float:
        return self._server.cpu_budget if self._server.cpu_budget is not None else detect.cpus()
