"""A seeded simulation of one backend whose number of replicas changes. Must not know how it is decided.

Discrete events: calls arrive, wait in one line, hold a replica for their service, are answered; replicas take time to
start and cost from the moment they are started; a policy is asked at every tick. A million calls take some seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from muleteer.base.limits import LATE_TURN


class Tick(NamedTuple):
    """What a policy is shown: as much as a controller would know.

    Attributes:
        now, seconds: since the beginning, since the last tick.
        arrivals: calls that came, refused ones included.
        queued, running: now.
        ready: replicas in service.
        starting_s: seconds until each that starts will be ready.
        services: of the calls answered in the tick, seconds.
        late: of those, slower than the target, and those refused or expired.
    """

    now: float
    seconds: float
    arrivals: int
    queued: int
    running: int
    ready: int
    starting_s: tuple[float, ...]
    services: tuple[float, ...]
    late: int


class Policy(Protocol):
    """Asked at every tick how many replicas there should be."""

    def decide(self, tick: Tick) -> int:
        """Replicas to have from now on."""
        ...


class Call(NamedTuple):
    """One call: when it came, how long it held a replica, its response time (inf: refused or expired)."""

    arrived: float
    service_s: float
    response_s: float


class Course(NamedTuple):
    """What happened.

    Attributes:
        calls: in order of arrival.
        replica_seconds: paid for, from start to stop.
        replicas: (time, started and not stopped) at every change.
    """

    calls: tuple[Call, ...]
    replica_seconds: float
    replicas: tuple[tuple[float, int], ...]

    def windows(self, target_s: float, *, seconds: float, begin: float, end: float) -> list[tuple[float, bool]]:
        """Of each window but empty ones: (begin, whether the p99 of the calls that came in it keeps the target).

        A refused or expired call counts as late.
        """
        late: dict[int, list[int]] = {}
        for call in self.calls:
            if begin <= call.arrived < end:
                counts = late.setdefault(int((call.arrived - begin) / seconds), [0, 0])
                counts[0] += 1
                counts[1] += call.response_s > target_s
        return [(begin + index * seconds, missed <= came // 100) for index, (came, missed) in sorted(late.items())]

    def recovered(self, target_s: float, *, since: float, end: float, seconds: float = 1.0) -> float:
        """Seconds from `since` to the end of the last window of `seconds` that missed the target; 0 if none did."""
        kept = self.windows(target_s, seconds=seconds, begin=since, end=end)
        return max((at + seconds - since for at, good in kept if not good), default=0.0)


class Backend(NamedTuple):
    """What is simulated, in seconds: start-up, deadline of a call, how often the policy is asked; first replicas."""

    startup_s: float = 2.0
    deadline_s: float = 30.0
    tick_s: float = 0.5
    initial: int = 1


class _Run:
    """The state of one run. Admission is the gateway's rule, (queued + 1)·S/C + p99 ≤ D, with S and p99 known. Its
    order, too: calls that have missed the target stand behind the others until half of their time is gone, and one of
    them runs for every `LATE_TURN` of the others.
    """

    def __init__(self, backend: Backend, policy: Policy, target_s: float, services: Sequence[float]) -> None:
        self.backend, self.policy, self.target_s = backend, policy, target_s
        ordered = sorted(services)
        self.mean_s, self.p99_s = sum(ordered) / len(ordered), ordered[int(0.99 * len(ordered))]
        self.services = services
        self.line: deque[int] = deque()
        self.late_line: deque[int] = deque()
        self.passed = 0  # calls that ran while others stood behind
        self.idle = self.ready = backend.initial
        self.leaving = 0  # of those that run, to be stopped when free
        self.starting: list[float] = []
        self.ends: list[tuple[float, int]] = []  # (time, call) of those running
        self.cost, self.changed, self.replicas = 0.0, 0.0, [(0.0, backend.initial)]
        self.done: list[float] = []
        self.late = self.arrivals = 0

    def count(self) -> int:
        return self.ready + len(self.starting)

    def pay(self, now: float) -> None:
        self.cost += (self.count() + self.leaving) * (now - self.changed)
        self.changed = now

    def waiting(self) -> int:
        return len(self.line) + len(self.late_line)

    def predicted_s(self) -> float:
        return (self.waiting() + 1) * self.mean_s / max(1, self.ready) + self.p99_s

    def next(self, now: float, arrivals: Sequence[float]) -> int:
        """Who waits and is served now."""
        deadline_s = self.backend.deadline_s
        due = now - min(deadline_s / 2, deadline_s - self.predicted_s())
        while self.line and due < arrivals[self.line[0]] < now - self.target_s:
            self.late_line.append(self.line.popleft())
        if not self.late_line:
            self.passed = 0
            return self.line.popleft()
        if not self.line or arrivals[self.late_line[0]] <= due or self.passed >= LATE_TURN:
            self.passed = 0
            return self.late_line.popleft()
        self.passed += 1
        return self.line.popleft()

    def admit(self, call: int) -> bool:
        if self.idle == 0 and self.predicted_s() > self.backend.deadline_s:
            return False
        self.line.append(call)
        return True

    def scale(self, now: float, wanted: int) -> None:
        self.pay(now)
        wanted = max(wanted, 1)
        while self.count() < wanted:
            heapq.heappush(self.starting, now + self.backend.startup_s)
        while self.count() > wanted and self.starting:
            self.starting.remove(max(self.starting))
            heapq.heapify(self.starting)
        while self.count() > wanted:
            self.ready -= 1
            if self.idle:
                self.idle -= 1
            else:
                self.leaving += 1
        if self.replicas[-1][1] != self.count():
            self.replicas.append((now, self.count()))

    def tick(self, now: float) -> None:
        shown = Tick(
            now, self.backend.tick_s, self.arrivals, self.waiting(), len(self.ends), self.ready,
            tuple(at - now for at in sorted(self.starting)), tuple(self.done), self.late,
        )  # fmt: skip
        self.done, self.late, self.arrivals = [], 0, 0
        self.scale(now, self.policy.decide(shown))


def run(
    arrivals: Sequence[float],
    services: Sequence[float],
    policy: Policy,
    target_s: float,
    backend: Backend = Backend(),  # noqa: B008  frozen
) -> Course:
    """Every call of `arrivals` (ascending seconds), holding a replica for its entry of `services`."""
    state = _Run(backend, policy, target_s, services)
    responses = [math.inf] * len(arrivals)
    came, size, next_tick = 0, len(arrivals), backend.tick_s
    end_s = arrivals[-1] if arrivals else 0.0
    ends, starting = state.ends, state.starting
    while came < size or ends or state.waiting():
        due = ends[0][0] if ends else math.inf
        ready = starting[0] if starting else math.inf
        coming = arrivals[came] if came < size else math.inf
        now = min(due, ready, coming, next_tick)
        if now == due:
            _, call = heapq.heappop(ends)
            responses[call] = now - arrivals[call]
            state.done.append(services[call])
            state.late += responses[call] > target_s
            if state.leaving:
                state.pay(now)
                state.leaving -= 1
            else:
                state.idle += 1
        elif now == ready:
            heapq.heappop(starting)
            state.ready += 1
            state.idle += 1
        elif now == coming:
            state.arrivals += 1
            state.late += not state.admit(came)
            came += 1
        else:
            state.tick(now)
            starting = state.starting
            next_tick += backend.tick_s
        while state.idle and state.waiting():
            call = state.next(now, arrivals)
            if now - arrivals[call] + state.p99_s > backend.deadline_s:
                state.late += 1
                continue
            state.idle -= 1
            heapq.heappush(ends, (now + services[call], call))
    state.pay(max(end_s, state.changed))
    calls = tuple(Call(*entry) for entry in zip(arrivals, services, responses, strict=True))
    return Course(calls, state.cost, tuple(state.replicas))


# knowing the future


def least_replicas(calls: Sequence[Call], target_s: float, window_s: float, end_s: float, most: int) -> list[int]:
    """For each window the fewest replicas, there from its beginning, with which its p99 keeps the target.

    Greedy from window to window, each taking over what the one before left running. At least one, and `most` where none
    suffices.
    """
    needs: list[int] = []
    free: list[float] = [0.0]  # when each replica is free
    first = 0
    for window in range(math.ceil(end_s / window_s)):
        begin, last = window * window_s, first
        while last < len(calls) and calls[last].arrived < begin + window_s:
            last += 1
        part, first = calls[first:last], last
        count = needs[-1] if needs else 1
        kept = _served(part, free, count, begin, target_s)
        if kept is None:
            while kept is None and count < most:
                count += 1
                kept = _served(part, free, count, begin, target_s)
            if kept is None:
                kept = _served(part, free, count, begin, math.inf) or []
        else:
            while count > 1 and (fewer := _served(part, free, count - 1, begin, target_s)) is not None:
                count, kept = count - 1, fewer
        free = kept
        needs.append(count)
    return needs


def _served(
    calls: Sequence[Call], free: Sequence[float], count: int, begin: float, target_s: float
) -> list[float] | None:
    """When each of `count` replicas is free after these calls; None if more than 1 % are late."""
    heap = sorted(free, reverse=True)[:count]  # those to go are the ones that are free soonest
    heap += [begin] * (count - len(heap))
    heapq.heapify(heap)
    allowed = len(calls) // 100
    for call in calls:
        done = max(heap[0], call.arrived) + call.service_s
        heapq.heapreplace(heap, done)
        if done - call.arrived > target_s:
            allowed -= 1
            if allowed < 0:
                return None
    return heap


def optimal_replica_seconds(needs: Sequence[int], window_s: float, startup_s: float) -> float:
    """The least replica-seconds that provide `needs`, where starting a replica costs its start-up time.

    Each level of replicas by itself is either kept through a gap or stopped and started again, whichever is cheaper.
    """
    total = 0.0
    for level in range(1, max(needs, default=0) + 1):
        last: int | None = None
        for window, need in enumerate(needs):
            if need < level:
                continue
            gap_s = math.inf if last is None else (window - last - 1) * window_s
            total += window_s + (min(gap_s, startup_s) if window else 0.0)
            last = window
    return total
