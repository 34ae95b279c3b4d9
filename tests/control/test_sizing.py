"""Sizing at one rate; forecasts; decisions over time; shares of a budget; what a warm replica is worth."""

import random

import pytest

from muleteer.control.arrivals import RateTracker
from muleteer.control.queueing import Service, service_of
from muleteer.control.scaling import DRAIN_S, HOLD_S_MIN, Bounds, Observed, Room, Sizer
from muleteer.control.share import Budget, Claim, shared
from muleteer.control.sizing import (
    BatchCurve,
    Workload,
    default_target_s,
    late_share,
    needed,
    one_more,
    queue_reason,
    response,
    useful_max,
)
from muleteer.control.warmth import Resident, idle_reason, idle_s, victims

EVEN = Service(((0.020, 0.95), (0.040, 0.05)))


def workload(**changes):
    return Workload(**{"service": EVEN, "startup_s": 2.0, "memory_bytes": 100 * 2**20, **changes})


# at one rate


def test_more_calls_need_more_replicas_and_a_tighter_target_too():
    counts = [needed(workload(), rate, 0.1).replicas for rate in range(1, 2000, 37)]
    assert counts == sorted(counts)
    assert needed(workload(), 300, 0.06).replicas > needed(workload(), 300, 0.5).replicas
    assert needed(workload(), 0, 0.1).replicas == 0


@pytest.mark.parametrize("rate", [1, 40, 300, 5000])
def test_what_is_needed_is_the_least(rate):
    need = needed(workload(), rate, 0.1)
    assert late_share(workload(), need.replicas, rate, 0.1) <= 0.01
    assert need.replicas == 1 or late_share(workload(), need.replicas - 1, rate, 0.1) > 0.0025
    assert response(workload(), need.replicas, rate).p99_s <= 0.1


def test_a_target_below_the_service_is_out_of_reach_but_the_queue_is_stable():
    need = needed(workload(), 300, 0.01)
    assert not need.attainable
    assert 300 * EVEN.mean_s < need.replicas < 30


@pytest.mark.parametrize("target_s", [0.001, 0.0205, 0.025])
def test_a_target_out_of_reach_takes_few_replicas_whatever_the_services_sum_up_to(target_s):
    """Shares of 1 / n do not add up to 1, and a sum beyond it once looked as if even more replicas were needed."""
    for seed in range(60):
        chance = random.Random(seed)
        service = service_of(chance.uniform(0.02, 0.03) for _ in range(chance.randint(50, 400)))
        need = needed(workload(service=service), 40, target_s)
        assert (need.attainable, need.replicas < 10) == (False, True), (seed, need)


def test_slots_count_like_replicas():
    assert needed(workload(concurrency=4), 300, 0.1).replicas == -(-needed(workload(), 300, 0.1).replicas // 4)


def test_batches_need_far_fewer_replicas():
    curve = BatchCurve(0.018, 0.001, 64)
    need = needed(workload(curve=curve), 1000, 0.1)
    assert need.replicas < needed(workload(), 1000, 0.1).replicas / 5
    assert response(workload(curve=curve), need.replicas, 1000).p99_s <= 0.1


def test_replicas_beyond_the_cores_are_useless_and_said_to_be():
    busy = workload(cpu_s=0.021)
    assert useful_max(busy, 2) == 2
    assert "nothing gained" in one_more(busy, 2, 80, 1.0, 2)
    assert useful_max(workload(cpu_s=0.0021), 2) == 20
    # contention makes services longer, not the model lazier
    slow = Service(((0.042, 1.0),))
    assert useful_max(workload(service=slow, cpu_s=0.021, cpu_wait_s=0.021), 2) == 2
    assert "instead of" in one_more(workload(), 2, 80, 1.0, None)


def test_where_none_runs_there_is_nothing_to_compare_with():
    words = one_more(workload(), 0, 20, 1.0, None)
    assert words.startswith("with 1: p99 "), words
    assert "instead" not in words
    assert "0 slots" not in queue_reason(100, 0, 0.02, 0.04, 30.0)


def test_the_queue_bound_is_explained_in_its_own_numbers():
    assert "1,950" not in queue_reason(195, 2, 0.02, 0.05, 2.0)
    assert queue_reason(195, 2, 0.02, 0.05, 2.0).startswith("195 may wait: of the deadline of 2s, 50ms are kept")
    assert queue_reason(0, 2, 0.02, 5.0, 2.0).startswith("none may wait")
    full = queue_reason(10_000, 1, 0.001, 0.01, 30.0)
    assert full == "10000 may wait, the most that a queue holds: 29989 would be in time"
    batches = queue_reason(4_784, 1, 0.05, 0.1, 30.0, size=8)
    assert batches.endswith(
        "are kept for the batch itself (p99); in the other 29.9s 1 slot takes 598 batches of 8, 50ms each"
    )
    assert (
        queue_reason(50, 1, 0.0125, 0.03, 30.0) == "50 may wait within the deadline of 30s"
    )  # not reckoned from these
    assert queue_reason(12_000, 8, 0.02, 0.05, 30.05).startswith("12000 may wait: of the")  # of two gateways together


# forecasts


def fed(rates, seconds=0.5, seed=1):
    tracker, dice = RateTracker(), random.Random(seed)
    for rate in rates:
        tracker.observe(poisson(dice, rate * seconds), seconds)
    return tracker


def poisson(dice, mean):
    """How many arrivals fit: their distances are exponential."""
    count, left = 0, mean - dice.expovariate(1)
    while left > 0:
        count, left = count + 1, left - dice.expovariate(1)
    return count


def test_a_steady_rate_is_averaged_for_long():
    forecast = fed([100] * 60).forecast(2.0)
    assert forecast.rate == pytest.approx(100, rel=0.05)
    assert forecast.window_s >= 10
    assert forecast.dispersion < 2


@pytest.mark.parametrize(("low", "high"), [(40, 200), (200, 40)])
def test_a_step_is_seen_in_two_ticks(low, high):
    forecast = fed([low] * 60 + [high] * 2).forecast(2.0)
    assert forecast.rate == pytest.approx(high, rel=0.25)


def test_a_ramp_is_seen_ahead():
    forecast = fed([50 + 2 * tick for tick in range(60)]).forecast(5.0)
    assert forecast.trend == pytest.approx(4.0, rel=0.35)
    assert forecast.expected == pytest.approx(168 + 20, rel=0.12)


def test_no_trend_is_seen_in_a_steady_rate():
    trends = [fed([100] * 60, seed=seed).forecast(2.0).trend for seed in range(50)]
    assert sum(trend != 0 for trend in trends) <= 3


def test_silence_is_a_rate_of_nothing():
    tracker = RateTracker()
    assert tracker.forecast(1.0).rate == 0
    for _ in range(100):
        tracker.observe(0, 0.5)
    assert tracker.forecast(1.0) == (0, 0, 0, 0, 1, 30)


def test_a_single_call_after_a_silence_is_no_rate_and_a_second_makes_it_one():
    tracker = RateTracker()
    for _ in range(3):
        tracker.observe(0, 600.0)
        tracker.observe(1, 0.5)
        for _ in range(59):
            assert tracker.forecast(1.0)[:3] == (0, 0, 0)
            tracker.observe(0, 0.5)
        tracker.observe(0, 600.0)
    tracker.observe(1, 0.5)
    tracker.observe(1, 0.5)
    assert tracker.forecast(1.0).rate == pytest.approx(2)


def test_a_silence_through_which_nobody_looked_is_one():
    tracker = fed([100] * 40 + [0] * 20)  # 10 s, in which many ticks with calls are remembered
    tracker.observe(0, 3600.0)
    tracker.observe(1, 0.5)
    assert tracker.forecast(1.0)[:3] == (0, 0, 0)


# over time

NO_BOUND = Room()


def drive(sizer, ticks, *, now=0.0, rate=0, ready=1, queued=0, room=NO_BOUND, load=None, starting=()):
    sizing = None
    for _ in range(ticks):
        now += 0.5
        sizing = sizer.step(Observed(now, 0.5, rate // 2, queued, ready, starting), load or workload(), room)
    return sizing, now


def test_up_at_once_and_down_after_the_hold():
    sizer = Sizer(0.1)
    low, now = drive(sizer, 40, rate=40)
    high, now = drive(sizer, 2, now=now, rate=400, ready=low.replicas)
    assert high.replicas >= 9
    soon, now = drive(sizer, 4, now=now, rate=40, ready=high.replicas)
    assert (soon.replicas, soon.limited_by) == (high.replicas, "hold")
    later, now = drive(sizer, int(2 * HOLD_S_MIN) + 2, now=now, rate=40, ready=high.replicas)
    assert (later.replicas, later.limited_by) == (low.replicas, "rate")


def test_a_backlog_adds_what_clears_it():
    sizer = Sizer(0.1)
    calm, now = drive(sizer, 40, rate=100, ready=4)
    behind, _ = drive(sizer, 1, now=now, rate=100, queued=800, ready=4)
    assert behind.limited_by == "backlog"
    assert behind.replicas > calm.replicas
    # those already starting are counted: four ready, four nearly
    late, _ = drive(Sizer(0.1), 1, rate=100, queued=800, ready=4, starting=(0.1,) * 12)
    assert late.replicas < behind.replicas
    assert f"in {DRAIN_S:g}s" in behind.reason


def test_what_the_cores_allow_does_not_flap_with_what_is_measured():
    sizer, counts, now = Sizer(0.1), [], 0.0
    for tick in range(60):
        load = workload(cpu_s=0.02 if tick % 2 else 0.015)
        sizing, now = drive(sizer, 1, now=now, rate=1000, room=Room(cores=2), load=load)
        counts.append(sizing.replicas)
    assert set(counts[1:]) == {3}
    calm, _ = drive(sizer, 30, now=now, rate=1000, room=Room(cores=2), load=workload(cpu_s=0.02))
    assert calm.replicas == 2


def test_every_bound_is_said():
    assert drive(Sizer(0.1, Bounds(1, 3)), 20, rate=1000)[0].limited_by == "max"
    assert drive(Sizer(0.1, Bounds(2, 9)), 20, rate=1)[0].limited_by == "min"
    assert drive(Sizer(0.1), 20, rate=1000, room=Room(replicas=2))[0].limited_by == "memory"
    cores = drive(Sizer(0.1), 20, rate=1000, room=Room(cores=2), load=workload(cpu_s=0.02))[0]
    assert (cores.replicas, cores.limited_by) == (2, "cpu")
    assert "of 2 cores" in cores.reason
    assert drive(Sizer(0.01), 20, rate=100)[0].limited_by == "target"
    assert "out of reach" in drive(Sizer(0.01), 20, rate=100)[0].reason


def test_where_a_call_still_runs_the_next_one_does_not_follow_on_a_silence():
    slow, sizer = workload(service=Service(((60.0, 1.0),))), Sizer(90.0)
    for tick in range(241):  # a call every 40 s
        sizing = sizer.step(Observed(0.5 * tick, 0.5, int(tick % 80 == 0), 0, 1, (), 1), slow)
    assert sizer.rate() == pytest.approx(1 / 30, rel=0.2), "of the half minute that is remembered"
    assert sizing.replicas >= 2


def test_a_single_call_of_a_slow_model_wants_no_second_replica():
    slow = workload(service=Service(((0.3, 1.0),)))
    sizer = Sizer(default_target_s(slow.service, 30.0), Bounds(0, 4))
    found = [sizer.step(Observed(1.0, 0.5, 1, 0, 1, ()), slow)]
    found += [sizer.step(Observed(1.0 + 0.5 * tick, 0.5, 0, 0, 1, ()), slow) for tick in range(1, 10)]
    assert {sizing.replicas for sizing in found} == {1}


@pytest.mark.parametrize("gap_s", [8, 20, 29])
def test_a_call_now_and_then_is_a_low_rate_also_in_the_tick_that_sees_it(gap_s):
    sizer, slow = Sizer(1.0, Bounds(1, 9)), workload(service=Service(((0.4, 1.0),)))
    for tick in range(1, 600):
        called = tick % (2 * gap_s) == 0
        sizing = sizer.step(Observed(0.5 * tick, 0.5, int(called), 0, 1, ()), slow)
        assert sizing.replicas <= 2, (tick, sizing.reason)


def test_the_last_replica_stays_as_long_as_a_start_costs():
    for bounds, kept_s in ((Bounds(0, 9), 122), (Bounds(0, 9, idle_s=20.0), 20)):
        sizer = Sizer(0.1, bounds)
        _, now = drive(sizer, 10, rate=40)
        kept, now = drive(sizer, int(2 * kept_s) - 1, now=now)
        assert (kept.replicas, kept.limited_by) == (1, "hold")
        assert f"kept for {kept_s} s" in kept.reason
        gone, _ = drive(sizer, 20, now=now)
        assert (gone.replicas, gone.limited_by) == (0, "idle")
        assert gone.reason.endswith(f"the last replica is kept for {kept_s} s")
    assert drive(Sizer(0.1, Bounds(1, 9)), 300)[0].replicas == 1


def test_before_anything_is_measured():
    first = Sizer(0.1, Bounds(0, 9)).step(Observed(0.5, 0.5, 3, 3, 0), None)
    assert (first.replicas, first.limited_by) == (1, "start")
    assert Sizer(0.1, Bounds(0, 9)).step(Observed(0.5, 0.5, 0, 0, 0), None).replicas == 0


def test_the_reason_has_the_numbers():
    sizing, _ = drive(Sizer(0.1), 60, rate=200, ready=6)
    assert sizing.reason.startswith(f"{sizing.replicas} at 200 calls/s")
    assert f"with {sizing.replicas - 1}, " in sizing.reason
    assert sizing.one_more.startswith(f"with {sizing.replicas + 1}: p99 ")


# shares


def counts(claims, memory=1000, cores=100.0):
    return {name: grant.replicas for name, grant in shared(claims, Budget(memory, cores)).items()}


def test_one_that_wants_all_leaves_the_others_their_share():
    assert counts(
        [Claim(backend="a", wanted=50, memory_bytes=100), Claim(backend="b", wanted=5, memory_bytes=100)]
    ) == {
        "a": 5,
        "b": 5,
    }
    assert counts(
        [Claim(backend="a", wanted=50, memory_bytes=100), Claim(backend="b", wanted=2, memory_bytes=100)]
    ) == {
        "a": 8,
        "b": 2,
    }


def test_weights_divide_what_is_scarce():
    claims = [
        Claim(backend="a", wanted=50, memory_bytes=100, weight=3),
        Claim(backend="b", wanted=50, memory_bytes=100),
    ]
    assert counts(claims, memory=1200) == {"a": 9, "b": 3}


def test_minima_come_first_and_the_budget_is_never_exceeded():
    dice = random.Random(4)
    for _ in range(300):
        claims = [
            Claim(
                backend=f"b{index}",
                wanted=dice.randint(0, 9),
                least=dice.randint(0, 2),
                memory_bytes=dice.randint(0, 300),
                cores=dice.random() * 2,
                weight=dice.choice([1, 2, 5]),
            )
            for index in range(dice.randint(1, 8))
        ]
        grants = shared(claims, Budget(1000, 4.0))
        assert sum(grants[c.backend].replicas * c.memory_bytes for c in claims) <= 1000
        assert all(grants[c.backend].replicas <= max(c.wanted, c.least) for c in claims)
        free = 1000 - sum(grants[c.backend].replicas * c.memory_bytes for c in claims)
        for claim in claims:  # memory that is left is of no use to whoever was refused for it
            if grants[claim.backend].limited_by == "memory":
                assert claim.memory_bytes > free


def test_cores_are_shared_and_said():
    claims = [Claim(backend="a", wanted=9, cores=1.0), Claim(backend="b", wanted=9, cores=1.0)]
    grants = shared(claims, Budget(1000, 4.0))
    assert {name: grant.replicas for name, grant in grants.items()} == {"a": 2, "b": 2}
    assert grants["a"].limited_by == "cpu"
    assert grants["a"].reason == "2 of 9 wanted: another keeps 1 cores busy and 0 are left"


# warmth


def test_idle_time_follows_the_start():
    assert idle_s(0.01) == 10
    assert idle_s(6.4) == pytest.approx(390.4)
    assert idle_s(1000) == 3600
    assert "390 s" in idle_reason(6.4)


def resident(replica, **changes):
    return Resident(**{"backend": replica[0], "replica": replica, "memory_bytes": 100, "startup_s": 1.0, "rate": 1.0, "idle_s": 1.0, **changes})  # fmt: skip


def test_the_least_valuable_goes_first():
    slow, rare = resident("slow", startup_s=60.0), resident("rare", rate=0.01)
    large, usual = resident("large", memory_bytes=400), resident("usual")
    assert victims([slow, rare, large, usual], 50) == (rare,)
    assert victims([slow, large, usual], 50) == (large,)
    assert victims([slow, usual], 50) == (usual,)
    assert victims([slow, usual], 500) == ()
    assert victims([slow, resident("spare", startup_s=600.0, spare=True), rare], 50)[0].replica == "spare"
    assert resident("x", rate=5.0, idle_s=100.0).use_rate == 0.01


def test_no_more_go_than_needed():
    small, large = resident("small", rate=0.01), resident("large", memory_bytes=400, rate=0.5)
    assert victims([small, large], 300) == (large,)
