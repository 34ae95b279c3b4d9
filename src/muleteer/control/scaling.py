"""How many replicas a backend should have now: up at once, down slowly. Pure; must not know clocks or processes.

Each tick: the rate is forecast over the time that a new replica needs (`control.arrivals`), `control.sizing` says how
many replicas keep the target then, a backlog adds those that clear it, and a decrease waits for `hold_s`.

**Hold.** A replica that may be needed again is kept as long as starting it again would cost: the rule of ski rental,
at most twice the cost of knowing the future (A. R. Karlin, M. S. Manasse, L. Rudolph, D. D. Sleator, "Competitive
snoopy caching", Algorithmica 3, 1988).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from muleteer.control.arrivals import Forecast, RateTracker
from muleteer.control.sizing import (
    QUANTILE,
    REPLICAS_MAX,
    Need,
    Workload,
    late_share,
    needed,
    one_more,
    response,
    useful_max,
)
from muleteer.control.warmth import idle_s
from muleteer.spec.units import format_number, format_rate, format_rough, format_seconds

Limit = Literal["rate", "backlog", "hold", "idle", "target", "min", "max", "cpu", "memory", "start"]
"""What decides: the rate and the target · calls that wait already · a recent need · how long the last one is kept · a
target out of reach · a bound · a budget · nothing measured yet."""
Words = Callable[[], str]

HOLD_S_MIN = 5.0
HOLD_STARTS = 2.0  # the hold in start-up times: ski rental's one for the replica, one for the callers who would wait
DRAIN_S = 1.0  # once the replicas for it are there, a backlog is gone this soon
UNKNOWN_START_S = 1.0  # before a start was measured
ERROR_Z = 2.0  # standard errors of the forecast that are planned for


class Bounds(msgspec.Struct, frozen=True):
    """What was declared: at least `min`, at most `max` replicas; `idle_s`: to keep the last, if set."""

    min: int = 1
    max: int = REPLICAS_MAX
    idle_s: float | None = None


class Room(msgspec.Struct, frozen=True):
    """What the budget leaves this backend: cores, and replicas that its memory share holds; None: no bound."""

    cores: float | None = None
    replicas: int | None = None


class Observed(NamedTuple):
    """One tick.

    Attributes:
        now: monotonic seconds.
        seconds: since the last tick.
        arrivals: calls that came in them, refused ones included.
        queued: calls that wait now.
        ready: replicas in service.
        starting_s: for each replica that is starting, seconds until it is expected to be ready.
        running: calls that a replica works on.
    """

    now: float
    seconds: float
    arrivals: int
    queued: int
    ready: int
    starting_s: tuple[float, ...] = ()
    running: int = 0


class Sizing:
    """The decision and its reasons. The words are made when they are first read: most never are.

    Attributes:
        missing: why the target cannot be kept at the present rate (`target`, `max`, `cpu`, `memory`); None if it can.
    """

    __slots__ = ("_one_more", "_reason", "limited_by", "missing", "replicas")

    def __init__(
        self, replicas: int, limited_by: Limit, reason: Words, one_more: Words, missing: Limit | None = None
    ) -> None:
        self.replicas = replicas
        self.limited_by = limited_by
        self.missing = missing
        self._reason: Words | str = reason
        self._one_more: Words | str = one_more

    @property
    def reason(self) -> str:
        """Why so many, in words and numbers."""
        if not isinstance(self._reason, str):
            self._reason = self._reason()
        return self._reason

    @property
    def one_more(self) -> str:
        """What one more would change, in words and numbers."""
        if not isinstance(self._one_more, str):
            self._one_more = self._one_more()
        return self._one_more


class _Wanted(NamedTuple):
    """A number before bounds and budgets."""

    replicas: int
    limited_by: Limit
    why: Words


class Sizer:
    """Decides for one backend with a target. Nothing of it need be kept: a new one is as wise after some ticks."""

    __slots__ = ("_rates", "_used_at", "_useful", "_wanted", "bounds", "target_s")

    def __init__(self, target_s: float, bounds: Bounds = Bounds()) -> None:  # noqa: B008  frozen
        self.target_s = target_s
        self.bounds = bounds
        self._rates = RateTracker()
        self._used_at = -math.inf
        self._wanted: deque[tuple[float, int]] = deque()  # (time, replicas), falling: the maximum of the hold is first
        self._useful: deque[tuple[float, int]] = deque()  # the same of what the cores allow, which is measured anew too

    def keep(self, now: float, replicas: int) -> None:
        """So many run already, or somebody calls who was not counted yet: as if they had been wanted just now."""
        self._used_at = now
        self._wanted.append((now, replicas))

    def sleep(self) -> None:
        """Nothing runs, and nobody waits for it: as if nobody had called. Only where none need run."""
        if not self.bounds.min:
            self._used_at = -math.inf
            self._wanted.clear()

    def rest(self, seconds: float) -> None:
        """Nobody looked for so long, because nobody called."""
        self._rates.observe(0, seconds)

    def rate(self) -> float:
        """Calls/s now."""
        return self._rates.forecast(0.0).rate

    def step(
        self,
        seen: Observed,
        workload: Workload | None,
        room: Room = Room(),  # noqa: B008  frozen
        startup_s: float = UNKNOWN_START_S,
    ) -> Sizing:
        """What to run from now on. `workload` is None until something was measured of calls; what was of starts, is
        `startup_s` until then.
        """
        self._rates.observe(seen.arrivals, seen.seconds, busy=seen.queued + seen.running > 0)
        waking = bool(seen.starting_s) and not seen.ready  # who was told to come again finds it awake
        if seen.arrivals or seen.queued or seen.running or waking:
            self._used_at = seen.now
        if workload is None:
            held = _held(self._wanted, seen.now, 0, max(HOLD_S_MIN, HOLD_STARTS * startup_s))
            called = 1 if seen.arrivals or seen.queued else 0
            count = min(max(held, self.bounds.min, called), self.bounds.max)
            wanted = self._kept(seen, _Wanted(count, "start", lambda: f"{count}: nothing is measured yet"), startup_s)
            return Sizing(wanted.replicas, "start", wanted.why, lambda: "unknown until calls are measured")
        forecast = self._rates.forecast(workload.startup_s + seen.seconds)
        rate = self._planned(forecast)
        need = needed(workload, rate, self.target_s, forecast.dispersion)
        wanted = _Wanted(
            need.replicas,
            "rate" if need.attainable else "target",
            lambda: self._rate_reason(forecast, rate, need, workload),
        )
        wanted = self._with_backlog(seen, workload, forecast, wanted)
        hold_s = max(HOLD_S_MIN, HOLD_STARTS * workload.startup_s)
        held = _held(self._wanted, seen.now, wanted.replicas, hold_s)
        if held > wanted.replicas:
            now = wanted.why
            wanted = _Wanted(held, "hold", lambda: f"{held} were needed less than {_time(hold_s)} ago; now: {now()}")
        wanted = self._kept(seen, wanted, workload.startup_s)
        useful = None
        if room.cores is not None and workload.cpu_s:
            useful = _held(self._useful, seen.now, useful_max(workload, room.cores), hold_s)
        sizing = self._bounded(wanted, workload, useful, room, forecast)
        if not need.attainable:
            sizing.missing = "target"
        elif sizing.replicas < need.replicas and sizing.limited_by in ("max", "cpu", "memory"):
            sizing.missing = sizing.limited_by
        return sizing

    def _kept(self, seen: Observed, wanted: _Wanted, startup_s: float) -> _Wanted:
        """Of a backend that may sleep: how long the last replica stays, whatever the rate was."""
        if self.bounds.min:
            return wanted
        kept_s = idle_s(startup_s) if self.bounds.idle_s is None else self.bounds.idle_s
        idle_for_s = seen.now - self._used_at
        if math.isinf(idle_for_s):
            return _Wanted(0, "idle", lambda: "0: nobody calls")
        if idle_for_s >= kept_s:
            self._wanted.clear()
            return _Wanted(
                0, "idle", lambda: f"0: no call for {idle_for_s:.3g} s, the last replica is kept for {kept_s:.3g} s"
            )
        if wanted.replicas:
            return wanted
        return _Wanted(1, "hold", lambda: f"1: kept for {kept_s:.3g} s after the last call, {idle_for_s:.3g} s ago")

    def _planned(self, forecast: Forecast) -> float:
        """Calls/s to plan for: the higher of now and then, with the error of either."""
        return max(forecast.rate, forecast.expected) + ERROR_Z * forecast.error

    def _with_backlog(self, seen: Observed, workload: Workload, forecast: Forecast, wanted: _Wanted) -> _Wanted:
        drain = self._for_backlog(seen, workload, forecast)
        if drain <= wanted.replicas:
            return wanted
        return _Wanted(
            drain,
            "backlog",
            lambda: f"{drain} clear {seen.queued} waiting calls in {format_seconds(DRAIN_S)}; later {wanted.replicas}",
        )

    def _for_backlog(self, seen: Observed, workload: Workload, forecast: Forecast) -> int:
        """Replicas that clear what will wait when new ones are ready; 0 where what waits now is in time anyway."""
        each = workload.rate_max()
        if seen.queued <= max(1, seen.ready) * each * self.target_s:
            return 0
        backlog, count, past = float(seen.queued), seen.ready, 0.0
        for at in (*sorted(seen.starting_s), workload.startup_s):
            until = min(max(at, past), workload.startup_s)
            backlog = max(0.0, backlog + (forecast.rate - count * each) * (until - past))
            past, count = until, count + 1
        if backlog <= 0:
            return 0
        return math.ceil((forecast.rate + backlog / DRAIN_S) / each)

    def _rate_reason(self, forecast: Forecast, rate: float, need: Need, workload: Workload) -> str:
        if not need.replicas:
            return "0: no calls come, or a single one"
        uneven, change = format_rough(forecast.dispersion), format_rough(abs(forecast.trend))
        trend = f", {'+' if forecast.trend > 0 else '-'}{change}/s per second" if change != "0" else ""
        bursts = f", bursts {uneven} times as uneven as chance" if forecast.dispersion > 1.5 else ""
        ahead = _time(workload.startup_s)
        said = f"{format_rate(forecast.rate)}{trend}{bursts}, planned for {format_number(rate)}/s in {ahead}"
        if not need.attainable:
            return (
                f"{need.replicas} at {said}: p99 {format_seconds(self.target_s)} is out of reach, a call alone takes "
                f"{format_seconds(workload.service.quantile(QUANTILE))} (p99)"
            )
        expected = response(workload, need.replicas, rate, forecast.dispersion)
        fewer = ""
        if need.replicas > 1:
            late = late_share(workload, need.replicas - 1, rate, self.target_s, forecast.dispersion)
            fewer = f"; with {need.replicas - 1}, {format_rough(late * 100)} % would be late"
        return (
            f"{need.replicas} at {said}: expected p99 {format_seconds(expected.p99_s)} of "
            f"{format_seconds(self.target_s)}, {expected.utilisation * 100:.0f} % busy{fewer}"
        )

    def _bounded(
        self, wanted: _Wanted, workload: Workload, useful: int | None, room: Room, forecast: Forecast
    ) -> Sizing:
        """Within what was declared and what the machine has. A declared minimum is not questioned for the cores."""
        count, limited_by, why = wanted
        least = self.bounds.min
        caps: list[tuple[int, Limit, Words]] = [(self.bounds.max, "max", lambda: "the declared maximum")]
        if useful is not None:
            caps.append((max(least, useful), "cpu", lambda: _cores_reason(workload, room)))
        if room.replicas is not None:
            caps.append((room.replicas, "memory", lambda: "the memory of its share holds no more"))
        cap, by, said = min(caps, key=lambda entry: entry[0])
        reason = why
        if count > cap:
            count, limited_by = cap, by
            reason = lambda: f"{said()}; wanted {why()}"  # noqa: E731
        if count < least <= cap:
            count, limited_by = least, "min"
            reason = lambda: f"the declared minimum; wanted {why()}"  # noqa: E731
        planned, dispersion = self._planned(forecast), forecast.dispersion
        return Sizing(
            count,
            limited_by,
            lambda: why() if reason is why else f"{count}: {reason()}",
            lambda: one_more(workload, count, planned, dispersion, room.cores),
        )


def _held(line: deque[tuple[float, int]], now: float, value: int, hold_s: float) -> int:
    """The highest value within the hold."""
    while line and line[-1][1] <= value:
        line.pop()
    line.append((now, value))
    while line[0][0] < now - hold_s:
        line.popleft()
    return line[0][1]


def _time(seconds: float) -> str:
    return format_seconds(float(f"{seconds:.3g}"))


def _cores_reason(workload: Workload, room: Room) -> str:
    cores = f"{room.cores:g}" if room.cores is not None else "the"
    return f"a busy replica uses {format_rough(workload.cores_busy())} of {cores} cores, more would only share them"
