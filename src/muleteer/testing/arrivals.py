"""Arrivals and services for a simulation, seeded. Must not know what serves them."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable

RateAt = Callable[[float], float]
"""Calls/s at a time in seconds."""


def poisson(rate_at: RateAt, rate_max: float, seconds: float, dice: random.Random) -> list[float]:
    """Arrival times of a Poisson process whose rate changes, by thinning (Lewis, Shedler 1979)."""
    times, now = [], 0.0
    while (now := now + dice.expovariate(rate_max)) < seconds:
        if dice.random() * rate_max < rate_at(now):
            times.append(now)
    return times


def steady(rate: float) -> RateAt:
    """The same rate for ever."""
    return lambda _now: rate


def step(low: float, high: float, at: float) -> RateAt:
    """`high` from `at` on."""
    return lambda now: high if now >= at else low


def ramp(low: float, high: float, begin: float, end: float) -> RateAt:
    """A straight line between two times."""
    return lambda now: low + (high - low) * min(1.0, max(0.0, (now - begin) / (end - begin)))


def diurnal(low: float, high: float, period: float) -> RateAt:
    """A sine from `low` at time 0 to `high` half a period later."""
    return lambda now: low + (high - low) * (1 - math.cos(2 * math.pi * now / period)) / 2


def burst_changes(seconds: float, *, calm_s: float, burst_s: float, dice: random.Random) -> list[float]:
    """When bursts begin and end by turns: exponential times of calm and of bursts with these means."""
    changes, now = [0.0], 0.0
    while now < seconds:
        now += dice.expovariate(1 / (burst_s if len(changes) % 2 == 0 else calm_s))
        changes.append(now)
    return changes[1:]


def bursty(low: float, high: float, changes: list[float]) -> RateAt:
    """A Markov-modulated Poisson process of two rates: `high` from each first change to the next."""
    return lambda now: high if bisect.bisect_right(changes, now) % 2 else low


def lognormal(mean_s: float, scv: float, dice: random.Random) -> Callable[[], float]:
    """Services with this mean and squared coefficient of variation; `scv` 0 is a constant."""
    sigma = math.sqrt(math.log(1 + scv))
    mu = math.log(mean_s) - sigma**2 / 2
    return lambda: dice.lognormvariate(mu, sigma) if scv else mean_s
