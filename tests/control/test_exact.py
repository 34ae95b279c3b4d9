"""The exact statistics, against sums over every outcome and against what they promise."""

import math
import random

import pytest

from muleteer.control.exact import exceedance_p, increase_p, log_beta_cdf


def tail(events, trials, rate):
    """P(X >= events) of a binomial, by its sum."""
    return math.fsum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(events, trials + 1))


@pytest.mark.parametrize(("events", "trials"), [(1, 1), (1, 20), (7, 20), (20, 20), (3, 400), (380, 400)])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.97])
def test_beta_is_the_binomial_tail(events, trials, rate):
    assert math.exp(log_beta_cdf(rate, events, trials - events + 1)) == pytest.approx(
        tail(events, trials, rate), rel=1e-9, abs=1e-15
    )


def test_beta_does_not_underflow():
    assert log_beta_cdf(0.001, 5000, 5001) < -27_000
    assert log_beta_cdf(0.999, 5000, 5001) == 0.0


def outcomes(trials, rate):
    return [(k, math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k)) for k in range(trials + 1)]


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_increase_keeps_its_level_exactly(margin):
    """By the sum over every outcome of both samples at the edge of what is allowed."""
    p = {(x, y): increase_p(x, 20, y, 30, margin) for x in range(21) for y in range(31)}
    for old_rate in (0.0, 0.02, 0.3, 0.9):
        new_outcomes, old_outcomes = outcomes(20, min(1.0, old_rate + margin)), outcomes(30, old_rate)
        for alpha in (0.2, 0.05, 0.01, 1e-4):
            wrong = math.fsum(a * b for x, a in new_outcomes for y, b in old_outcomes if p[x, y] <= alpha)
            assert wrong <= alpha


def test_increase_sees_what_is_there():
    assert increase_p(10, 200, 0, 20_000, 0.005) < 1e-5
    assert increase_p(20, 20, 0, 500, 0.005) < 1e-12
    assert increase_p(10_000, 10**6, 4_000, 10**6, 0.005) < 1e-6
    assert increase_p(500_000, 10**6, 0, 10**6, 0.005) == 0.0


def test_no_increase_is_no_evidence():
    for counts in [(0, 0, 0, 0), (0, 100, 0, 0), (5, 100, 0, 0), (0, 100, 50, 100), (7, 100, 7, 100), (100, 100, 9, 9)]:
        assert increase_p(*counts, 0.005) > 0.5
    assert increase_p(10_000, 10**6, 10_000, 10**6, 0.005) == pytest.approx(1.0)


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
