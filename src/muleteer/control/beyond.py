"""What was declared beyond what the machine has, in words. Pure; must not know who measures, nor what follows.

Memory and devices that are not there keep a replica from starting, and its backend's state tells. Cores are shared: too
many are only slow, so nothing else would tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from muleteer.engine.port import Capacity
from muleteer.spec.settings import BackendSpec
from muleteer.spec.units import format_bytes

NAMED = 3
"""Backends that are named; of more the rest is counted."""


def too_much_memory(memory_budget: int | None, capacity: Capacity) -> str | None:
    """Of a `memory_budget` above what there is; None if it is not."""
    there = capacity.memory_bytes
    if memory_budget is None or there is None or memory_budget <= there:
        return None
    return f"memory_budget {format_bytes(memory_budget)} is more than there is: {format_bytes(there)} count"


def too_many_cores(backends: Iterable[BackendSpec], capacity: Capacity) -> str | None:
    """Of replicas that declare more `cpus` than there are; None if none does, and of a cluster, which places by it."""
    if capacity.available_cpus is not None or not capacity.cpus:  # or is not known yet
        return None
    found = [spec for spec in backends if spec.settings.cpus is not None and spec.settings.cpus > capacity.cpus]
    if not found:
        return None
    named = ", ".join(f"{spec.name} {spec.settings.cpus:g}" for spec in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"one replica is to have more cores than the {capacity.cpus:g} there are: {named}{more}; its libraries start "
        "so many threads, which wait for one another"
    )
