"""How many of the waiting calls the next free slot takes. Pure, time is an argument; must not know links or models.

The rule takes what waits when a slot frees: an idle backend adds no delay, and a busy one finds the longer a line and
so the larger a batch the busier it is. Of what waits, the first n are taken, n being the largest that keeps all of:

1. `batch_max` calls and `bytes_max` bytes;
2. the deadline of every member: L(n) is over before the first of them (calls that cannot make it alone are dropped by
   the caller before they come here);
3. the target of the backend, if it has one: a call may come just after one of C slots began and wait L(n)/C before
   its own L(n), so L(n)·(1 + 1/C) ≤ target. For one slot these are the two batches that H. Shen et al. reckon with
   ("Nexus", SOSP 2019). It bounds nothing where it is lost anyway, because a single call takes longer or the first in
   line has
   waited too long: smaller batches would only make the line longer;
4. at most twice the largest size yet seen: a line is not trusted far beyond its points.

Under overload the first in line have just enough time for themselves, and a batch that waits for no one else would be
tiny, the line slower and the next in no better state. So calls with too little time for a full batch are passed over
where taking them first would make more others late than they are (the early drop of Nexus; but they keep their place,
and another slot may still be in time).

L(n) is the fitted 99 % bound of `gateway.batch_fit`. Where only rule 3 holds a batch small and that rests on a
doubtful slope, one batch in `EXPLORE_EVERY` is larger by a quarter, if every deadline has room for the worst case: a
p99 leaves one call in 100, and this uses a fraction of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from muleteer.gateway.batch_fit import BatchFit
from muleteer.spec.units import format_bytes, format_seconds

EXPLORE_EVERY = 400
LOOK_MAX = 1024  # calls of the line that are looked at for one batch: a tenth of a millisecond

Limit = Literal["waiting", "batch_max", "bytes", "deadline", "target", "unproven", "exploring"]
"""What decides: nobody else waits · a setting · bytes · a member's deadline · the target · sizes not yet seen."""


class Waiting(Protocol):
    """What is read of a waiting call: monotonic seconds of its arrival and deadline, bytes of its body."""

    @property
    def arrived_s(self) -> float: ...  # noqa: D102
    @property
    def deadline_s(self) -> float: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102


C = TypeVar("C", bound=Waiting)


class BatchRules(msgspec.Struct, frozen=True):
    """What was declared. `wait_s`: how long an incomplete batch may wait for more; `target_s`: p99 of the response."""

    batch_max: int
    wait_s: float = 0.0
    bytes_max: int = 64 * 1024 * 1024
    target_s: float | None = None


class Take(NamedTuple, Generic[C]):
    """Send these now; they are in the order of the line, calls that were passed over stay in it."""

    members: tuple[C, ...]
    limited_by: Limit


class Hold(NamedTuple):
    """Look again when a call comes, a slot frees, or at `until_s`, whichever is first."""

    until_s: float


class BatchStatistics(msgspec.Struct, frozen=True):
    """Batches sent and answered, and the fit: L(n) = `base_s` + `item_s`·n seconds."""

    taken: int
    calls: int
    answered: int
    base_s: float
    item_s: float
    size_max: int
    reason: str


class BatchPolicy:
    """The rule of one backend, with what it has learnt."""

    __slots__ = ("_calls", "_caps", "_explored", "_fit", "_taken", "rules")

    def __init__(self, rules: BatchRules) -> None:
        self.rules = rules
        self._fit = BatchFit()
        self._caps: dict[tuple[int, bool], tuple[int, Limit]] = {}
        self._taken = self._calls = 0
        self._explored = 0  # batches taken when one was last enlarged

    def answered(self, count: int, seconds: float) -> None:
        """A batch of `count` held its slot for `seconds`. One that failed or lost its replica is not told."""
        self._fit.add(count, seconds)
        self._caps.clear()

    def decide(self, front: Iterable[C], now: float, slots: int) -> Take[C] | Hold:
        """For a free slot, of `slots` in all. `front`: at least one waiting call, in the order of the line."""
        line = list(islice(front, LOOK_MAX))
        cap, limited_by = self._cap(slots, late=self._lost(line[0], now))
        explores = limited_by == "target" and self._taken - self._explored >= EXPLORE_EVERY
        most = min(self.rules.batch_max, cap + max(1, cap // 4)) if explores else cap
        members, ended_by = self._prefix(line, now, cap, most)
        if ended_by == "deadline":
            members = self._without_late(line, members, now, cap, slots)
        if ended_by is None:
            ended_by = "waiting" if len(members) < cap else limited_by
        if len(members) > cap:
            ended_by, self._explored = "exploring", self._taken
        if ended_by == "waiting" and self.rules.wait_s > 0:
            until_s = self._until(members, slots)
            if until_s > now:
                return Hold(until_s)
        self._taken += 1
        self._calls += len(members)
        return Take(tuple(members), ended_by)

    def _lost(self, first: Waiting, now: float) -> bool:
        """Whether the first in line misses the target anyway."""
        target_s = self.rules.target_s
        return target_s is not None and now - first.arrived_s + self._fit.upper_s(1) > target_s

    def _prefix(self, line: list[C], now: float, cap: int, most: int) -> tuple[list[C], Limit | None]:
        """The longest beginning of the line within bytes and deadlines; None: neither ended it."""
        size, first_s = 0, math.inf
        firsts: list[float] = []  # firsts[n - 1]: the earliest deadline of n calls
        ended_by: Limit | None = None
        for call in line[:most]:
            size += call.size
            if firsts and size > self.rules.bytes_max:
                ended_by = "bytes"
                break
            first_s = min(first_s, call.deadline_s)
            firsts.append(first_s)
        count = len(firsts)
        if count > 1 and now + self._worst_s(count, cap) > firsts[-1]:
            ended_by = "deadline"
            low, high = 1, count  # the largest n that is over before its first deadline: one rises with n, one falls
            while high - low > 1:
                middle = (low + high) // 2
                if now + self._worst_s(middle, cap) <= firsts[middle - 1]:
                    low = middle
                else:
                    high = middle
            count = low
        return line[:count], ended_by

    def _worst_s(self, count: int, cap: int) -> float:
        """Seconds that a batch of `count` may take; beyond `cap`, not yet seen, all is put down to the items."""
        return self._fit.upper_s(count) if count <= cap else self._fit.upper_s(cap) * count / cap

    def _without_late(self, line: list[C], members: list[C], now: float, cap: int, slots: int) -> list[C]:
        """`members`, or a larger batch of those with more time, if going first would cost more calls than it saves."""
        fit, size = self._fit, 0
        full_s = now + fit.upper_s(min(cap, len(line)))
        first_s = fit.upper_s(len(members)) / max(1, slots)
        able = [call for call in line if call.deadline_s >= full_s]
        if sum(call.deadline_s < full_s + first_s for call in able) <= len(members):
            return members
        larger: list[C] = []
        for call in able[:cap]:
            size += call.size
            if larger and size > self.rules.bytes_max:
                break
            larger.append(call)
        return larger if len(larger) > len(members) else members

    def _cap(self, slots: int, *, late: bool = False) -> tuple[int, Limit]:
        """`_reckoned_cap`, kept until the next answer."""
        found = self._caps.get((slots, late))
        if found is None:
            found = self._caps[slots, late] = self._reckoned_cap(slots, late=late)
        return found

    def _reckoned_cap(self, slots: int, *, late: bool) -> tuple[int, Limit]:
        """The largest batch that deadlines and bytes aside may be taken, and why no larger. `late`: rule 3 has lost."""
        most = self.rules.batch_max
        limited_by: Limit = "batch_max"
        fit, target_s = self._fit, self.rules.target_s
        proven = max(1, 2 * fit.largest)
        if proven < most:
            most, limited_by = proven, "unproven"
        if target_s is not None and not late and fit.batches and fit.upper_s(1) <= target_s:
            allowed_s = target_s / (1 + 1 / max(1, slots))
            low, high = 1, most + 1  # the largest n with L(n) ≤ allowed, at least one, by bisection: L rises with n
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fit.upper_s(middle) <= allowed_s else (low, middle)
            if low < most:
                return low, "target"
        return most, limited_by

    def _until(self, members: Sequence[Waiting], slots: int) -> float:
        """How long these may wait for one more: their declared wait, no deadline and no target endangered."""
        fit, oldest_s = self._fit, min(call.arrived_s for call in members)
        next_s = fit.upper_s(len(members) + 1)
        until_s = min(oldest_s + self.rules.wait_s, min(call.deadline_s for call in members) - next_s)
        if self.rules.target_s is not None:
            until_s = min(until_s, oldest_s + self.rules.target_s - next_s * (1 + 1 / max(1, slots)))
        return until_s

    def size_max(self, slots: int) -> tuple[int, str]:
        """The largest batch that would be taken now, and why, in words and numbers."""
        cap, limited_by = self._cap(slots)
        fit, rules = self._fit, self.rules
        line = f"a batch of n takes {format_seconds(fit.base_s)} + n · {format_seconds(fit.item_s)}"
        if limited_by == "target" and rules.target_s is not None:
            return cap, (
                f"up to {cap}: {line}, and p99 {format_seconds(rules.target_s)} holds the wait for one of {slots} "
                f"slots and the batch: {cap} take {format_seconds(fit.upper_s(cap))}, {cap + 1} would take "
                f"{format_seconds(fit.upper_s(cap + 1))} (p99)"
            )
        if limited_by == "unproven":
            return cap, f"up to {cap}: twice the largest batch seen yet ({fit.largest})"
        return cap, f"up to {cap}: batch_max, and {format_bytes(rules.bytes_max)}; {line}"

    def statistics(self, slots: int) -> BatchStatistics:
        """A frozen snapshot."""
        size_max, reason = self.size_max(slots)
        fit = self._fit
        return BatchStatistics(self._taken, self._calls, fit.batches, fit.base_s, fit.item_s, size_max, reason)
