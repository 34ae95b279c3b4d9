"""Declared minima that do not all fit: whose cannot be held, and who holds the room. Pure; must not know how room is
made, nor for whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from muleteer.control.claims import Demand, Holding
from muleteer.control.pieces import format_pieces, lacking, plus
from muleteer.control.share import Budget
from muleteer.spec.units import format_bytes

_NAMED_MAX = 3
"""Of those who hold what is missing so many are named."""


class Crowded(msgspec.Struct, frozen=True):
    """A declared minimum that does not fit beside what is held of all minima. `certain`: all of that was measured; else
    it may turn out smaller.
    """

    reason: str
    certain: bool


def kept(demands: Mapping[str, Demand], staying: Iterable[Holding]) -> list[Holding]:
    """Of each backend the smallest, as many as it declared for always. All others will make room."""
    left = {name: demand.least for name, demand in demands.items()}
    found = []
    for each in sorted(staying, key=lambda each: each.counted_bytes):
        if left.get(each.backend, 0) > 0:
            left[each.backend] -= 1
            found.append(each)
    return found


def crowded_out(demand: Demand, granted: int, held: Sequence[Holding], budget: Budget) -> Crowded | None:
    """Why one more than `granted` of it does not fit beside what is `kept`; None if it does."""
    measured = sum(each.counted_bytes for each in held if each.measured)
    if (name := _lacks(demand, held, budget)) is not None:
        takes, whole = format_pieces(name, demand.pieces[name]), format_pieces(name, budget.pieces.get(name, 0.0))
        holders = _holders((each.backend, each.pieces.get(name, 0.0)) for each in held)
        words = [(holder, f"{count:g}") for holder, count in holders]
        certain = True
    elif demand.memory_bytes + sum(each.counted_bytes for each in held) > budget.memory_bytes:
        guess = "" if demand.known else " (a guess: `memory` would say)"
        takes, whole = format_bytes(demand.memory_bytes) + guess, format_bytes(budget.memory_bytes)
        holders = _holders((each.backend, each.counted_bytes) for each in held)
        words = [(holder, format_bytes(int(count))) for holder, count in holders]
        certain = demand.memory_bytes + measured > budget.memory_bytes
    else:
        return None
    one = f"room for {granted} of {demand.least} replicas: another" if granted else "no room: a replica"
    (first, most), *others = words
    by_whom = ", ".join([f"{first} holds {most}", *(f"{holder} {count}" for holder, count in others)])
    return Crowded(f"{one} takes {takes}, and of the {whole} for all replicas {by_whom}", certain)


def _lacks(demand: Demand, held: Iterable[Holding], budget: Budget) -> str | None:
    """Of what there is too little, counted in pieces."""
    if not demand.pieces:
        return None
    asked = demand.pieces
    for each in held:
        asked = plus(asked, each.pieces)
    short = lacking(asked, budget.pieces)
    return next((name for name in demand.pieces if name in short), None)


def _holders(amounts: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """By backend, the largest first; the small ones in one."""
    sums: dict[str, float] = {}
    for name, amount in amounts:
        sums[name] = sums.get(name, 0.0) + amount
    rows = sorted(((name, amount) for name, amount in sums.items() if amount), key=lambda row: (-row[1], row[0]))
    rest = rows[_NAMED_MAX:]
    return rows[:_NAMED_MAX] + ([(f"{len(rest)} others", sum(amount for _, amount in rest))] if rest else [])
