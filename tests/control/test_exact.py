"""The exact statistics, against sums over every outcome and against what they promise."""

import math
import random

import pytest

from muleteer.control.exact import beta_cdf, exceedance_p, rate_at_least, rate_at_most


def tail(events, trials, rate):
    """P(X >= events) of a binomial, by its sum."""
    return math.fsum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(events, trials + 1))


@pytest.mark.parametrize(("events", "trials"), [(1, 1), (1, 20), (7, 20), (20, 20), (3, 400), (380, 400)])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.97])
def test_beta_is_the_binomial_tail(events, trials, rate):
    assert beta_cdf(rate, events, trials - events + 1) == pytest.approx(tail(events, trials, rate), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("events", "trials", "alpha"), [(0, 10, 0.1), (1, 20, 1e-4), (15, 300, 0.025), (50, 50, 1e-6)])
def test_bounds_are_where_the_tails_say(events, trials, alpha):
    low, high = rate_at_least(events, trials, alpha), rate_at_most(events, trials, alpha)
    assert low <= events / trials <= high
    if events:
        assert tail(events, trials, low) == pytest.approx(alpha)
    if events < trials:
        assert 1 - tail(events + 1, trials, high) == pytest.approx(alpha)


def test_bounds_of_nothing_say_nothing():
    assert (rate_at_least(0, 0, 0.05), rate_at_most(0, 0, 0.05)) == (0.0, 1.0)


def test_bounds_hold_for_large_samples():
    assert rate_at_least(50_000, 10**6, 1e-4) == pytest.approx(0.05 - 3.72 * math.sqrt(0.05 * 0.95 / 1e6), rel=1e-3)


@pytest.mark.parametrize(("new", "old", "rank"), [(5, 7, 1), (6, 4, 2), (3, 9, 9)])
def test_exceedance_is_the_share_of_arrangements(new, old, rank):
    """Every order of the pooled values is equally likely: count those in which enough new ones come first."""
    from itertools import combinations

    for exceeding in range(new + 1):
        hits = 0
        for places in combinations(range(new + old), new):  # ranks of the new values, largest first
            olds = [place for place in range(new + old) if place not in places]
            hits += sum(place < olds[rank - 1] for place in places) >= exceeding
        assert exceedance_p(exceeding, new, rank, old) == pytest.approx(hits / math.comb(new + old, new))


def test_exceedance_keeps_its_level_whatever_the_distribution():
    generator = random.Random(5)
    draws = {
        "narrow": lambda: generator.gauss(10, 0.01),
        "heavy": lambda: generator.paretovariate(0.8),
        "two humps": lambda: generator.choice((1, 50)) * generator.uniform(0.9, 1.1),
    }
    for draw in draws.values():
        alarms = 0
        for _ in range(1000):
            old, new = sorted((draw() for _ in range(300)), reverse=True), [draw() for _ in range(150)]
            exceeding = sum(value > old[2] for value in new)
            alarms += exceedance_p(exceeding, 150, 3, 300) <= 0.05
        assert alarms <= 72  # 0.05 of 1000, and three standard deviations
