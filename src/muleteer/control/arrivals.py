"""How many calls come, and how many will: a rate with its trend, from counts. Pure; must not know whose calls they are.

The rate is the mean over the longest recent window in which it has not changed (the idea of ADWIN: A. Bifet, R.
Gavaldà, "Learning from time-changing data with adaptive windowing", SIAM SDM 2007; here with a normal test of
counts). So a steady rate is averaged over minutes, and a step is seen in the first tick that shows it. A trend is a
line through the last ticks, believed only where it is significant and explains them better than a step does. The first
call after a silence is no rate: it says when the window begins, and only the next one how fast calls come.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import NamedTuple

TICKS_KEPT = 60
SILENCE_S = 30.0  # without calls
CALLS_MIN = 2  # since a silence; one call in the half second of a tick would be 2/s, with its error 6/s
CHANGE_Z = 3.0  # a false change now and then costs a moment of a wider margin
TREND_TICKS = 40
TREND_Z = 2.5
DISPERSION_MAX = 50.0


class Forecast(NamedTuple):
    """What is expected at the end of the horizon.

    Attributes:
        rate: calls/s now, measured.
        expected: calls/s at the end of the horizon.
        error: standard error of `expected`, calls/s.
        trend: calls/s per second; 0 where none is significant.
        dispersion: variance of the counts ÷ their mean; 1 for Poisson arrivals, and never less here.
        window_s: over how long the rate was averaged.
    """

    rate: float
    expected: float
    error: float
    trend: float
    dispersion: float
    window_s: float


NOTHING = Forecast(0.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class _Line(NamedTuple):
    """A fitted line: its value at `now`, slope per second, squared error around it, sum of squares of the times."""

    value: float
    slope: float
    error: float
    spread: float


class RateTracker:
    """Counts in, forecasts out. A tick costs O(kept ticks)."""

    __slots__ = ("_calls", "_silent_s", "_ticks", "_window")

    def __init__(self) -> None:
        self._ticks: deque[tuple[float, int]] = deque(maxlen=TICKS_KEPT)  # (length in seconds, calls), newest last
        self._calls = 0  # since the last silence
        self._silent_s = 0.0  # a tick may be as long as nobody looked: those that are kept may be older
        self._window = 0  # ticks over which the rate is steady

    def observe(self, calls: int, seconds: float, *, busy: bool = False) -> None:
        """`calls` came in the `seconds` since the last tick. `busy`: not all are answered, so it is no silence."""
        if seconds <= 0:
            return
        if calls and self._silent_s >= SILENCE_S:
            self._calls = 0
        self._silent_s = 0.0 if calls or busy else self._silent_s + seconds
        self._calls += calls
        self._ticks.append((seconds, calls))
        self._window = self._steady()

    def forecast(self, horizon_s: float) -> Forecast:
        """The rate `horizon_s` from now."""
        if not self._ticks:
            return NOTHING
        window = list(self._ticks)[-self._window :]
        length, calls = sum(s for s, _ in window), sum(n for _, n in window)
        if self._calls < CALLS_MIN:
            return NOTHING._replace(window_s=length)
        rate, dispersion = calls / length, self._dispersion()
        error = math.sqrt(dispersion * calls) / length
        line = self._trend(dispersion)
        if line is None:
            return Forecast(rate, rate, error, 0.0, dispersion, length)
        ahead = max(0.0, line.value + line.slope * horizon_s)
        return Forecast(max(0.0, line.value), ahead, max(error, line.error), line.slope, dispersion, length)

    def _steady(self) -> int:
        """The most ticks, newest last, of which no newer part differs from the older one."""
        ticks = list(self._ticks)
        dispersion = self._dispersion()
        size = min(self._window + 1, len(ticks))
        while size > 1:
            cut = self._change(ticks[-size:], dispersion)
            if not cut:
                return size
            size = cut
        return max(1, size)

    @staticmethod
    def _change(window: list[tuple[float, int]], dispersion: float) -> int:
        """The newest ticks that differ most from those before them, beyond chance; 0 if none do."""
        length, calls = sum(s for s, _ in window), sum(n for _, n in window)
        new_s, new, worst, cut = 0.0, 0, CHANGE_Z, 0
        for index, (seconds, count) in enumerate(reversed(window[1:]), 1):
            new_s += seconds
            new += count
            old_s, old = length - new_s, calls - new
            if new < CALLS_MIN and new * old_s > old * new_s:
                continue  # a call that is rare is no more often for having just come
            # Poisson counts under the hypothesis of one rate: Var(new/new_s - old/old_s) = rate·(1/new_s + 1/old_s)
            deviation = math.sqrt(dispersion * max(calls, 4) / length * (1 / new_s + 1 / old_s))
            z = abs(new / new_s - old / old_s) / deviation
            if z > worst:
                worst, cut = z, index
        return cut

    def _dispersion(self) -> float:
        """From differences of neighbours, so that a trend does not look like noise (von Neumann 1941), less the largest
        twentieth: those are steps.
        """
        recent = list(self._ticks)[-60:]
        if len(recent) < 8:
            return 1.0
        terms = sorted(
            (a / s - b / t) ** 2 / ((1 / s + 1 / t) * max((a + b) / (s + t), 1e-9))
            for (s, a), (t, b) in pairwise(recent)
        )
        kept = terms[: len(terms) - len(terms) // 20 - 1]
        return min(DISPERSION_MAX, max(1.0, sum(kept) / len(kept)))

    def _trend(self, dispersion: float) -> _Line | None:
        """The line through the last ticks, if it is one."""
        ticks = list(self._ticks)[-TREND_TICKS:]
        if len(ticks) < TREND_TICKS // 2:
            return None
        line, squares = _fit(ticks, dispersion)
        if abs(line.slope) * math.sqrt(line.spread) < TREND_Z * math.sqrt(dispersion * _rate(ticks) / ticks[-1][0]):
            return None
        step = min(_squares(ticks[:cut]) + _squares(ticks[cut:]) for cut in range(1, len(ticks)))
        return line if squares < step else None


def _rate(ticks: list[tuple[float, int]]) -> float:
    return sum(n for _, n in ticks) / sum(s for s, _ in ticks)


def _squares(ticks: list[tuple[float, int]]) -> float:
    """Squared deviations of the rates from their mean."""
    mean = _rate(ticks)
    return sum((n / s - mean) ** 2 for s, n in ticks)


def _fit(ticks: list[tuple[float, int]], dispersion: float) -> tuple[_Line, float]:
    """Least squares through the ticks' rates, time 0 being now; with the squares that remain."""
    times, now = [], 0.0
    for seconds, _ in reversed(ticks):
        times.append(now - seconds / 2)
        now -= seconds
    times.reverse()
    rates = [n / s for s, n in ticks]
    size = len(ticks)
    middle, mean = sum(times) / size, sum(rates) / size
    spread = sum((t - middle) ** 2 for t in times)
    slope = sum((t - middle) * (r - mean) for t, r in zip(times, rates, strict=True)) / spread
    squares = sum((r - mean - slope * (t - middle)) ** 2 for t, r in zip(times, rates, strict=True))
    variance = dispersion * max(mean, 1e-9) / ticks[-1][0]
    error = math.sqrt(variance * (1 / size + middle**2 / spread))
    return _Line(mean - slope * middle, slope, error, spread), squares
