"""The sizing over time, by simulation: the target kept, what it costs beside the optimum, how soon after a step."""

import random

import pytest

from muleteer.control.queueing import service_of
from muleteer.control.scaling import Observed, Sizer
from muleteer.control.sizing import Workload
from muleteer.testing.arrivals import burst_changes, bursty, diurnal, lognormal, poisson, ramp, steady, step
from muleteer.testing.simulation import Backend, Call, least_replicas, optimal_replica_seconds, run

TARGET_S, MEAN_S, REPLICAS = 0.1, 0.02, 16
CAPACITY = REPLICAS / MEAN_S
BACKEND = Backend(startup_s=2.0, deadline_s=1.0)


class Fixed:
    def __init__(self, replicas):
        self.replicas = replicas

    def decide(self, _tick):
        return self.replicas


class Ours:
    def __init__(self):
        self.sizer, self.services, self.workload = Sizer(TARGET_S), [], None

    def decide(self, tick):
        self.services += tick.services
        if len(self.services) >= 200:
            self.workload = Workload(service=service_of(self.services), startup_s=BACKEND.startup_s)
            self.services = []
        seen = Observed(tick.now, tick.seconds, tick.arrivals, tick.queued, tick.ready, tick.starting_s)
        return min(REPLICAS, self.sizer.step(seen, self.workload).replicas)


def simulate(rate_at, high, seconds, policy, seed=1):
    dice = random.Random(seed)
    times = poisson(rate_at, high, seconds, dice)
    draw = lognormal(MEAN_S, 0.25, dice)
    return run(times, [draw() for _ in times], policy, TARGET_S, BACKEND)


def kept(course, begin, end):
    found = [good for _, good in course.windows(TARGET_S, seconds=5.0, begin=begin, end=end)]
    return sum(found) / len(found)


def cost(course, seconds):
    needs = least_replicas(course.calls, TARGET_S, 5.0, seconds, REPLICAS)
    return course.replica_seconds / optimal_replica_seconds(needs, 5.0, BACKEND.startup_s)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_steady_loads_keep_the_target(share):
    course = simulate(steady(share * CAPACITY), share * CAPACITY, 130, Ours())
    assert kept(course, 30, 130) == 1.0
    assert cost(course, 130) <= 1.3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_five_fold_step_it_holds_again_within_the_start_and_two_seconds(seed):
    low, high = 0.12 * CAPACITY, 0.6 * CAPACITY
    course = simulate(step(low, high, 60), high, 120, Ours(), seed)
    assert course.recovered(TARGET_S, since=60, end=120) <= BACKEND.startup_s + 2
    assert course.recovered(TARGET_S, since=60, end=120) >= BACKEND.startup_s  # nobody can be quicker
    assert cost(course, 120) <= 1.3


def test_a_ramp_and_a_day_are_followed():
    for rate_at, high in (
        (ramp(0.1 * CAPACITY, 0.9 * CAPACITY, 60, 240), 0.9 * CAPACITY),
        (diurnal(0.1 * CAPACITY, 0.8 * CAPACITY, 240), 0.8 * CAPACITY),
    ):
        course = simulate(rate_at, high, 250, Ours(), seed=2)
        assert kept(course, 30, 250) >= 0.97
        assert cost(course, 250) <= 1.3


def test_bursts_cost_little_more_than_their_knowledge():
    changes = burst_changes(300, calm_s=60, burst_s=20, dice=random.Random(5))
    course = simulate(bursty(0.15 * CAPACITY, 0.6 * CAPACITY, changes), 0.6 * CAPACITY, 300, Ours())
    assert cost(course, 300) <= 1.4
    for begin, end in zip(changes[::2], changes[1::2], strict=False):
        assert course.recovered(TARGET_S, since=begin, end=min(end, 300)) <= BACKEND.startup_s + 3


# the simulation itself


def test_it_is_the_same_every_time():
    again = [simulate(steady(200), 200, 20, Ours(), seed=7) for _ in range(2)]
    assert again[0] == again[1]
    assert simulate(steady(200), 200, 20, Ours(), seed=8) != again[0]


def test_by_hand():
    """One replica, a second is ready at 3.5 (asked at 0.5): calls of 2 s at 0, 0.1, 0.2, 0.3."""

    course = run([0.0, 0.1, 0.2, 0.3], [2.0] * 4, Fixed(2), 10.0, Backend(startup_s=3.0, deadline_s=100.0))
    assert [round(call.arrived + call.response_s, 6) for call in course.calls] == [2.0, 4.0, 5.5, 6.0]
    assert course.replicas == ((0.0, 1), (0.5, 2))


def test_cost_counts_from_the_start_and_until_the_last_call_of_a_leaving_one():
    class Once:
        def decide(self, tick):
            return 3 if tick.now < 2 else 1

    course = run([0.0, 10.0], [5.0, 0.1], Once(), 10.0, Backend(startup_s=3.0, deadline_s=100.0, initial=1))
    # one for all of 10 s; two more from 0.5 to 2.0, never ready
    assert course.replica_seconds == pytest.approx(10.0 + 2 * 1.5)
    course = run([0.0, 0.0, 10.0], [5.0, 6.0, 0.1], Fixed(1), 10.0, Backend(deadline_s=100.0, initial=2))
    assert course.replica_seconds == pytest.approx(10.0 + 5.0)  # the first to end leaves


def test_refused_and_expired_calls_are_late():
    course = run([0.01 * n for n in range(400)], [1.0] * 400, Fixed(1), 0.5, Backend(deadline_s=2.5))
    answered = [call for call in course.calls if call.response_s < 1e9]
    assert len(answered) <= 6
    assert all(call.response_s <= 2.5 for call in answered)
    assert not any(good for _, good in course.windows(0.5, seconds=1.0, begin=0.0, end=4.0))


def test_windows_without_calls_are_left_out():
    course = run([0.5, 0.6, 5.5], [0.1] * 3, Fixed(1), 1.0)
    assert course.windows(1.0, seconds=1.0, begin=0.0, end=6.0) == [(0.0, True), (5.0, True)]
    assert course.recovered(0.15, since=0.0, end=6.0) == 0.0
    assert course.recovered(0.05, since=0.0, end=6.0) == 6.0


def test_the_optimum_by_hand():
    calls = [Call(at, 0.9, 0.0) for at in (0.0, 0.0, 0.0, 1.0, 5.0)]
    assert least_replicas(calls, 1.0, 1.0, 6.0, 9) == [3, 1, 1, 1, 1, 1]
    assert least_replicas(calls, 1.0, 1.0, 1.0, 2) == [2]  # no more than there may be
    # the second replica pays its start or the gap, whichever is less
    assert optimal_replica_seconds([2, 1, 2], 1.0, 0.5) == 3 + 2 + 0.5
    assert optimal_replica_seconds([2, 1, 2], 1.0, 9.0) == 3 + 2 + 1
    assert optimal_replica_seconds([1, 2], 1.0, 4.0) == 2 + 1 + 4.0


def test_services_and_arrivals_are_what_was_asked():
    dice = random.Random(1)
    draw = lognormal(0.02, 1.0, dice)
    values = [draw() for _ in range(100_000)]
    assert sum(values) / len(values) == pytest.approx(0.02, rel=0.03)
    assert service_of(values).scv == pytest.approx(1.0, rel=0.15)
    assert {lognormal(0.02, 0.0, dice)() for _ in range(9)} == {0.02}
    times = poisson(step(50, 500, 10), 500, 20, dice)
    assert sum(at < 10 for at in times) == pytest.approx(500, rel=0.2)
    assert sum(at >= 10 for at in times) == pytest.approx(5000, rel=0.1)
    rate_at = bursty(1, 9, [2.0, 3.0, 7.0])
    assert [rate_at(now) for now in (1.9, 2.0, 2.9, 3.0, 8.0)] == [1, 9, 9, 1, 9]
