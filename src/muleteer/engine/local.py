"""The local engine: replicas are children of the supervisor, told through the control channel. No process is started
here, and none is waited for: this module only translates.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from muleteer.base.limits import FAILED_STARTS_MAX
from muleteer.engine.port import Capacity, EngineStatistics, ReplicaRequest, ReplicaState, ReplicaStatus
from muleteer.supervise.process import ProcessSpec, ProcessStatus

STOP_RANK: Final = 1
"""Replicas stop after the gateway (0) and before the controller (2)."""

_STATES: Final[dict[str, ReplicaState]] = {
    "starting": "starting",
    "ready": "ready",
    "stopping": "stopping",
    "backoff": "backoff",
    "failed": "failed",
    "stopped": "gone",
}
_SOCKET = re.compile(r"/(\d+)\.sock$")


class LocalEngine:
    """Speaks to the supervisor.

    Args:
        send: writes one message on the control channel.
        run_dir: absolute path of the run directory.
    """

    name = "local"

    def __init__(self, send: Callable[[dict[str, Any]], None], run_dir: str) -> None:
        self._send = send
        self._run_dir = run_dir
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
        status = ReplicaStatus(
            id=request.id,
            backend=request.backend,
            generation=request.generation,
            fingerprint=request.fingerprint,
            address=address,
            state="starting",
        )
        self._replicas[request.id] = status
        self._send({"type": "ensure", "process": msgspec.to_builtins(process_spec(request, address))})
        return status

    def stop(self, id: str) -> None:
        """See `Engine.stop`."""
        if id in self._replicas:
            self._send({"type": "remove", "process": id})

    def retry(self, id: str) -> None:
        """See `Engine.retry`."""
        replica = self._replicas.get(id)
        if replica is not None and replica.state == "failed":
            self._send({"type": "retry", "process": id})

    def capacity(self) -> Capacity:
        """The cores we may run on, and the host's memory."""
        try:
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return Capacity(len(os.sched_getaffinity(0)), None)
        return Capacity(len(os.sched_getaffinity(0)), memory)

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
        else:
            self._replicas[status.id] = status
        if tell:
            self._changes.put_nowait(status)


def process_spec(request: ReplicaRequest, address: str) -> ProcessSpec:
    """What the supervisor is asked to keep alive for `request`."""
    config = {
        "backend": request.backend,
        "replica": request.id,
        "target": request.target,
        "base_dir": request.base_dir,
        "concurrency": request.settings.concurrency,
        "batch": request.settings.batch,
        "max_body": request.settings.max_body,
        "debug": request.debug,
    }
    return ProcessSpec(
        id=request.id,
        # -P: a file of the user's named like one of ours, or of the standard library, must not shadow it
        argv=(sys.executable, "-P", "-m", "muleteer.replica", msgspec.json.encode(config).decode()),
        sockets={"link": address},
        labels={
            "backend": request.backend,
            "generation": str(request.generation),
            "fingerprint": request.fingerprint,
            "address": address,
        },
        ready_timeout_s=request.settings.load_timeout,
        grace_s=request.grace_s,
        starts_max=FAILED_STARTS_MAX,
        stop_rank=STOP_RANK,
        cwd=request.base_dir if Path(request.base_dir).is_dir() else None,
    )


def replica_status(row: ProcessStatus) -> ReplicaStatus:
    """The supervisor's row of a replica, in the engine's words."""
    files = row.info.get("files")
    return ReplicaStatus(
        id=row.id,
        backend=row.labels["backend"],
        generation=int(row.labels["generation"]),
        fingerprint=row.labels.get("fingerprint", ""),
        address=row.labels["address"],
        state=_STATES[row.state],
        pid=row.pid,
        restarts=row.restarts,
        since_s=row.since_s,
        files=tuple(str(file) for file in files) if isinstance(files, list) else (),
        last_exit=row.last_exit,
    )
