"""Who may start a replica, who gives one up: many backends on one machine, tick by tick. Pure; must not know processes,
clocks or gateways.

Laws, held by the tests:
1. What is held and what is set aside for starts never exceeds the memory, the devices or the named resources. Memory
   of a replica that leaves is free once it is gone, and until then is kept for whom it was given up.
2. No replica that works on a call is given up, nor one within its backend's declared minimum, but for 5.
3. A replica is given up only for calls that wait, for a declared minimum or for an update; first the least valuable
   idle ones (`warmth`), then those that a backend holds beyond its fair share (`share`), which end their calls first.
4. One that became ready serves at least `residence_s` of its start-up time before it is given up. So two models that
   take turns on room for one spend at most a third of the time loading. Calls wait for that if it is over within
   ROOM_S_MAX; else, and where all room is in use, they are refused.
5. When replicas have grown beyond the budget, idle ones go at once, residence or not; if that is not enough, the one
   furthest beyond what it declared (or what was set aside for it) is replaced: drained first, there is no room for
   two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from muleteer.control.claims import SETTLED_S, Demand, Holding, residence_s
from muleteer.control.crowding import Crowded, crowded_out, kept
from muleteer.control.pieces import GPU, Pieces, format_pieces, lacking, minus, plus
from muleteer.control.share import Budget, Claim, Grant, shared
from muleteer.control.warmth import Resident, victims
from muleteer.spec.units import format_bytes

ROOM_S_MAX = 5.0
"""Calls wait this long for room, beside the start itself; whoever waits more is better told to come back."""
REST_S = 1.0
"""One that works now is expected to be idle this soon: a caller waits so long for it to be, and no longer."""
RECENT_S = 5.0
"""A backend counts as used for so long after its last call: what it holds is its fair share then."""
CORES_OVER = 1.05
"""Measured cores beyond the budget by less than this are noise."""
_NOTHING: Pieces = {}


class Refusal(msgspec.Struct, frozen=True):
    """Nothing runs and nothing can start: 503 `memory`. `retry_s`: until room may be made, None where nobody knows.
    `never`: one alone is more than all there is.
    """

    reason: str
    retry_s: float | None
    never: bool = False


class Allocation(msgspec.Struct, frozen=True):
    """What to do now.

    Attributes:
        grants: BACKEND → the most replicas it may have now, those that run included, those that leave not: start up to
            it and no further. `limited_by` is "", "memory", "gpu", "resource" or "cpu".
        victims: replicas to drain now, busy ones after their calls; already taken off their backends' grants.
        refused: backends whose calls get 503 `memory`.
        drain_first: backends whose update has no room for a surge: one old replica leaves before a new one starts.
        crowded: backends with fewer replicas than their minimum, for which no room can be made.
        problem: what is wrong with the machine as a whole; None: nothing.
        seen_late_s: room that a replica has left is known so much later.
    """

    grants: dict[str, Grant]
    victims: tuple[str, ...] = ()
    refused: dict[str, Refusal] = {}
    crowded: dict[str, Crowded] = {}
    drain_first: frozenset[str] = frozenset()
    problem: str | None = None
    seen_late_s: float = 0.0


def allocate(demands: Sequence[Demand], holdings: Sequence[Holding], budget: Budget) -> Allocation:
    """One tick. Call it again with the next tick's observations: it remembers nothing.

    In order: what outgrew the budget is mended; declared minima, in turns, first of those that hold something, if only
    until it has left: what an update gives up is for itself; a first replica for every backend, first for those whose
    calls wait, longest and heaviest first; surges; then, in turns, up to the fair share of each.
    """
    machine = _Machine(demands, holdings, budget)
    problem = machine.mend()
    there = {each.backend for each in holdings}
    for demand, count in _turns(sorted(demands, key=lambda each: each.backend not in there), machine.fair):
        machine.raise_to(demand, count)
    machine.share_cores()
    return Allocation(
        grants={demand.backend: machine.grant(demand) for demand in demands},
        victims=tuple(machine.victims),
        refused=machine.refusals(_first(demands)),
        crowded=machine.crowded(),
        drain_first=frozenset(machine.drain_first),
        problem=problem,
    )


def _turns(demands: Sequence[Demand], fair: dict[str, int]) -> Iterator[tuple[Demand, int]]:
    """Who is asked next, and up to how many replicas."""
    for count in range(1, max((demand.least for demand in demands), default=0) + 1):
        yield from ((demand, count) for demand in demands if count <= demand.least)
    first = _first(demands)
    yield from ((demand, 1) for demand in first if demand.wanted)
    yield from ((demand, max(demand.least, demand.wanted) + demand.surge) for demand in demands if demand.surge)
    most = {demand.backend: min(demand.wanted, fair[demand.backend]) for demand in demands}
    for count in range(2, max(most.values(), default=0) + 1):
        yield from ((demand, count) for demand in first if count <= most[demand.backend])


def _first(demands: Sequence[Demand]) -> list[Demand]:
    """In the order in which first replicas are given."""
    return sorted(demands, key=lambda d: (-d.waited_s * d.weight, d.memory_bytes, d.backend))


def _surplus_bytes(holding: Holding) -> int:
    """What of it will be free once a replica that is just ready was measured; half of a guess, most likely."""
    if holding.state != "ready" or holding.ready_s >= SETTLED_S:
        return 0
    least = holding.memory_bytes or (0 if holding.known else holding.counted_bytes // 2)
    return holding.counted_bytes - least if least else 0


class _Room(NamedTuple):
    """What there can be, in so many seconds."""

    wait_s: float
    memory_bytes: int
    pieces: Pieces


def _soonest(rooms: Iterable[_Room]) -> list[_Room]:
    return sorted(rooms, key=lambda room: (room.wait_s, room.memory_bytes))


class _Machine:
    """What is free while the turns are taken."""

    def __init__(self, demands: Sequence[Demand], holdings: Sequence[Holding], budget: Budget) -> None:
        self.victims: list[str] = []
        self.drain_first: set[str] = set()
        self._demands = {demand.backend: demand for demand in demands}
        self._budget = budget
        leaving = [each for each in holdings if each.state == "leaving"]
        self._staying = {each.replica: each for each in holdings if each.state != "leaving"}
        self._free = budget.memory_bytes - sum(each.counted_bytes for each in holdings)
        self._coming = sum(each.counted_bytes for each in leaving)
        self._pieces_free, self._pieces_coming = budget.pieces, _NOTHING
        for each in holdings:
            self._pieces_free = minus(self._pieces_free, each.pieces)
        for each in leaving:
            self._pieces_coming = plus(self._pieces_coming, each.pieces)
        self._granted = Counter(each.backend for each in self._staying.values())
        self._held: dict[str, tuple[str, str]] = {}  # BACKEND → what limits it, and why
        self._expecting: set[str] = set()  # room is being made for them
        self._shares = self._fair_shares()
        self.fair = {name: grant.replicas for name, grant in self._shares.items()}

    # the machine as a whole

    def mend(self) -> str | None:
        """Bring what has grown back under the budget; what is wrong, in words."""
        held = sum(each.held_bytes for each in self._staying.values())
        over = held - self._budget.memory_bytes
        if over <= 0:
            return None
        done = []
        for resident in sorted(self._residents(None, settled=False), key=lambda r: (not r.spare, r.value, r.replica)):
            if over <= 0:
                break
            over -= self._give_up(self._staying[resident.replica])
            done.append(f"giving up {resident.reason()}")
        largest = max(self._staying.values(), key=lambda each: (each.excess_bytes, each.replica), default=None)
        if over > 0 and largest is not None and largest.excess_bytes > 0:
            self._give_up(largest)
            allowed = "declared" if largest.declared_bytes else "expected"
            size = format_bytes(largest.declared_bytes or largest.reserved_bytes)
            done.append(f"replacing {largest.replica}: it holds {format_bytes(largest.memory_bytes)}, {size} {allowed}")
        what = "; ".join(done) or "none of them is idle or larger than expected"
        return f"replicas hold {format_bytes(held)} of the {format_bytes(self._budget.memory_bytes)} for them: {what}"

    # one backend's turn

    def raise_to(self, demand: Demand, count: int) -> None:
        """Grant this backend up to `count` replicas, as far as there is room or room can be made."""
        name = demand.backend
        while self._granted[name] < count and name not in self._held:
            limit = self._limit(demand)
            if limit is None:
                self._free -= demand.memory_bytes
                self._pieces_free = minus(self._pieces_free, demand.pieces)
                self._granted[name] += 1
                continue
            self._held[name] = limit
            if self._make_room(demand, count):
                self._expecting.add(name)
            elif count > max(demand.wanted, demand.least) and not self._has_room_soon(demand):
                self.drain_first.add(name)

    def share_cores(self) -> None:
        """Where replicas keep more cores busy than there are, take back what is beyond fair shares, one a tick each.

        An update's surge is not counted, as it takes the place of another. Whoever gives one back has none.
        """
        counts = {
            name: min(self._granted[name], max(demand.wanted, demand.least)) for name, demand in self._demands.items()
        }
        busy = sum(counts[name] * demand.cores for name, demand in self._demands.items())
        for name, demand in self._demands.items():
            if busy > CORES_OVER * self._budget.cores and counts[name] > max(self.fair[name], demand.least, 1):
                self._granted[name] = counts[name] - 1
                busy -= demand.cores

    def grant(self, demand: Demand) -> Grant:
        """What came of it."""
        wanted, count = max(demand.wanted, demand.least), self._granted[demand.backend]
        if count >= wanted:
            return Grant(demand.backend, count, "", f"{count}: all it wants")
        if demand.backend in self._held:
            limit, why = self._held[demand.backend]
            if demand.backend in self._expecting:
                why += "; room is being made"
            return Grant(demand.backend, count, limit, f"{count} of {wanted} wanted: {why}")
        share = self._shares[demand.backend]
        return Grant(demand.backend, count, share.limited_by or "cpu", f"{share.reason} (its fair share)")

    def refusals(self, line: Iterable[Demand]) -> dict[str, Refusal]:
        """Who has nothing and gets nothing soon enough; `line`: all, in their order."""
        found, ahead = {}, 0
        idle = self._soon("")
        resting = _soonest([*idle, *self._resting()])
        for demand in line:
            name = demand.backend
            soon = resting if 0 < demand.waited_s <= REST_S else idle
            if self._granted[name] or name in self._expecting or name not in self._held:
                continue
            if not self._fits(demand):
                found[name] = Refusal(self._never(demand), None, never=True)
                continue
            room_s = self._room_s(demand, ahead, soon)
            if room_s is None or room_s > ROOM_S_MAX:
                found[name] = Refusal(self._held[name][1], room_s)
            elif demand.waiting:
                ahead += demand.memory_bytes
        return found

    def crowded(self) -> dict[str, Crowded]:
        """Whose minimum does not fit beside those of the others."""
        found: dict[str, Crowded] = {}
        held: list[Holding] | None = None
        for name, demand in self._demands.items():
            if self._granted[name] >= demand.least or name in self._expecting or not self._fits(demand):
                continue
            held = kept(self._demands, self._staying.values()) if held is None else held
            if (why := crowded_out(demand, self._granted[name], held, self._budget)) is not None:
                found[name] = why
        return found

    def _has_room_soon(self, demand: Demand) -> bool:
        room_s = self._room_s(demand, 0, self._soon(demand.backend))
        return room_s is not None and room_s <= ROOM_S_MAX

    def _room_s(self, demand: Demand, ahead_bytes: int, soon: list[_Room]) -> float | None:
        """Seconds until there can be room for `demand`, once those ahead of it have theirs; None: nobody knows."""
        short = demand.memory_bytes + ahead_bytes - self._free - self._coming
        there = plus(self._pieces_free, self._pieces_coming)
        if short <= 0 and not lacking(demand.pieces, there):
            return 0.0
        for room in soon:
            short -= room.memory_bytes
            there = plus(there, room.pieces)
            if short <= 0 and not lacking(demand.pieces, there):
                return room.wait_s
        return None

    def _soon(self, asking: str) -> list[_Room]:
        """What calls of `asking` could have, soonest first: of who is idle, or starts, or is one too many."""
        found = {each.replica: self._staying[each.replica] for each in self._residents(asking, settled=False)}
        found |= {each.replica: self._staying[each.replica] for each in self._beyond_share(asking)}
        measured = []
        for each in self._staying.values():
            if each.state == "starting" and not each.known:  # once it is ready it needs less, most likely
                measured.append(_Room(self._loads_s(each) + SETTLED_S, each.counted_bytes // 2, _NOTHING))
            elif each.state == "starting" and each.backend != asking and not self._within_least(each):
                found[each.replica] = each
        surplus = {id: _surplus_bytes(each) for id, each in self._staying.items()}
        settled = (_Room(SETTLED_S - self._staying[id].ready_s, size, _NOTHING) for id, size in surplus.items() if size)
        ended = (
            _Room(self._residence_left_s(each), each.counted_bytes - surplus[id], each.pieces)
            for id, each in found.items()
        )
        return _soonest([*measured, *settled, *ended])

    def _resting(self) -> list[_Room]:
        """What there could be once those that work on a call, and have no more that wait, are done with it."""
        return [
            _Room(max(REST_S, self._residence_left_s(each)), each.counted_bytes, each.pieces)
            for each in self._staying.values()
            if each.state == "ready"
            and each.busy
            and not self._within_least(each)
            and not self._demands[each.backend].waiting
        ]

    def _limit(self, demand: Demand) -> tuple[str, str] | None:
        """What keeps one more of it from starting now."""
        for name in lacking(demand.pieces, self._pieces_free):
            takes, left = format_pieces(name, demand.pieces[name]), max(self._pieces_free.get(name, 0.0), 0.0)
            return "gpu" if name == GPU else "resource", f"one more takes {takes} and {left:g} are free"
        if demand.memory_bytes > self._free:
            size, free = format_bytes(demand.memory_bytes), format_bytes(max(self._free, 0))
            return "memory", f"one more takes {size} and {free} of {format_bytes(self._budget.memory_bytes)} are free"
        return None

    def _make_room(self, demand: Demand, count: int) -> bool:
        """Whether room for one more is on its way; what is freed for it is not given to those who come later."""
        if not self._fits(demand):
            return False
        if not self._suffices(demand):
            urgent = demand.waiting or count <= demand.least or count > demand.wanted
            leaving = self._way_out(demand) if urgent else None
            if leaving is None:
                return False
            for holding in leaving:
                self._give_up(holding)
        self._coming -= max(0, demand.memory_bytes - max(self._free, 0))
        self._free = min(self._free, max(0, self._free - demand.memory_bytes))
        free = self._pieces_free
        taken = {name: min(amount, max(0.0, free.get(name, 0.0))) for name, amount in demand.pieces.items()}
        self._pieces_coming = minus(self._pieces_coming, minus(demand.pieces, taken))
        self._pieces_free = minus(self._pieces_free, taken)
        return True

    def _fits(self, demand: Demand) -> bool:
        """Whether one of it would, had it the machine for itself."""
        return demand.memory_bytes <= self._budget.memory_bytes and not lacking(demand.pieces, self._budget.pieces)

    def _never(self, demand: Demand) -> str:
        for name in lacking(demand.pieces, self._budget.pieces):
            there = self._budget.pieces.get(name, 0.0)
            return f"a replica takes {format_pieces(name, demand.pieces[name])}, and there are {there:g}"
        size, whole = format_bytes(demand.memory_bytes), format_bytes(self._budget.memory_bytes)
        return f"a replica takes {size}, and all that replicas may hold is {whole}"

    def _suffices(self, demand: Demand) -> bool:
        enough = demand.memory_bytes <= self._free + self._coming
        return enough and not self._missing(demand)

    def _missing(self, demand: Demand) -> Pieces:
        """What one more needs beyond what is free and what comes."""
        return lacking(demand.pieces, plus(self._pieces_free, self._pieces_coming))

    def _way_out(self, demand: Demand) -> list[Holding] | None:
        """Whom to give up so that one more of `demand` fits; None if all that may be would not do."""
        idle = self._residents(demand.backend)
        found = self._chosen(demand, idle)
        return found if found is not None else self._chosen(demand, idle + self._beyond_share(demand.backend))

    def _chosen(self, demand: Demand, pool: list[Resident]) -> list[Holding] | None:
        chosen: dict[str, Holding] = {}
        missing = self._missing(demand)
        for resident in sorted(pool, key=lambda r: (not r.spare, r.value, r.replica)):
            holding = self._staying[resident.replica]
            if any(holding.pieces.get(name) for name in missing):
                chosen[holding.replica] = holding
                missing = lacking(missing, holding.pieces)
        short = demand.memory_bytes - self._free - self._coming - sum(each.counted_bytes for each in chosen.values())
        more = [resident for resident in pool if resident.replica not in chosen] if short > 0 else []
        found = victims(more, short) if short > 0 else ()
        if missing or (short > 0 and not found):
            return None
        return [*chosen.values(), *(self._staying[resident.replica] for resident in found)]

    def _give_up(self, holding: Holding) -> int:
        del self._staying[holding.replica]
        self._granted[holding.backend] -= 1
        self.victims.append(holding.replica)
        self._coming += holding.counted_bytes
        self._pieces_coming = plus(self._pieces_coming, holding.pieces)
        return holding.counted_bytes

    # who may be given up

    def _residents(self, asking: str | None, *, settled: bool = True) -> list[Resident]:
        """Idle replicas of other backends, beyond the declared minimum of each; `settled`: that served their time."""
        left = Counter(each.backend for each in self._staying.values() if each.state == "ready")
        found = []
        for each in sorted(self._staying.values(), key=lambda each: -each.idle_s):
            demand = self._demands.get(each.backend)
            if each.state != "ready" or each.busy or each.backend == asking or demand is None or demand.waiting:
                continue
            if left[each.backend] > demand.least and not (settled and self._residence_left_s(each)):
                found.append(self._resident(each, spare=left[each.backend] > 1))
                left[each.backend] -= 1
        return found

    def _beyond_share(self, asking: str) -> list[Resident]:
        """One busy replica of each backend that has more than its fair share, while `asking` has less than its own."""
        if self._granted[asking] >= max(self.fair.get(asking, 0), 1):
            return []
        found = {}
        for each in self._staying.values():
            fair = max(self.fair.get(each.backend, 0), 1)
            over = self._granted[each.backend] > fair and not self._within_least(each)
            used = over and (each.busy or self._demands[each.backend].waiting)
            if used and each.state == "ready" and not self._residence_left_s(each) and each.backend != asking:
                found[each.backend] = self._resident(each, spare=False)
        return list(found.values())

    def _within_least(self, holding: Holding) -> bool:
        demand = self._demands.get(holding.backend)
        return demand is None or self._granted[holding.backend] <= demand.least

    def _residence_left_s(self, holding: Holding) -> float:
        startup_s = self._demands[holding.backend].startup_s
        return max(0.0, self._loads_s(holding) + residence_s(startup_s) - holding.ready_s)

    def _loads_s(self, holding: Holding) -> float:
        """Seconds until it is expected to be ready."""
        demand = self._demands.get(holding.backend)
        starts = holding.state == "starting" and demand is not None
        return max(0.0, demand.startup_s - holding.starting_s) if starts and demand is not None else 0.0

    def _resident(self, holding: Holding, *, spare: bool) -> Resident:
        demand = self._demands[holding.backend]
        return Resident(
            holding.backend,
            holding.replica,
            holding.counted_bytes,
            demand.startup_s,
            demand.rate,
            holding.idle_s,
            spare,
        )

    def _fair_shares(self) -> dict[str, Grant]:
        """One that is not used now has no share in what others want: what it holds is only kept."""
        used = {each.backend for each in self._staying.values() if each.busy or each.idle_s < RECENT_S}
        used |= {name for name, demand in self._demands.items() if 0 < self._granted[name] < demand.wanted}
        claims = [
            Claim(
                backend=demand.backend,
                wanted=demand.wanted if demand.waiting or demand.backend in used else 0,
                least=demand.least,
                memory_bytes=demand.memory_bytes,
                cores=demand.cores,
                weight=demand.weight,
            )
            for demand in self._demands.values()
        ]
        return shared(claims, self._budget)
