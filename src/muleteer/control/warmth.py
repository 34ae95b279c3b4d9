"""How long to keep an idle replica, and which to give up for another. Pure; must not know processes.

**Idle time.** Keeping costs by the second, a start costs once: ski rental. Who keeps exactly until the keeping has
cost as much as a start pays at most twice what knowing the future would cost, and no fixed rule does better (A. R.
Karlin, M. S. Manasse, L. Rudolph, D. D. Sleator, "Competitive snoopy caching", Algorithmica 3, 1988; with chance,
e/(e-1): A. R. Karlin, M. S. Manasse, L. A. McGeoch, S. Owicki, "Competitive randomized algorithms for nonuniform
problems", Algorithmica 11, 1994).

**Eviction.** The value of keeping is the expected cost of starting again by the byte it would free: start-up seconds
 times calls/s ÷ bytes (GreedyDual-Size: P. Cao, S. Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997, with
 the frequency of L. Cherkasova's GDSF, 1998; our rates fade with time, which stands for their ageing term).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from muleteer.spec.units import format_rough

CALLER_WEIGHT = 60.0  # a second that a caller waits for a start weighs as much as a minute of an idle replica
IDLE_S_MIN = 10.0  # below, a person who clicks twice meets two starts
IDLE_S_MAX = 3600.0


def idle_s(startup_s: float) -> float:
    """Seconds that the last replica is kept idle: as long as a start costs, callers included."""
    return min(IDLE_S_MAX, max(IDLE_S_MIN, startup_s * (1 + CALLER_WEIGHT)))


def idle_reason(startup_s: float, *, measured: bool = True) -> str:
    """`idle_s` in words and numbers."""
    start = "a start takes" if measured else "a start, not measured yet, is taken for"
    return (
        f"an idle replica is kept for {idle_s(startup_s):.0f} s: {start} {format_rough(startup_s)} s, and "
        f"a second of a caller who waits for it counts as {CALLER_WEIGHT:.0f} s of keeping (between "
        f"{IDLE_S_MIN:.0f} s and {IDLE_S_MAX:.0f} s)"
    )


class Resident(msgspec.Struct, frozen=True):
    """An idle replica that could be given up.

    Attributes:
        backend, replica: its names.
        memory_bytes: what ending it would free, measured (PSS).
        startup_s: measured.
        rate: calls/s of its backend, recent ones weighing more.
        idle_s: since its last call.
        spare: its backend has other replicas that keep serving.
    """

    backend: str
    replica: str
    memory_bytes: int
    startup_s: float
    rate: float
    idle_s: float
    spare: bool = False

    @property
    def use_rate(self) -> float:
        """Expected uses/s of this replica: after a long silence a rate of old is not believed."""
        return min(self.rate, 1 / max(self.idle_s, 1e-3))

    @property
    def value(self) -> float:
        """Start-up seconds saved per second and byte of keeping it."""
        return self.startup_s * self.use_rate / max(self.memory_bytes, 1)

    def reason(self) -> str:
        """In words and numbers."""
        spare = f", {self.backend} keeps others" if self.spare else ""
        return (
            f"{self.replica}: idle for {self.idle_s:.3g} s, {self.rate:.3g} calls/s, {self.memory_bytes / 1e6:.0f} MB, "
            f"starts in {format_rough(self.startup_s)} s{spare}"
        )


def victims(residents: Iterable[Resident], free_bytes: int) -> tuple[Resident, ...]:
    """Whom to give up to free `free_bytes`: spare ones first, then the least valuable; none if all would not do.

    What turns out not to be needed, because a later one is large enough, stays.
    """
    chosen: list[Resident] = []
    freed = 0
    for resident in sorted(residents, key=lambda r: (not r.spare, r.value, r.replica)):
        if freed >= free_bytes:
            break
        chosen.append(resident)
        freed += resident.memory_bytes
    if freed < free_bytes:
        return ()
    for resident in reversed(chosen.copy()):
        if freed - resident.memory_bytes >= free_bytes:
            chosen.remove(resident)
            freed -= resident.memory_bytes
    return tuple(chosen)
