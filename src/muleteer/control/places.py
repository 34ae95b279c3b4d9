"""What replicas take of a cluster that reserves for each what it declares, and what more may be asked of a full one.
Pure; must not know who reserves, nor what replicas really use: there only what is declared counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from muleteer.base.limits import RAY_LOOK_S
from muleteer.control.pieces import Pieces
from muleteer.control.share import MEMORY_UNBOUND, Budget, Grant
from muleteer.engine.port import Capacity, ReplicaStatus
from muleteer.engine.ray.place import demand, has_place
from muleteer.spec.settings import BackendSettings

SEEN_LATE_S = RAY_LOOK_S + 3.0
"""What became free is in what the cluster says of itself a second later, and that is looked at now and then."""
_PATIENCE_S = {"unplaced": 2 * SEEN_LATE_S, "node_lost": 30.0}
"""By what it waits for a place: who leaves may make room, and what a lost node had Ray starts elsewhere by itself."""


class Reserved(msgspec.Struct, frozen=True):
    """Of one replica, or of all together."""

    cores: float = 0.0
    memory_bytes: int = 0
    gpus: float = 0.0
    resources: Pieces = {}


def reserved(settings: BackendSettings) -> Reserved:
    """What one replica with these settings reserves."""
    asked = demand(settings)
    cores, memory, gpus = asked.pop("CPU", 0.0), asked.pop("memory", 0.0), asked.pop("GPU", 0.0)
    return Reserved(cores, int(memory), gpus, asked)


def waits_for_place(status: ReplicaStatus) -> bool:
    """Whether it exists only as a wish of ours: it holds nothing, and drives the autoscaler of the cluster."""
    return status.state == "backoff" and status.last_exit is not None and status.last_exit.reason in _PATIENCE_S


def holds_place(status: ReplicaStatus) -> bool:
    """Whether a node has it, with what it reserves there."""
    return bool(status.node) and not waits_for_place(status)


def patience_s(staying: Collection[ReplicaStatus]) -> float | None:
    """For how long calls wait for one of these replicas to get a place; None where one has it, or there are none."""
    if not staying or not all(waits_for_place(status) for status in staying):
        return None
    return max(_PATIENCE_S[status.last_exit.reason] for status in staying if status.last_exit is not None)


def budget_of_cluster(capacity: Capacity, ours: Iterable[Reserved], named: Iterable[str] = ()) -> Budget:
    """What our replicas may have together: what they hold, and what was free when last seen. `named`: resources of
    interest: every node has some of its own, which nobody asks for.
    """
    held = list(ours)
    memory = MEMORY_UNBOUND
    if capacity.memory_bytes is not None and capacity.available_bytes is not None:
        memory = min(capacity.memory_bytes, capacity.available_bytes + sum(each.memory_bytes for each in held))
    cores = min(capacity.cpus, (capacity.available_cpus or 0.0) + sum(each.cores for each in held))
    gpus = min(float(len(capacity.gpus)), (capacity.available_gpus or 0.0) + sum(each.gpus for each in held))
    resources = {
        name: min(
            capacity.resources.get(name, 0.0),
            capacity.available_resources.get(name, 0.0) + sum(each.resources.get(name, 0.0) for each in held),
        )
        for name in named
    }
    return Budget(memory, cores, gpus, resources)


class Leavers:
    """What replicas held that are gone: it is free, though the cluster says so only SEEN_LATE_S later. Until then
    others would be given up for what is there already.
    """

    def __init__(self) -> None:
        self._held: dict[str, Reserved] = {}
        self._left: dict[str, tuple[float, Reserved]] = {}

    def look(self, now: float, held: Mapping[str, Reserved], existing: Collection[str]) -> list[Reserved]:
        """What such replicas held. `held`: by replica that has a place; `existing`: all replicas: one that has lost its
        place, and exists, left nothing.
        """
        gone = {id: (now, each) for id, each in self._held.items() if id not in existing}
        self._left = {id: row for id, row in (self._left | gone).items() if now - row[0] < SEEN_LATE_S}
        self._held = dict(held)
        return [each for _, each in self._left.values()]


def surge_has_place(settings: BackendSettings, capacity: Capacity) -> bool:
    """Whether an update may start a replica before it stops another: one without a place would hold it up for ever."""
    return has_place(settings, capacity.nodes)


def asking(grant: Grant, wanted: int, placed: int, waiting: int) -> Grant:
    """The grant and what is asked for beyond it: a replica without a place is what makes the cluster grow.

    Args:
        grant: what there is room for, were the nodes one; fewer than are placed where some are to give way.
        wanted: replicas in all.
        placed: those that have a place.
        waiting: those that have none yet. While there are any no more are asked for, whatever the load: they would wait
            for the same.
    """
    there = placed + waiting
    if waiting and grant.replicas >= placed:
        count = max(placed, min(wanted, there))
    elif grant.replicas >= wanted or grant.replicas < placed:
        return grant
    else:
        count = wanted
    if count <= placed:
        return msgspec.structs.replace(grant, replicas=count)
    return msgspec.structs.replace(
        grant, replicas=count, reason=f"{grant.reason}; {count - placed} wait for a place in the cluster"
    )
