"""What backends ask of a machine, and what replicas hold of it. Pure; must not know who decides, nor who measures."""

from __future__ import annotations

import msgspec

from muleteer.control.pieces import Pieces, pieces

RESIDENCE_STARTS = 2.0
RESIDENCE_S_MIN = 1.0
SETTLED_S = 1.0
"""By then a replica was measured since it became ready; before, the figure is that of a half-loaded one."""


def residence_s(startup_s: float) -> float:
    """Seconds that a replica serves at least before it may be given up for another."""
    return max(RESIDENCE_S_MIN, RESIDENCE_STARTS * startup_s)


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What one declared backend asks for now.

    Attributes:
        wanted: replicas, from its sizing or as declared.
        least: of them, the declared minimum.
        surge: replicas beyond `wanted` that an update needs for a while.
        waited_s: seconds for which calls have been waiting for a slot of it; 0: none waits. Only where some wait, below
            `least`, or for a surge is anything given up for it.
        memory_bytes: to set aside for one replica that starts: declared, else measured, else guessed (`Ledger`).
        known: that is no guess.
        cores: that one replica keeps busy, declared or measured.
        gpus: devices of one replica; below 1 a part of one.
        resources: of a cluster, what one replica reserves besides, by name.
        startup_s: measured, or a guess.
        rate: calls/s, recent ones weighing more.
    """

    backend: str
    wanted: int
    least: int = 0
    surge: int = 0
    waited_s: float = 0.0
    memory_bytes: int = 0
    known: bool = True
    cores: float = 0.0
    gpus: float = 0.0
    resources: Pieces = {}
    weight: float = 1.0
    startup_s: float = 1.0
    rate: float = 0.0

    @property
    def pieces(self) -> Pieces:
        """GPUs and resources of one replica."""
        return pieces(self.gpus, self.resources)

    @property
    def waiting(self) -> bool:
        """Whether calls wait."""
        return self.waited_s > 0


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that exists, in whatever state, also of a backend that is declared no more.

    Attributes:
        memory_bytes: measured (PSS); 0 before it was.
        reserved_bytes: set aside when it was started; counts until it was ready for SETTLED_S.
        declared_bytes: the `memory` it declares, or 0.
        state: `leaving` includes everything that no gateway sends calls to any more.
        known: what was set aside is no guess.
        busy: it works on a call.
        starting_s, ready_s: seconds since its start began, since it became ready; 0 where it is in another state.
        idle_s: seconds since its last call ended (or since ready).
    """

    backend: str
    replica: str
    state: str = "ready"
    memory_bytes: int = 0
    reserved_bytes: int = 0
    declared_bytes: int = 0
    gpus: float = 0.0
    resources: Pieces = {}
    known: bool = True
    busy: bool = False
    starting_s: float = 0.0
    ready_s: float = 0.0
    idle_s: float = 0.0

    @property
    def pieces(self) -> Pieces:
        """GPUs and resources that it holds."""
        return pieces(self.gpus, self.resources)

    @property
    def measured(self) -> bool:
        """Whether what it takes is what it holds, not what was set aside for it."""
        return self.state != "starting" and (self.state != "ready" or self.ready_s >= SETTLED_S)

    @property
    def counted_bytes(self) -> int:
        """What it takes of the budget."""
        if not self.measured:
            return max(self.memory_bytes, self.reserved_bytes)
        return self.memory_bytes or self.reserved_bytes

    @property
    def held_bytes(self) -> int:
        """What it is known to hold: what is set aside for a start is not held yet."""
        return self.memory_bytes or (0 if self.state == "starting" else self.reserved_bytes)

    @property
    def excess_bytes(self) -> int:
        """By how much it outgrew what was declared, or set aside."""
        return self.memory_bytes - (self.declared_bytes or self.reserved_bytes)
