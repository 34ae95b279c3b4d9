"""The process of one replica: what is asked to be kept alive for it, and what its row means. The same for every engine;
must not import asyncio, for the sake of the small process that keeps a replica on another machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from muleteer.base.limits import FAILED_STARTS_MAX
from muleteer.engine import gpus, threads
from muleteer.engine.port import ReplicaRequest, ReplicaState, ReplicaStatus
from muleteer.supervise.process import ProcessSpec, ProcessStatus, Template

STOP_RANK: Final = 1
"""Replicas stop after the gateway (0) and before the controller (2)."""
OOM_SCORE: Final = 500
"""A replica of no size is taken before a gateway that fills half of the memory; of replicas the largest goes first."""

_STATES: Final[dict[str, ReplicaState]] = {
    "starting": "starting",
    "ready": "ready",
    "stopping": "stopping",
    "backoff": "backoff",
    "failed": "failed",
    "stopped": "gone",
}


def process_spec(
    request: ReplicaRequest, address: str, env: dict[str, str], taken: gpus.Taken | None = None
) -> ProcessSpec:
    """What the supervisor is asked to keep alive for `request`: with these variables, on these GPUs."""
    on_devices = {} if taken is None else {"gpus": ",".join(taken.devices), "gpu_part": f"{taken.part:g}"}
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
        argv=_argv(config),
        template=_template(request, config) if request.settings.share == "preload" else None,
        env=env | ({"CUDA_VISIBLE_DEVICES": on_devices["gpus"]} if on_devices else {}),
        sockets={"link": address},
        labels={
            "backend": request.backend,
            "generation": str(request.generation),
            "fingerprint": request.fingerprint,
            "address": address,
            **on_devices,
        },
        ready_timeout_s=request.settings.load_timeout,
        grace_s=request.grace_s,
        starts_max=FAILED_STARTS_MAX,
        nice=threads.nice(request.settings),
        oom_score=OOM_SCORE,
        stop_rank=STOP_RANK,
        cwd=request.base_dir if Path(request.base_dir).is_dir() else None,
    )


def _argv(config: dict[str, Any]) -> tuple[str, ...]:
    # -P: a file of the user's named like one of ours, or of the standard library, must not shadow it
    return (sys.executable, "-P", "-m", "muleteer.replica", msgspec.json.encode(config).decode())


def _template(request: ReplicaRequest, config: dict[str, Any]) -> Template:
    """One for all replicas of a generation. No replica has an id like it: those end in a number."""
    id = f"{request.backend}-{request.generation}-{request.fingerprint[:8]}.template"
    return Template(id=id, argv=_argv(config | {"replica": id}))


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
        gpus=tuple(filter(None, row.labels.get("gpus", "").split(","))),
        last_exit=row.last_exit,
    )
