"""One machine for many backends: who gets how many replicas when not all fit. Pure; must not know who measures.

Weighted max-min fairness over whole replicas: the next one goes to the backend whose dominant share, the larger of
its part of the memory and of the cores, is smallest for its weight (A. Ghodsi et al., "Dominant resource fairness",
NSDI 2011; with one scarce resource it is plain max-min). Nobody gets more than it wants, so what one leaves is shared
by the others; a busy backend cannot take from another what that wants within its fair share.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

from muleteer.control.pieces import Pieces, pieces
from muleteer.spec.units import format_bytes, format_rough

MEMORY_UNBOUND = 1 << 62
"""Bytes, where nobody knows how many there are."""


class Budget(msgspec.Struct, frozen=True):
    """What the replicas of a machine may use together. `gpus`: devices; `resources`: of a cluster, what its nodes were
    given besides, by name. Fairness leaves both out.
    """

    memory_bytes: int
    cores: float
    gpus: float = 0.0
    resources: Pieces = {}

    @property
    def pieces(self) -> Pieces:
        """GPUs and resources."""
        return pieces(self.gpus, self.resources)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one backend wants.

    Attributes:
        wanted: replicas, from its sizing.
        least: replicas that were declared as minimum, served before fairness begins.
        memory_bytes: of one replica, measured, or the declared or default guess before.
        cores: that one replica keeps busy at its present rate, or that were declared for it.
    """

    backend: str
    wanted: int
    least: int = 0
    memory_bytes: int = 0
    cores: float = 0.0
    weight: float = 1.0


class Grant(msgspec.Struct, frozen=True):
    """What it gets, and why not more."""

    backend: str
    replicas: int
    limited_by: str
    reason: str


def shared(claims: Sequence[Claim], budget: Budget) -> dict[str, Grant]:
    """Grants by backend. Memory is never exceeded; cores are not by what fairness adds to first replicas.

    Minima come first, in turns; then one replica for every backend that wants any, smallest claim first, since the
    first replica is worth most; then fairness. Cores only bound what is added to the first: slow is better than none.
    """
    granted = dict.fromkeys((claim.backend for claim in claims), 0)
    held: dict[str, str] = {}
    memory, cores = float(budget.memory_bytes), budget.cores

    def give(claim: Claim, *, bounded: bool) -> bool:
        nonlocal memory, cores
        if claim.memory_bytes > memory:
            held[claim.backend] = "memory"
            return False
        if bounded and claim.cores > cores + 1e-9:
            held[claim.backend] = "cpu"
            return False
        memory -= claim.memory_bytes
        cores -= claim.cores
        granted[claim.backend] += 1
        return True

    for turn in range(max((claim.least for claim in claims), default=0)):
        for claim in claims:
            if turn < claim.least:
                give(claim, bounded=False)
    for claim in sorted(claims, key=lambda c: (c.memory_bytes, c.backend)):
        if claim.wanted and not granted[claim.backend]:
            give(claim, bounded=False)

    def level(claim: Claim) -> float:
        """The dominant share it would have with one more, for its weight."""
        count = granted[claim.backend] + 1
        part = max(claim.memory_bytes / max(budget.memory_bytes, 1), claim.cores / max(budget.cores, 1e-9))
        return count * part / claim.weight

    line = [(level(claim), claim.backend, claim) for claim in claims if 0 < granted[claim.backend] < claim.wanted]
    heapq.heapify(line)
    while line:
        _, _, claim = heapq.heappop(line)
        if give(claim, bounded=True) and granted[claim.backend] < claim.wanted:
            heapq.heappush(line, (level(claim), claim.backend, claim))
    return {
        claim.backend: _grant(claim, granted[claim.backend], held.get(claim.backend, ""), memory, cores)
        for claim in claims
    }


def _grant(claim: Claim, replicas: int, held: str, memory: float, cores: float) -> Grant:
    wanted = max(claim.wanted, claim.least)
    if replicas >= wanted:
        return Grant(claim.backend, replicas, "", f"{replicas}: all it wants")
    if held == "cpu":
        why = f"another keeps {format_rough(claim.cores)} cores busy and {format_rough(max(cores, 0.0))} are left"
    else:
        why = f"another takes {format_bytes(claim.memory_bytes)} and {format_bytes(int(memory))} are left"
    return Grant(claim.backend, replicas, held or "memory", f"{replicas} of {wanted} wanted: {why}")
