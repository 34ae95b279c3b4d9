"""The machine's account: what there is, and what each replica takes of it. Must not know who decides."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from muleteer.control.pieces import Pieces, plus
from muleteer.control.share import MEMORY_UNBOUND, Budget


class ReplicaAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One replica.

    Attributes:
        memory_bytes: what counts against the budget: measured (PSS), or set aside while it starts.
        measured_bytes: PSS; None before it was measured, or where its process is elsewhere.
        cpus: cores that it kept busy in the last second or so, children included.
        gpus: devices it was given.
        gpu_part: how much of each it has.
        resources: of a cluster, what it reserves there by other names.
    """

    memory_bytes: int = 0
    measured_bytes: int | None = None
    cpus: float = 0.0
    gpus: tuple[str, ...] = ()
    gpu_part: float = 0.0
    resources: Pieces = {}


class Total(msgspec.Struct, frozen=True):
    """Memory in bytes, cores, devices, named resources that backends ask for; None: no bound is known."""

    memory_bytes: int | None
    cpus: float
    gpus: float
    resources: Pieces = {}


class Account(msgspec.Struct, frozen=True):
    """All replicas, by id, and the sum of them, with our own processes, beside what there is."""

    budget: Total
    used: Total
    replicas: dict[str, ReplicaAccount] = {}


def account(budget: Budget, own_bytes: int, replicas: Iterable[tuple[str, ReplicaAccount]]) -> Account:
    """Add it up. `budget`: what replicas may use; processes of the server that are no replicas hold `own_bytes`."""
    found = dict(replicas)
    rows = found.values()
    held: Pieces = {}
    for row in rows:
        held = plus(held, row.resources)
    bounded = own_bytes + budget.memory_bytes if budget.memory_bytes < MEMORY_UNBOUND else None
    return Account(
        budget=Total(bounded, budget.cores, budget.gpus, budget.resources),
        used=Total(
            own_bytes + sum(row.memory_bytes for row in rows),
            round(sum(row.cpus for row in rows), 3),
            round(sum(len(row.gpus) * row.gpu_part for row in rows), 3),
            held,
        ),
        replicas=found,
    )
