"""Exact statistics on counts, for gates that must not cry wolf. Pure mathematics; must not know what is counted."""

from __future__ import annotations

import math

_TINY = 1e-300
_ITERATIONS = 500


def log_beta_cdf(x: float, a: float, b: float) -> float:
    """The logarithm of the regularised incomplete beta function I_x(a, b), a, b > 0, also where that underflows.

    Its continued fraction (DLMF 8.17.22) by Lentz's method, on the side where that converges fast.
    """
    if x <= 0 or x >= 1:
        return -math.inf if x <= 0 else 0.0
    if x > (a + 1) / (a + b + 2):
        return math.log1p(-min(math.exp(log_beta_cdf(1 - x, b, a)), 1 - 1e-16))
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
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
    return min(0.0, front + math.log(fraction))


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def increase_p(new_events: int, new_trials: int, old_events: int, old_trials: int, margin: float) -> float:
    """At most this is the chance of samples so far apart if the new rate is not above the old rate plus `margin`.

    For a given old rate two independent binomial tests, "the new one cannot be so high" and "the old one cannot be so
    low", are joined by Fisher's method (Statistical Methods for Research Workers, 1932, §21.1), which is conservative
    for discrete values; the worst old rate counts. Both tails are log-concave in the rate, so the worst is found by
    ternary search. Exact for any counts, where an interval by the normal approximation is not.
    """
    if new_events == 0 or old_trials == old_events:  # also without any trials
        return 1.0

    def log_both(rate: float) -> float:
        high = log_beta_cdf(min(rate + margin, 1.0), new_events, new_trials - new_events + 1)
        return high + log_beta_cdf(1 - rate, old_trials - old_events, old_events + 1)

    low, high = 0.0, 1.0
    for _ in range(50):
        third = (high - low) / 3
        if log_both(low + third) < log_both(high - third):
            low += third
        else:
            high -= third
    worst = min(0.0, max(log_both(0.0), log_both((low + high) / 2)))
    return math.exp(worst) * (1 - worst)


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
