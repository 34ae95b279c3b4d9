"""Ray Serve's rule as the comparison plays it, by hand."""

from bench.policies import RayServe
from muleteer.testing.simulation import Tick


def tick(now, ongoing):
    return Tick(now, 0.5, 0, ongoing, 0, 1, (), (), 0)


def test_it_follows_ongoing_calls_after_its_delays():
    policy = RayServe(10, 2.0, 1.0, 2.0, 1.0)
    assert policy.decide(tick(0.5, 12)) == 1
    assert policy.decide(tick(1.0, 12)) == 1
    assert policy.decide(tick(1.5, 12)) == 6
    assert [policy.decide(tick(2.0 + 0.5 * n, 0)) for n in range(8)] == [6, 6, 6, 6, 1, 1, 1, 1]


def test_it_keeps_within_its_bounds():
    policy = RayServe(10, 1.0, 0.0, 0.0, 0.0)
    assert policy.decide(tick(0.5, 500)) == 10
    assert policy.decide(tick(1.0, 0)) == 1
