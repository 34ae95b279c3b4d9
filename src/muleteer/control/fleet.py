"""The replicas of one backend, declared or on its way out: what is seen of them and what is to be done. Must not know
engines, gateways or the other backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from muleteer.control.autoscale import Present
from muleteer.control.backend import Backend, failed_start, in_words, replica_number
from muleteer.control.budget import Allocation
from muleteer.control.places import patience_s, waits_for_place
from muleteer.control.proc import resident_bytes
from muleteer.control.reconcile import Condition, Plan, Seen, Spare, Wanted, plan
from muleteer.control.share import Grant
from muleteer.control.startup import StartUps
from muleteer.control.wear import Measured, Wear
from muleteer.engine.port import ReplicaState, ReplicaStatus
from muleteer.spec.settings import BackendSettings, BackendSpec, Replicas
from muleteer.spec.units import format_bytes

_CONDITIONS: dict[ReplicaState, Condition] = {
    "starting": "starting",
    "backoff": "starting",
    "ready": "ready",
    "failed": "failed",
}


class Observed(msgspec.Struct):
    """One replica: what the engine told last, when its state began (controller's clock), and its memory."""

    status: ReplicaStatus
    since_s: float
    rss_bytes: int | None = None


class Hindrance(NamedTuple):
    """Why a backend does not run as declared, in a sentence and a word. `crowded`: others hold its room, and go on."""

    text: str
    reason: str = "no_room"
    crowded: bool = False


class Leaving(msgspec.Struct):
    """A replica on its way out: no snapshot names it, the gateways acknowledge that, then it is stopped.

    Attributes:
        since_s: when that was decided.
        revision: the first snapshot without it; None until published.
        stopped: whether the engine was told.
    """

    since_s: float
    revision: int | None = None
    stopped: bool = False


class ReplicaStatistics(msgspec.Struct, frozen=True):
    """One replica as the controller sees it. `state_s`: seconds in its state."""

    status: ReplicaStatus
    state_s: float
    rss_bytes: int | None
    leaving: bool
    worn: bool


class BackendStatistics(msgspec.Struct, frozen=True):
    """One declared backend.

    Attributes:
        wanted: replicas, as declared or as its load needs.
        settled: as many as wanted are ready, or as many as ever have room, all current, and none leaves.
        observed: whether the engine has told what runs; before that `replicas` is empty for want of knowledge.
        bounds: what `wanted` may be.
        limited: why fewer than wanted may run; empty if all may.
        unfit: why not even one ever does, as things are; empty if one does.
    """

    name: str
    generation: int
    wanted: int
    replicas: tuple[ReplicaStatistics, ...]
    fingerprint: str = ""
    settled: bool = False
    observed: bool = True
    bounds: Replicas | None = None
    limited: str = ""
    unfit: str = ""


def failed_for_good(backend: BackendStatistics) -> str | None:
    """Why no replica serves nor will, until retried; None if one does or may."""
    staying = [replica.status for replica in backend.replicas if not replica.leaving]
    if not staying and backend.unfit:
        return backend.unfit
    if not _all_failed(staying):
        return None
    last_exit = failed_start(staying)
    return in_words(last_exit) if last_exit is not None else "its replicas failed"


def _all_failed(staying: Sequence[ReplicaStatus]) -> bool:
    return bool(staying) and all(status.state == "failed" for status in staying)


class Fleet:
    """All replicas of one name.

    Args:
        leaving: replicas of all fleets that are on their way out, by id; this fleet adds its own.
        numbers_used: of an earlier fleet of this name; an id is not given twice.

    Attributes:
        backend: None if it is not declared (any more): then every replica leaves.
        settings: as declared last, also of one that is declared no more: what leaves holds that until it is gone.
        wanted: replicas, as declared or as its load needs.
        granted: replicas that there is room for, outdated ones included; None: nothing bounds them.
        grant: the same in words; None before the budget was asked.
        spare: the room for replacing replicas.
        refused: why nothing runs and nothing can start; None while something does.
        unfit: the same where even one is more than all there is.
        crowded: why fewer than its declared minimum have room beside the others, for certain; None where they have it.
        unplaced: of a cluster, no replica has a place, and that for so long that calls are not to wait for one.
    """

    def __init__(self, name: str, leaving: dict[str, Leaving], numbers_used: int = 0) -> None:
        self.name = name
        self.backend: Backend | None = None
        self.settings: BackendSettings | None = None
        self.replicas: dict[str, Observed] = {}
        self.numbers_used = numbers_used
        self.wanted = 0
        self.granted: int | None = None
        self.spare: Spare = "surge"
        self.grant: Grant | None = None
        self.refused: str | None = None
        self.unfit: str | None = None
        self.crowded: str | None = None
        self.unplaced = False
        self._placeless_s: float | None = None
        self._leaving = leaving
        self._start_s: float | None = None
        self._gone_s = -math.inf
        self._wear = Wear()

    def declare(self, spec: BackendSpec | None) -> None:
        """What is wanted of it from now on."""
        self.crowded = None
        if spec is not None:
            self.settings = spec.settings
        if spec is None:
            self.backend = None
        elif self.backend is not None:
            self.backend.declare(spec)
        else:
            self.backend = Backend(spec)
            for seen in self.replicas.values():
                self.backend.observe(seen.status)

    def observe(self, status: ReplicaStatus, now: float) -> None:
        """What the engine tells of one replica."""
        self.numbers_used = max(self.numbers_used, replica_number(status.id))
        if status.state == "gone":
            self.replicas.pop(status.id, None)
            self._leaving.pop(status.id, None)
            self._wear.forget(status.id)
            self._gone_s = now
            return
        self.replicas[status.id] = Observed(status, now - status.since_s, _resident(status))
        if self.backend is not None:
            self.backend.observe(status)

    def next_id(self) -> str:
        """The id of a replica to start; never given twice."""
        self.numbers_used += 1
        return f"{self.name}-{self.numbers_used}"

    def plan(self) -> Plan:
        """The next step towards what is wanted."""
        backend = self.backend
        wanted = Wanted(self._target(), backend.generation, self.spare) if backend is not None else Wanted(0, 0)
        return plan(wanted, tuple(self._seen(seen.status) for seen in self._staying()))

    def outdated(self) -> bool:
        """Whether a replica is to be replaced."""
        backend = self.backend
        return backend is not None and any(
            seen.status.generation != backend.generation or self._wear.worn(seen.status.id) for seen in self._staying()
        )

    def short(self) -> bool:
        """Whether something is to be started, or would be if there were room."""
        return self.backend is not None and (self.outdated() or len(self._staying()) < self.wanted)

    def allot(self, allocation: Allocation, *, waiting: bool, now: float) -> bool:
        """What the budget says, while calls wait or not. Whether that changes what is to be done."""
        before = self.granted, self.spare, self.refused, self.crowded, self.unplaced
        grant = self.grant = allocation.grants[self.name]
        refusal = allocation.refused.get(self.name)
        asked = waiting or (self.backend is not None and self.backend.spec.settings.bounds.min > 0)
        self.granted = grant.replicas
        self.refused = refusal.reason if refusal is not None and asked else None
        self.unfit = self.refused if refusal is not None and refusal.never else None
        crowded = allocation.crowded.get(self.name)
        if crowded is None:
            self.crowded = None
        elif crowded.certain or self.crowded is not None:  # what was certain is not doubted for one that restarts
            self.crowded = crowded.reason
        if self.crowded is not None and not grant.replicas:
            self.refused = self.crowded
        self.spare = self._spare(allocation, grant.replicas, now)
        self.unplaced = self._without_place(now)
        return before != (self.granted, self.spare, self.refused, self.crowded, self.unplaced)

    def _without_place(self, now: float) -> bool:
        patience = patience_s([seen.status for seen in self._staying()])
        if patience is None:
            self._placeless_s = None
            return False
        if self._placeless_s is None:
            self._placeless_s = now
        return now - self._placeless_s >= patience

    def _spare(self, allocation: Allocation, granted: int, now: float) -> Spare:
        if granted > self.wanted or not self.outdated():
            return "surge"
        leaves = any(self.leaves(id) for id in self.replicas)
        if leaves or now - self._gone_s < allocation.seen_late_s:
            return "none"  # room is on its way: one at a time
        return "give_way" if self.name in allocation.drain_first or granted < self.wanted else "none"

    def unservable(self) -> str | None:
        """Why nothing of it can run on this machine as it is; None if something may, or does."""
        return (self.unfit or self.crowded) if not self._staying() else None

    def hindrance(self, *, elsewhere: bool) -> Hindrance | None:
        """What the person who started us is to hear; None if there is nothing. `elsewhere`: replicas are no processes
        of the supervisor, which would tell of those that do not start.
        """
        if self.crowded is not None:
            return Hindrance(self.crowded, crowded=True)
        unfit, staying = self.unservable(), [seen.status for seen in self._staying()]
        if unfit is not None:
            return Hindrance(unfit)
        last_exit = failed_start(staying) if elsewhere and _all_failed(staying) else None
        return None if last_exit is None else Hindrance(in_words(last_exit), last_exit.reason)

    def count(self) -> int:
        """Replicas that stay and may serve."""
        return sum(seen.status.state != "failed" for seen in self._staying())

    def start_s(self, startups: StartUps, now: float) -> float | None:
        """What a start is expected to take, in seconds; it is told anew only when it has changed by a quarter."""
        expected = None if self.backend is None else startups.foreseen_s(self.name, self.backend.fingerprint, now)
        told = self._start_s
        if expected is None or told is None or not 0.8 < expected / told < 1.25:
            self._start_s = None if expected is None else float(f"{expected:.2g}")
        return self._start_s

    def present(self, now: float) -> Present:
        """Those that stay, for sizing."""
        staying = self._staying()
        ready = sum(seen.status.state == "ready" for seen in staying)
        starting = tuple(now - seen.since_s for seen in staying if seen.status.state == "starting")
        return Present(ready, starting, sum(seen.status.state == "failed" for seen in staying))

    def leave(self, id: str, now: float) -> None:
        """This replica is to go."""
        self._leaving.setdefault(id, Leaving(now))

    def leaves(self, id: str) -> bool:
        """Whether it is on its way out."""
        return id in self._leaving or self.replicas[id].status.state == "stopping"

    def statuses(self) -> list[ReplicaStatus]:
        """All replicas, those that leave too."""
        return [seen.status for seen in self.replicas.values()]

    def serving(self) -> list[ReplicaStatus]:
        """All replicas but those that leave."""
        return [seen.status for id, seen in self.replicas.items() if id not in self._leaving]

    def measure(self, now: float, notice: Callable[[str], None]) -> None:
        """Look at the memory of every replica; say which one is to be replaced for it, if any."""
        for seen in self.replicas.values():
            seen.rss_bytes = _resident(seen.status)
        if self.backend is None:
            return
        max_rss = self.backend.spec.settings.max_rss
        worn = self._wear.examine(
            max_rss,
            (
                Measured(seen.status, now - seen.since_s if seen.status.state == "ready" else 0.0, seen.rss_bytes)
                for seen in self._staying()
            ),
        )
        if worn is not None and worn.rss_bytes is not None and max_rss is not None:
            size, bound = format_bytes(worn.rss_bytes), format_bytes(max_rss)
            notice(f"replacing {worn.replica.id}: it holds {size}, more than max_rss {bound}")

    def settled(self) -> bool:
        """Whether what runs is what is declared, or as much of it as has room for certain."""
        backend = self.backend
        if backend is None:
            return not self.replicas
        most = self._target() if self.crowded is not None and self.granted else self.wanted
        return len(self.replicas) == most and all(
            seen.status.state == "ready"
            and seen.status.generation == backend.generation
            and id not in self._leaving
            and not self._wear.worn(id)
            for id, seen in self.replicas.items()
        )

    def statistics(self, now: float, *, observed: bool = True) -> BackendStatistics:
        """A frozen snapshot. `observed`: see BackendStatistics."""
        backend = self.backend
        return BackendStatistics(
            name=self.name,
            generation=backend.generation if backend is not None else 0,
            wanted=self.wanted if backend is not None else 0,
            replicas=tuple(
                ReplicaStatistics(
                    status=seen.status,
                    state_s=max(0.0, now - seen.since_s),
                    rss_bytes=seen.rss_bytes,
                    leaving=self.leaves(id),
                    worn=self._wear.worn(id),
                )
                for id, seen in self.replicas.items()
            ),
            fingerprint=backend.fingerprint if backend is not None else "",
            settled=observed and self.settled(),
            observed=observed,
            bounds=backend.spec.settings.bounds if backend is not None else None,
            limited=self.crowded or (self.grant.reason if self.grant is not None and self.grant.limited_by else ""),
            unfit=self.unservable() or "",
        )

    def _target(self) -> int:
        return self.wanted if self.granted is None else min(self.wanted, self.granted)

    def _staying(self) -> list[Observed]:
        return [
            seen for id, seen in self.replicas.items() if id not in self._leaving and seen.status.state in _CONDITIONS
        ]

    def _seen(self, status: ReplicaStatus) -> Seen:
        return Seen(
            id=status.id,
            number=replica_number(status.id),
            generation=status.generation,
            condition="unplaced" if waits_for_place(status) else _CONDITIONS[status.state],
            worn=self._wear.worn(status.id),
        )


def _resident(status: ReplicaStatus) -> int | None:
    return resident_bytes(status.pid) if status.pid is not None else None
