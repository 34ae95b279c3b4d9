"""How many of the waiting calls the next free slot takes. Pure, time is an argument; must not know links or models.

The rule takes what waits when a slot frees: an idle backend adds no delay, and a busy one finds the longer a line and
so the larger a batch the busier it is. Of what waits, the first n are taken, n being the largest that keeps all of:

1. `batch_max` calls and `bytes_max` bytes;
2. the deadline of every member: L(n) is over before the first of them (calls that cannot make it alone are dropped by
   the caller before they come here);
3. the target of the backend, if it has one: a call may come just after one of C slots began and wait L(n)/C before
   its own L(n), so L(n)·(1 + 1/C) ≤ target. For one slot these are the two batches that H. Shen et al. reckon with
   ("Nexus", SOSP 2019). It bounds nothing where it is lost anyway, because a single call takes longer or the first in
   line has waited too long: smaller batches would only make the line longer;
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

from muleteer.base.limits import BATCH_BYTES_MAX, BATCHES_SURE
from muleteer.gateway.batch_fit import BatchFit
from muleteer.spec.units import format_bytes, format_seconds

EXPLORE_EVERY = 400
LOOK_TIMES = 4  # so many batches of calls are looked at where deadlines decide who goes first

Limit = Literal["waiting", "batch_max", "bytes", "deadline", "target", "unproven", "exploring", "alone"]
"""What decides: nobody else waits · a setting · bytes · a member's deadline · the target · sizes not yet seen · a size
beyond the target, to learn · a call that was on a replica that died.
"""


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
    bytes_max: int = BATCH_BYTES_MAX
    target_s: float | None = None


class Pace(NamedTuple):
    """Batches of `size` take `mean_s`, 99 % of them no more than `upper_s`."""

    size: int
    mean_s: float
    upper_s: float


class Take(NamedTuple, Generic[C]):
    """Send these now; they are in the order of the line, calls that were passed over stay in it."""

    members: tuple[C, ...]
    limited_by: Limit


class Hold(NamedTuple):
    """Look again when a call comes, a slot frees, or at `until_s`, whichever is first."""

    until_s: float


class BatchPolicy:
    """The rule of one backend, with what it has learnt."""

    __slots__ = ("_caps", "_explored", "_fit", "_paces", "_rules")

    def __init__(self, rules: BatchRules) -> None:
        self._rules = rules
        self._fit = BatchFit()
        self._caps: dict[tuple[int, bool], tuple[int, Limit]] = {}
        self._paces: tuple[int, tuple[Pace, ...]] = (0, ())
        self._explored = 0  # batches answered when one was last enlarged

    @property
    def rules(self) -> BatchRules:
        """As declared."""
        return self._rules

    def follow(self, rules: BatchRules) -> None:
        """Other rules; what was learnt stays."""
        self._rules = rules
        self._forget()

    def answered(self, count: int, seconds: float) -> None:
        """A batch of `count` held its slot for `seconds`. One that failed or lost its replica is not told."""
        self._fit.add(count, seconds)
        self._forget()

    def _forget(self) -> None:
        """What was reckoned from the fit and the rules."""
        self._caps.clear()
        self._paces = (0, ())

    def decide(self, front: Iterable[C], now: float, slots: int) -> Take[C] | Hold | None:
        """For a slot that is free at `now`, of `slots` in all. `front`: waiting calls in the order of the line; None if
        there are none.
        """
        waiting = iter(front)
        first = next(waiting, None)
        if first is None:
            return None
        cap, limited_by = self._cap(slots, late=self._lost(first, now))
        explores = limited_by == "target" and self._fit.batches - self._explored >= EXPLORE_EVERY
        most = min(self._rules.batch_max, cap + max(1, cap // 4)) if explores else cap
        line = [first, *islice(waiting, most - 1)]
        members, ended_by = self._prefix(line, now, cap, most)
        if ended_by == "deadline":
            line += islice(waiting, LOOK_TIMES * cap)
            members = self._without_late(line, members, now, cap, slots)
        if ended_by is None:
            ended_by = "waiting" if len(members) < cap else limited_by
        if len(members) > cap:
            ended_by, self._explored = "exploring", self._fit.batches
        if ended_by == "waiting" and self._rules.wait_s > 0:
            until_s = self._until(members, slots)
            if until_s > now:
                return Hold(until_s)
        return Take(tuple(members), ended_by)

    @property
    def known(self) -> bool:
        """Whether the fit is one to refuse calls by: over several sizes, where there can be several."""
        fit = self._fit
        return fit.batches >= BATCHES_SURE and (fit.varied or self._rules.batch_max == 1)

    @property
    def alone_s(self) -> float:
        """What 99 % of the batches of one call should not exceed; 0 before the first batch."""
        return self._fit.upper_s(1)

    def paces(self, slots: int) -> tuple[Pace, ...]:
        """Of the sizes 1, 2, 4 … up to the largest that would be taken now; none before the first answer."""
        if self._paces[0] != slots and self._fit.batches:
            fit, (cap, _) = self._fit, self._cap(slots)
            sizes = [*(1 << power for power in range((cap - 1).bit_length())), cap]
            self._paces = slots, tuple(Pace(size, fit.expected_s(size), fit.upper_s(size)) for size in sizes)
        return self._paces[1]

    @property
    def curve(self) -> tuple[float, float]:
        """The a and b of L(n) = a + b·n, seconds."""
        return self._fit.base_s, self._fit.item_s

    def keeps(self, first: Waiting, now: float, ends_s: float) -> bool:
        """Whether the target of `first` is kept if it is answered at `ends_s`, or lost anyway."""
        target_s = self._rules.target_s
        return target_s is None or ends_s - first.arrived_s <= target_s or self._lost(first, now)

    def _lost(self, first: Waiting, now: float) -> bool:
        """Whether the first in line misses the target anyway."""
        target_s = self._rules.target_s
        return target_s is not None and now - first.arrived_s + self._fit.upper_s(1) > target_s

    def _prefix(self, line: list[C], now: float, cap: int, most: int) -> tuple[list[C], Limit | None]:
        """The longest beginning of the line within bytes and deadlines; None: neither ended it."""
        size, first_s = 0, math.inf
        firsts: list[float] = []  # firsts[n - 1]: the earliest deadline of n calls
        ended_by: Limit | None = None
        for call in line[:most]:
            size += call.size
            if firsts and size > self._rules.bytes_max:
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
            if larger and size > self._rules.bytes_max:
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
        most = self._rules.batch_max
        limited_by: Limit = "batch_max"
        fit, target_s = self._fit, self._rules.target_s
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
        until_s = min(oldest_s + self._rules.wait_s, min(call.deadline_s for call in members) - next_s)
        if self._rules.target_s is not None:
            until_s = min(until_s, oldest_s + self._rules.target_s - next_s * (1 + 1 / max(1, slots)))
        return until_s

    def size_max(self, slots: int) -> tuple[int, Limit, str]:
        """The largest batch that would be taken now, what limits it, and the same in words and numbers."""
        cap, limited_by = self._cap(slots)
        fit, rules = self._fit, self._rules
        line = f"a batch of n takes {format_seconds(fit.base_s)} + n · {format_seconds(fit.item_s)}"
        if limited_by == "target" and rules.target_s is not None:
            target, takes = format_seconds(rules.target_s), format_seconds(fit.upper_s(cap))
            wait = f"the wait for one of {slots} slots" if slots > 1 else "the wait for the 1 slot"
            if fit.upper_s(cap) * (1 + 1 / max(1, slots)) > rules.target_s:  # one at least is always taken
                words = f"one by one: {line}; {wait} and a call alone, {takes} (p99), do not fit into p99 {target}"
                return cap, limited_by, f"{words}: more go together once the first in line has missed it"
            more = format_seconds(fit.upper_s(cap + 1))
            words = f"{wait} and the batch: {cap} take {takes}, {cap + 1} would take {more} (p99)"
            return cap, limited_by, f"up to {cap}: {line}, and p99 {target} holds {words}"
        if limited_by == "unproven":
            return cap, limited_by, f"up to {cap}: twice the largest batch seen yet ({fit.largest})"
        return cap, limited_by, f"up to {cap}: batch_max, and {format_bytes(rules.bytes_max)}; {line}"
