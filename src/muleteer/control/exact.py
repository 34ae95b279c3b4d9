"""Exact statistics on counts, for gates that must not cry wolf. Pure mathematics; must not know what is counted."""

from __future__ import annotations

import math
from collections.abc import Callable

_TINY = 1e-300
_ITERATIONS = 500


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for a, b > 0.

    Its continued fraction (DLMF 8.17.22) by Lentz's method, on the side where that converges fast; relative error
    about 1e-12.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _ITERATIONS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _nonzero(1 + even * d)
        c = _nonzero(1 + even / c)
        fraction *= d * c
        d = 1 / _nonzero(1 + odd * d)
        c = _nonzero(1 + odd / c)
        fraction *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return min(1.0, front * fraction)


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def rate_at_least(events: int, trials: int, alpha: float) -> float:
    """Lower confidence bound of a rate: it lies above the true one with a chance of at most `alpha`.

    Clopper and Pearson, Biometrika 26 (1934): the rate at which `events` or more would be that unlikely.
    """
    if events == 0:
        return 0.0
    return _solve(lambda rate: beta_cdf(rate, events, trials - events + 1) - alpha)


def rate_at_most(events: int, trials: int, alpha: float) -> float:
    """Upper confidence bound of a rate: it lies below the true one with a chance of at most `alpha`."""
    return 1 - rate_at_least(trials - events, trials, alpha) if trials else 1.0


def _solve(rising: Callable[[float], float]) -> float:
    """The zero in [0, 1], by bisection; the lower end, so that a bound is never too tight."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) > 0:
            high = middle
        else:
            low = middle
    return low


def exceedance_p(exceeding: int, new: int, rank: int, old: int) -> float:
    """The chance that at least `exceeding` of `new` values lie above the `rank`-th largest of `old` values, if both
    come from one continuous distribution, whichever (and less, if the new ones are stochastically smaller).

    The exceedance test (Epstein, Annals of Mathematical Statistics 25, 1954): it happens exactly if among the largest
    `exceeding + rank - 1` of all values fewer than `rank` are old, which is hypergeometric. Unlike a binomial test
    against the old sample's quantile it counts the uncertainty of that quantile in.
    """
    if exceeding <= 0:
        return 1.0
    top = exceeding + rank - 1
    whole = _log_choose(old + new, top)
    terms = (
        math.exp(_log_choose(old, among) + _log_choose(new, top - among) - whole)
        for among in range(max(0, top - new), rank)
    )
    return min(1.0, math.fsum(terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) if 0 <= k <= n else -math.inf
