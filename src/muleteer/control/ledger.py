"""What one replica of each kind takes, declared, measured or guessed, and what there is for all. Must not know how it
is measured, nor who gets it.
"""

from __future__ import annotations

from typing import NamedTuple

from muleteer.base.limits import MEMORY_GUESS, MEMORY_RESERVE
from muleteer.control.share import MEMORY_UNBOUND, Budget
from muleteer.engine.port import Capacity

LEAST = 8 * 1024 * 1024
"""Bytes that a process of ours takes before any model is in it."""
_GUESS_SHARE = 8  # of a small machine, so that one can be tried at all
_GUESS_FACTOR = 2  # what is guessed may turn out twice as large
_KINDS_MIN = 4
_HALF_LIFE_S = 600.0  # what a kind needed once, and needs no more, is forgotten slowly


class Reservation(NamedTuple):
    """Memory to set aside for a replica that starts. `known`: declared or measured, no guess."""

    memory_bytes: int
    known: bool


class Ledger:
    """Remembers the memory of each kind of replica, by fingerprint, also after the last of a kind is gone."""

    def __init__(self) -> None:
        self._measured: dict[str, float] = {}
        self._starts: dict[str, int] = {}
        self._targets: dict[str, str] = {}

    def observe(self, fingerprint: str, target: str, memory_bytes: int, seconds: float) -> None:
        """The largest ready replica of this kind holds so much (PSS), `seconds` after the last word about the kind.
        `target`: the class it is made of.
        """
        faded = self._measured.get(fingerprint, 0.0) * 0.5 ** (seconds / _HALF_LIFE_S)
        self._measured[fingerprint] = max(float(memory_bytes), faded)
        self._targets[fingerprint] = target

    def outgrew(self, fingerprint: str, memory_bytes: int) -> None:
        """A replica of this kind holds so much, more than was set aside for it, and is only starting: no start takes
        less, whatever is declared. Else one that fits nowhere would be started, ended and started again for ever.
        """
        self._starts[fingerprint] = max(memory_bytes, self._starts.get(fingerprint, 0))

    def keep(self, fingerprints: frozenset[str]) -> None:
        """Forget all kinds but these."""
        self._starts = {kind: size for kind, size in self._starts.items() if kind in fingerprints}
        self._measured = {kind: size for kind, size in self._measured.items() if kind in fingerprints}
        self._targets = {kind: target for kind, target in self._targets.items() if kind in fingerprints}

    def measured_bytes(self, fingerprint: str) -> int:
        """What a replica of this kind held when it was looked at last; 0 before the first look."""
        return int(self._measured.get(fingerprint, 0.0))

    def reservation(self, fingerprint: str, target: str, declared: int | None, budget: Budget) -> Reservation:
        """For one replica of this kind, of which `declared` bytes were declared.

        Twice a guess: the most that others of the same class need, set up otherwise; else MEMORY_GUESS or an eighth of
        the budget and, once some kinds were measured, no more than three quarters of them need. What exceeds a quarter
        of the budget is not doubled: beside others, or at all, it would never start.
        """
        least = self._starts.get(fingerprint, 0)
        if declared is not None:
            return Reservation(max(declared, least), True)
        if fingerprint in self._measured:
            return Reservation(max(int(self._measured[fingerprint]), least), True)
        guess = max(LEAST, self._guess(target, budget))
        room = max(guess, _GUESS_FACTOR * budget.memory_bytes // _GUESS_SHARE)
        return Reservation(max(min(_GUESS_FACTOR * guess, room), least), False)

    def _guess(self, target: str, budget: Budget) -> int:
        kin = [size for kind, size in self._measured.items() if self._targets[kind] == target]
        if kin:
            return int(max(kin))
        guess = min(MEMORY_GUESS, budget.memory_bytes // _GUESS_SHARE)
        if len(self._measured) < _KINDS_MIN:
            return guess
        return min(guess, int(sorted(self._measured.values())[3 * len(self._measured) // 4]))


def budget_of(capacity: Capacity, used_bytes: int, own_bytes: int = 0) -> Budget:
    """What all replicas may use together, while those that run use `used_bytes` (PSS), and the other processes of the
    server `own_bytes`: those that replicas are forked from, too.

    What was declared is for the whole server. Memory that was found is what replicas use and what nobody uses; what
    others use, our own processes too, is not ours to give, and of the rest MEMORY_RESERVE % are left for what they may
    need next.
    """
    memory = capacity.memory_bytes
    if memory is None:
        memory = MEMORY_UNBOUND
    elif capacity.available_bytes is not None:
        free = capacity.available_bytes
        memory = min(memory, used_bytes + free - free * MEMORY_RESERVE // 100)
    else:
        memory -= own_bytes
    return Budget(max(0, memory), capacity.cpus, float(len(capacity.gpus)))
