"""Asks the budget for all backends: what each wants and what every replica holds, in its terms. Must not know who
decides (`control.budget`), nor gateways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from muleteer.base.limits import SIZING_TICK_S
from muleteer.control.account import Account, ReplicaAccount, account
from muleteer.control.autoscale import Autoscaler
from muleteer.control.budget import Allocation, allocate
from muleteer.control.claims import SETTLED_S, Demand, Holding
from muleteer.control.fleet import Fleet, Observed
from muleteer.control.ledger import LEAST, Ledger, Reservation, budget_of
from muleteer.control.measure import Cpu
from muleteer.control.meter import Meter
from muleteer.control.pieces import Pieces
from muleteer.control.places import (
    SEEN_LATE_S,
    Leavers,
    Reserved,
    asking,
    budget_of_cluster,
    holds_place,
    reserved,
    surge_has_place,
    waits_for_place,
)
from muleteer.control.proc import Usage
from muleteer.control.scaling import UNKNOWN_START_S
from muleteer.control.share import Budget
from muleteer.engine.port import Capacity
from muleteer.spec.units import format_bytes


class Allotter:
    """Of one server.

    Attributes:
        budget: what all replicas may use together, as last seen; None before.
    """

    def __init__(self, capacity: Callable[[], Capacity], autoscaler: Autoscaler) -> None:
        self.budget: Budget | None = None
        self._capacity = capacity
        self._autoscaler = autoscaler
        self._ledger = Ledger()
        self._meter = Meter()
        self._usage: dict[int, Usage] = {}
        self._own_meter = Meter(children=False)  # the supervisor's children are all the others
        self._own_bytes = 0
        self._looked_s = 0.0
        self._leavers = Leavers()  # of a cluster
        self._reserves = False  # replicas take what they declare, as on a cluster
        self._reserved: dict[str, int] = {}  # by replica
        self._guessed: set[str] = set()  # replicas for which that was a guess
        self._used_s: dict[str, float] = {}  # when a replica last worked on a call

    def look(self, now: float, fleets: Iterable[Fleet], own_pids: Collection[int] = ()) -> None:
        """Measure what runs: replicas, and the server's other processes."""
        seconds, self._looked_s = now - self._looked_s, now
        fleets = list(fleets)
        seen = [(fleet, each) for fleet in fleets for each in fleet.replicas.values()]
        self._own_bytes = sum(usage.pss_bytes for usage in self._own_meter.look(now, own_pids).values())
        self._usage = self._meter.look(now, {each.status.pid for _, each in seen if each.status.pid is not None})
        backends = [fleet.backend for fleet in fleets if fleet.backend is not None]
        targets = {backend.fingerprint: backend.spec.target for backend in backends}
        for fleet in fleets:
            used: dict[str, Cpu] = {}
            largest: dict[str, int] = {}
            for each in fleet.replicas.values():
                usage = self._usage.get(each.status.pid or 0)
                kind = each.status.fingerprint
                if usage is None:
                    continue
                loads = each.status.state == "starting" or now - each.since_s < SETTLED_S
                if loads and usage.pss_bytes > self._reserved.get(each.status.id, usage.pss_bytes):
                    self._ledger.outgrew(kind, usage.pss_bytes)
                if each.status.state != "ready":
                    continue
                largest[kind] = max(largest.get(kind, 0), usage.pss_bytes)
                cores = self._meter.cores(each.status.pid or 0)
                used[f"{each.status.id} {each.status.pid}"] = Cpu(usage.cpu_s, usage.cpu_wait_s, cores)
            for kind, pss_bytes in largest.items():
                self._ledger.observe(kind, targets.get(kind, ""), pss_bytes, seconds)
            if used:
                self._autoscaler.take_cpu(fleet.name, used)
        self._used_s = {each.status.id: self._used_s.get(each.status.id, -math.inf) for _, each in seen}
        there = {each.status.id for _, each in seen}
        self._reserved = {id: size for id, size in self._reserved.items() if id in there}
        self._guessed &= self._reserved.keys()
        for fleet in fleets:
            self._note_use(fleet, now)
        self._ledger.keep(frozenset(each.status.fingerprint for _, each in seen) | self._declared(fleets))

    def memory_bytes(self, fleet: Fleet) -> int:
        """Of one replica, measured: of those that run, else of those that ran; 0 before."""
        sizes = (self.pss_bytes(each.status.pid) or 0 for each in fleet.replicas.values())
        remembered = self._ledger.measured_bytes(fleet.backend.fingerprint) if fleet.backend is not None else 0
        return max(sizes, default=0) or remembered

    def pss_bytes(self, pid: int | None) -> int | None:
        """Measured; None if it was not."""
        usage = self._usage.get(pid or 0)
        return None if usage is None else usage.pss_bytes

    def account(self, now: float, fleets: Iterable[Fleet]) -> Account | None:
        """What each replica takes of the machine; None before the budget was asked."""
        if self.budget is None:
            return None
        rows = ((each.status.id, self._row(fleet, each, now)) for fleet in fleets for each in fleet.replicas.values())
        return account(self.budget, 0 if self._reserves else self._own_bytes, rows)

    def _row(self, fleet: Fleet, each: Observed, now: float) -> ReplicaAccount:
        holding = self._holding(fleet, each, now)
        return ReplicaAccount(
            memory_bytes=holding.counted_bytes if each.status.state != "failed" else 0,
            measured_bytes=self.pss_bytes(each.status.pid),
            cpus=round(self._meter.cores(each.status.pid or 0), 3),
            gpus=each.status.gpus,
            gpu_part=min(1.0, holding.gpus),
            resources=holding.resources if holds_place(each.status) else {},
        )

    def started(self, fleet: Fleet, replica: str) -> None:
        """What was granted for it is set aside."""
        if self.budget is not None and fleet.backend is not None:
            spec, key = fleet.backend.spec, fleet.backend.fingerprint
            reservation = self._ledger.reservation(key, spec.target, spec.settings.memory, self.budget)
            self._reserved[replica] = reservation.memory_bytes
            if not reservation.known:
                self._guessed.add(replica)

    def allocate(self, now: float, fleets: Mapping[str, Fleet]) -> Allocation:
        """Who may have how many replicas now."""
        capacity = self._capacity()
        if capacity.available_cpus is None:
            used = sum(usage.pss_bytes for usage in self._usage.values())
            budget = budget_of(capacity, used, self._own_bytes)
        else:
            named = {name for each in self._declared_there(fleets.values()) for name in each.resources}
            placed = dict(self._placed(fleets.values()))
            existing = {id for fleet in fleets.values() for id in fleet.replicas}
            ours = [*placed.values(), *self._leavers.look(now, placed, existing)]
            budget = budget_of_cluster(capacity, ours, sorted(named))
        self._reserves = capacity.available_cpus is not None
        self.budget = budget
        for fleet in fleets.values():
            for id in fleet.replicas.keys() - self._reserved.keys():
                self.started(fleet, id)  # by an earlier controller
        demands = [self._demand(fleet, budget, now) for fleet in fleets.values() if fleet.backend is not None]
        holdings = [
            self._holding(fleet, each, now)
            for fleet in fleets.values()
            for each in fleet.replicas.values()
            if each.status.state != "failed"  # no process
            and not (self._reserves and waits_for_place(each.status))
        ]
        allocation = allocate(demands, holdings, budget)
        if self._reserves:
            return self._asking(allocation, fleets, capacity)
        if budget.memory_bytes < LEAST and demands:
            whole, own = format_bytes(capacity.memory_bytes or 0), format_bytes(self._own_bytes)
            problem = f"nothing fits: of {whole} for the whole server, its own processes hold {own}"
            allocation = msgspec.structs.replace(allocation, problem=problem)
        return self._in_words(allocation, capacity)

    def _in_words(self, allocation: Allocation, capacity: Capacity) -> Allocation:
        """With what the budget does not know: what is left of a declared one, and the ways out."""
        declared = capacity.memory_bytes is not None and capacity.available_bytes is None
        beside, more = "", "make room on the machine"
        if declared:
            whole, own = format_bytes(capacity.memory_bytes or 0), format_bytes(self._own_bytes)
            beside, more = f": of the memory_budget of {whole}, the server's own processes hold {own}", "raise that"
        ways_out = f"{beside}; {more}, or give one of them fewer replicas, less memory, or replicas: {{min: 0}}"
        refused = {
            name: msgspec.structs.replace(each, reason=each.reason + beside) if each.never else each
            for name, each in allocation.refused.items()
        }
        crowded = {
            name: msgspec.structs.replace(each, reason=each.reason + ways_out)
            for name, each in allocation.crowded.items()
        }
        return msgspec.structs.replace(allocation, refused=refused, crowded=crowded)

    @staticmethod
    def _declared_there(fleets: Iterable[Fleet]) -> Iterator[Reserved]:
        """One replica of each backend."""
        return (reserved(fleet.backend.spec.settings) for fleet in fleets if fleet.backend is not None)

    def _placed(self, fleets: Iterable[Fleet]) -> Iterator[tuple[str, Reserved]]:
        for fleet in fleets:
            if fleet.settings is not None:
                each = reserved(fleet.settings)
                yield from ((status.id, each) for status in fleet.statuses() if holds_place(status))

    def _asking(self, allocation: Allocation, fleets: Mapping[str, Fleet], capacity: Capacity) -> Allocation:
        grants, drain_first = {}, set(allocation.drain_first)
        for name, grant in allocation.grants.items():
            fleet = fleets[name]
            waiting = sum(waits_for_place(status) for status in fleet.serving())
            asked = asking(grant, fleet.wanted, fleet.count() - waiting, waiting)
            backend = fleet.backend
            if backend is not None and fleet.outdated() and not surge_has_place(backend.spec.settings, capacity):
                drain_first.add(name)
                asked = msgspec.structs.replace(asked, replicas=min(asked.replicas, fleet.wanted))
            grants[name] = asked
        drained = frozenset(drain_first)
        return msgspec.structs.replace(
            allocation, grants=grants, refused={}, crowded={}, drain_first=drained, seen_late_s=SEEN_LATE_S
        )

    def _demand(self, fleet: Fleet, budget: Budget, now: float) -> Demand:
        assert fleet.backend is not None
        spec, key = fleet.backend.spec, fleet.backend.fingerprint
        settings = spec.settings
        reservation = self._ledger.reservation(key, spec.target, settings.memory, budget)
        measure = self._autoscaler.measure(fleet.name)
        cores = settings.cpus or 0.0 if measure is None else settings.cpus or measure.cores(fleet.present(now).ready)
        resources: Pieces = {}
        if self._reserves:
            declared = reserved(settings)
            reservation, cores = Reservation(declared.memory_bytes, True), declared.cores
            resources = declared.resources
        return Demand(
            backend=fleet.name,
            wanted=fleet.wanted,
            least=min(fleet.wanted, settings.bounds.min),
            surge=1 if fleet.wanted and fleet.outdated() else 0,
            waited_s=self._autoscaler.waited_s(fleet.name, now),
            memory_bytes=reservation.memory_bytes,
            known=reservation.known,
            cores=cores,
            gpus=settings.gpus,
            resources=resources,
            weight=settings.weight,
            startup_s=self._autoscaler.startups.foreseen_s(fleet.name, key, now) or UNKNOWN_START_S,
            rate=0.0 if measure is None else measure.frequency(now),
        )

    def _holding(self, fleet: Fleet, each: Observed, now: float) -> Holding:
        status = each.status
        usage = self._usage.get(status.pid or 0)
        settings = fleet.settings
        state_s = now - each.since_s
        ready_s = state_s if status.state == "ready" else 0.0
        used_s = self._used_s.get(status.id, -math.inf)
        leaves = fleet.backend is None or fleet.leaves(status.id)  # or is about to
        return Holding(
            backend=fleet.name,
            replica=status.id,
            state="leaving" if leaves else "ready" if status.state == "ready" else "starting",
            memory_bytes=usage.pss_bytes if usage is not None and not self._reserves else 0,
            reserved_bytes=self._reserved_bytes(fleet, status.id),
            declared_bytes=(settings.memory or 0) if settings is not None else 0,
            gpus=settings.gpus if settings is not None else 0.0,
            resources=reserved(settings).resources if settings is not None and self._reserves else {},
            known=status.state == "ready" or status.id not in self._guessed,
            busy=now - used_s < SIZING_TICK_S,
            starting_s=0.0 if status.state == "ready" else state_s,
            ready_s=ready_s,
            idle_s=min(ready_s, now - used_s),
        )

    def _reserved_bytes(self, fleet: Fleet, replica: str) -> int:
        if not self._reserves or fleet.settings is None:
            return self._reserved.get(replica, 0)
        return reserved(fleet.settings).memory_bytes

    def _note_use(self, fleet: Fleet, now: float) -> None:
        """Which replicas work on calls. Of calls between two looks nobody knows where they ran: at the first, while one
        suffices.
        """
        measure = self._autoscaler.measure(fleet.name)
        if measure is None:
            return
        busy = [id for id in fleet.replicas if id in measure.busy]
        if not busy and now - measure.called_s < SIZING_TICK_S:
            busy = list(fleet.replicas)[:1]
        for id in busy:
            self._used_s[id] = now

    @staticmethod
    def _declared(fleets: Iterable[Fleet]) -> frozenset[str]:
        return frozenset(fleet.backend.fingerprint for fleet in fleets if fleet.backend is not None)
