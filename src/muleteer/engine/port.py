"""The engine port: where a replica is started. Must not know why one is wanted, nor how requests reach it.

Laws, which `muleteer.testing.engine.check_engine` holds every engine to:
1. A replica is an id that stays the same over all its restarts; so does its address, once it has one. Only where all
   that kept it is lost, with a machine, another may take its place: its next address is told as a change like any.
2. The engine restarts what dies, also while no controller lives. The controller only adds and removes.
3. `start`, `stop` and `retry` are wishes: they return at once and never raise; what comes of them arrives as changes.
4. State `gone` is the last change of an id. An id is not used again.
5. `open` tells of every replica that lives already: it is adopted, never restarted.
6. A replica starts with the GPUs that its settings ask for, or not at all: until there are enough it is in `backoff`,
   and `failed` where there never will be; `last_exit` says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol, Self

import msgspec

from muleteer.spec.settings import BackendSettings
from muleteer.supervise.process import LastExit

ReplicaState = Literal["starting", "ready", "stopping", "backoff", "failed", "gone"]


class ReplicaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One replica to keep alive.

    Attributes:
        generation: grows with each change of the backend's code or settings.
        fingerprint: of what it is started from (`spec.fingerprint`); given back with its status.
    """

    id: str
    backend: str
    generation: int
    fingerprint: str = ""
    target: str
    base_dir: str
    settings: BackendSettings = BackendSettings()
    debug: bool = False
    grace_s: float = 25.0


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What was last observed of one replica.

    Attributes:
        address: `unix:/path`, `tcp:host:port` or `tls:host:port`, empty until a place was found; may be dialled
            before it is ready.
        pid: of the process that lives now, on this host; None between two lives, or where it is elsewhere.
        restarts: lives after the first.
        since_s: seconds in this state when it was told.
        files: source files of the model, known once it was ready.
        gpus: devices that were given to it.
        secret: what a gateway must show it; empty on this machine. Never shown.
        node: of a cluster, by its address; empty on this machine.
        last_exit: how its previous life ended; None in the first.
    """

    id: str
    backend: str
    generation: int
    fingerprint: str = ""
    address: str
    state: ReplicaState
    pid: int | None = None
    restarts: int = 0
    since_s: float = 0.0
    files: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    secret: str = ""
    node: str = ""
    last_exit: LastExit | None = None

    @classmethod
    def first(cls, request: ReplicaRequest, *, address: str = "", secret: str = "") -> Self:
        """Of one that was just asked for: `starting`, in no place but `address`."""
        return cls(
            id=request.id,
            backend=request.backend,
            generation=request.generation,
            fingerprint=request.fingerprint,
            address=address,
            state="starting",
            secret=secret,
        )


class Capacity(msgspec.Struct, frozen=True):
    """What replicas may use in all, free or not.

    Attributes:
        memory_bytes: None if unknown.
        gpus: names of the devices.
        available_bytes: of the memory, what nobody uses at this moment; None where `memory_bytes` was given by the
            user, and is to be taken as it is.
        available_cpus, available_gpus: what nobody has reserved, of a cluster where each replica reserves what it
            declares, memory too; None: nothing is reserved.
        nodes: of a cluster, what each node has free, by its own names for it.
        resources, available_resources: of a cluster, what its nodes were given besides cores, memory and GPUs, by name.
    """

    cpus: float
    memory_bytes: int | None
    gpus: tuple[str, ...] = ()
    available_bytes: int | None = None
    available_cpus: float | None = None
    available_gpus: float | None = None
    nodes: tuple[dict[str, float], ...] = ()
    resources: dict[str, float] = {}
    available_resources: dict[str, float] = {}


class EngineStatistics(msgspec.Struct, frozen=True):
    """Replicas known, by state."""

    replicas: dict[str, int]


class Engine(Protocol):
    """A place where replicas live. Everything runs on one event loop."""

    name: str
    """`local`, `ray`, …"""

    async def open(self) -> tuple[ReplicaStatus, ...]:
        """Connect, and return the replicas that live already. Call once, before anything else."""
        ...

    def changes(self) -> AsyncIterator[ReplicaStatus]:
        """Every change since `open`, in order. For one reader; ends when the engine is closed."""
        ...

    def start(self, request: ReplicaRequest) -> ReplicaStatus:
        """Start a replica and keep it alive; returns its first status. A known id is left alone."""
        ...

    def stop(self, id: str) -> None:
        """Drain it, end it, forget it. An unknown id is ignored."""
        ...

    def retry(self, id: str) -> None:
        """Start one that is `failed` afresh. In any other state, or unknown, it is ignored."""
        ...

    def capacity(self) -> Capacity:
        """What the place offers."""
        ...

    def close(self) -> None:
        """Disconnect. The replicas live on."""
        ...

    def statistics(self) -> EngineStatistics:
        """A frozen snapshot."""
        ...
