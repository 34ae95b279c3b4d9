"""Rollouts: the table, the arithmetic of the gates, and by simulation how often they cry wolf and how soon they see one."""

import random

import msgspec
import pytest

from muleteer.base.errors import SpecError
from muleteer.control.rollout import (
    TRANSITIONS,
    Policy,
    Rollout,
    Window,
    abort,
    begin,
    fail,
    pause,
    resume,
    step,
)
from muleteer.telemetry.histogram import Histogram

POLICY = Policy()


class Version:
    """Answers requests with seeded errors and latencies; its totals are what a gateway counts."""

    def __init__(self, generator, errors=0.0, slow=1.0, latency=None):
        self.generator, self.rate, self.slow = generator, errors, slow
        self.draw = latency or (lambda: generator.lognormvariate(-5, 0.4))
        self.requests = self.errors = 0
        self.histogram = Histogram()

    def serve(self, count):
        for _ in range(count):
            self.requests += 1
            if self.generator.random() < self.rate:
                self.errors += 1
            else:
                self.histogram.record(self.draw() * self.slow)

    def totals(self):
        return Window(self.requests, self.errors, self.histogram.statistics())


def simulate(old, new, policy=POLICY, *, rate=100, tick=2.0, limit_s=3600.0, survive=False):
    """Run a rollout tick by tick. Returns (rollout, seconds since the first share, decisions other than wait)."""
    rollout, now, decisions, started = begin("e", {"old": 1.0}, "new", policy), 1000.0, [], None
    shadow = 0.0
    while not rollout.ended() and now < 1000 + limit_s:
        rollout, decision = step(rollout, now, old.totals(), new.totals())
        if survive:  # a controller that was killed reads its state back
            rollout = msgspec.json.decode(msgspec.json.encode(rollout), type=Rollout)
        if decision.event != "wait":
            decisions.append(decision)
        if decision.shadow_percent is not None:
            shadow = decision.shadow_percent
        started = now if started is None else started
        requests = round(rate * tick)
        share = round(requests * rollout.share() / 100)
        new.serve(share + round(requests * shadow / 100))
        old.serve(requests - share)
        now += tick
    return rollout, now - started, decisions


# the table


@pytest.mark.parametrize("phase", TRANSITIONS)
def test_every_cell(phase):
    policy = Policy(shadow_first=phase == "shadowing")
    base = begin("e", {"old": 1.0}, "new", policy)
    rollout = msgspec.structs.replace(base, phase=phase, index=0, paused_from="stepping" if phase == "paused" else None)
    empty = Window()
    moves = {
        "pause": lambda: pause(rollout),
        "resume": lambda: resume(rollout, 5.0, empty, empty),
        "abort": lambda: abort(rollout),
        "harm": lambda: fail(rollout, "its replicas do not start"),
    }
    for event, move in moves.items():
        if event in TRANSITIONS[phase]:
            moved, decision = move()
            assert (moved.phase, decision.event) == (TRANSITIONS[phase][event], event)
            assert decision.traffic == ({"old": 1.0} if event in ("abort", "harm") else None)
        else:
            with pytest.raises(SpecError, match=f"is {phase}: {event} is not possible"):
                move()
    if not TRANSITIONS[phase]:
        assert rollout.ended()
        assert step(rollout, 9.0, empty, empty)[0] is rollout


def test_ends_are_ends_and_each_phase_can_be_reached():
    assert {phase for phase, row in TRANSITIONS.items() if not row} == {"completed", "rolled_back", "aborted"}
    reached = {"pending"}.union(*(row.values() for row in TRANSITIONS.values()))
    assert reached == set(TRANSITIONS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": ()},
        {"steps": (1.0, 50.0)},
        {"steps": (50.0, 10.0, 100.0)},
        {"steps": (0.0, 100.0)},
        {"interval_s": 0.0},
        {"max_error_increase": -0.1},
        {"max_p99_ratio": 0.5},
        {"min_requests": 0},
    ],
)
def test_a_policy_that_makes_no_sense(wrong):
    with pytest.raises(SpecError):
        begin("e", {"old": 1.0}, "new", Policy(**wrong))


def test_a_rollout_compares_one_with_one():
    for traffic in ({"new": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "new": 1.0}):
        with pytest.raises(SpecError):
            begin("e", traffic, "new", POLICY)
    assert begin("e", {"a": 1.0, "new": 0.0}, "new", POLICY).old == "a"


# moving on


def test_equal_versions_complete_and_say_why():
    generator = random.Random(1)
    rollout, seconds, decisions = simulate(Version(generator), Version(generator), survive=True)
    assert rollout.phase == "completed"
    assert [d.traffic for d in decisions] == [
        {"old": 99.0, "new": 1.0},
        {"old": 90.0, "new": 10.0},
        {"old": 50.0, "new": 50.0},
        {"old": 0.0, "new": 100.0},
    ]
    assert decisions[0].reason == "it is ready: 1 % to new"
    assert decisions[1].reason.startswith("errors 0.00 % against 0.00 %, p99 ")
    # at 1 request/s the first step waits for 200 requests, the others for the interval
    assert 200 + 60 + 60 <= seconds <= 340


def test_nothing_moves_without_enough_requests():
    generator = random.Random(2)
    old, new = Version(generator), Version(generator)
    rollout, _, _ = simulate(old, new, rate=1, limit_s=600)
    assert (rollout.phase, rollout.share()) == ("stepping", 1.0)
    decision = step(rollout, 2000.0, old.totals(), new.totals())[1]
    assert decision.event == "wait"
    assert "of 200 requests of new" in decision.reason


def test_a_backend_that_is_not_ready_gets_nothing():
    rollout = begin("e", {"old": 1.0}, "new", POLICY)
    rollout, decision = step(rollout, 0.0, Window(), Window(), ready=False)
    assert (rollout.phase, decision.event, decision.traffic) == ("pending", "wait", None)


def test_a_single_step_of_100_completes():
    rollout, _, decisions = simulate(Version(random), Version(random), Policy(steps=(100.0,)))
    assert rollout.phase == "completed"
    assert decisions[0].traffic == {"old": 0.0, "new": 100.0}


def test_other_backends_of_weight_zero_stay():
    rollout = begin("e", {"old": 1.0, "spare": 0.0}, "new", POLICY)
    rollout, decision = step(rollout, 0.0, Window(), Window())
    assert decision.traffic == {"old": 99.0, "spare": 0.0, "new": 1.0}
    assert abort(rollout)[1].traffic == {"old": 1.0, "spare": 0.0}


# rolling back


def test_five_percent_errors_roll_back_within_two_intervals_of_the_first_hundred_requests():
    for seed in range(20):
        generator = random.Random(seed)
        rollout, seconds, decisions = simulate(Version(generator), Version(generator, errors=0.05), rate=500)
        assert rollout.phase == "rolled_back"
        assert seconds <= 120
        assert decisions[-1].traffic == {"old": 1.0}
        assert "more than the 0.5 points that are allowed" in rollout.reason


def test_twice_the_latency_rolls_back_within_two_intervals():
    for seed in range(20):
        generator = random.Random(seed)
        rollout, seconds, _ = simulate(Version(generator), Version(generator, slow=2.0), rate=500)
        assert rollout.phase == "rolled_back"
        assert seconds <= 120
        assert "1.2 times the p99 of old" in rollout.reason


def test_a_version_in_doubt_waits_for_more_requests_and_is_not_rolled_back_for_it():
    """11 of 226 against 0 of 230 is too little to convict at the 5th look, and far too much to be let through."""
    policy = Policy(steps=(50.0, 100.0), interval_s=3.0, min_requests=100)
    rollout, _ = step(begin("e", {"old": 1.0}, "new", policy), 0.0, Window(), Window())
    rollout = msgspec.structs.replace(rollout, looks=20, looked_at=220)
    rollout, decision = step(rollout, 4.0, Window(230), Window(226, 11))
    assert (rollout.phase, decision.event, decision.traffic) == ("stepping", "wait", None)
    assert decision.reason.endswith("not certain, waiting for more requests")
    assert "11 of 226 requests failed (4.87 %)" in decision.reason
    assert rollout.looks == 20, "waiting costs no look"
    assert step(rollout, 5.0, Window(4000), Window(4000, 11))[1].event == "complete"
    assert step(rollout, 5.0, Window(460), Window(452, 22))[1].event == "harm"


def test_five_percent_errors_are_let_through_by_hardly_any_gate_also_of_few_requests():
    policy = Policy(steps=(50.0, 100.0), interval_s=3.0, min_requests=100)
    completed = 0
    for seed in range(100):
        generator = random.Random(seed)
        rollout, _, _ = simulate(Version(generator), Version(generator, errors=0.05), policy, rate=150, tick=1.0)
        assert rollout.phase in ("completed", "rolled_back")
        completed += rollout.phase == "completed"
    assert completed <= 8  # of 225 requests 5 % are 11; fewer than 6 fail in 3 of 100 samples


def test_a_version_that_always_fails_is_gone_after_twenty_requests():
    generator = random.Random(3)
    new = Version(generator, errors=1.0)
    rollout, seconds, _ = simulate(Version(generator), new, rate=500)
    assert rollout.phase == "rolled_back"
    assert new.requests <= 30
    assert seconds < 10


def test_old_errors_are_not_held_against_the_new_version():
    generator = random.Random(4)
    rollout, _, _ = simulate(Version(generator, errors=0.05), Version(generator, errors=0.05), rate=500)
    assert rollout.phase == "completed"


def test_only_the_same_window_counts():
    """An hour of good years before the step must not hide what fails now, nor old sins condemn it."""
    generator = random.Random(5)
    old, new = Version(generator), Version(generator, errors=1.0)
    old.serve(20_000)
    new.serve(500)
    new.rate = 0.0
    rollout, _, _ = simulate(old, new, rate=500)
    assert rollout.phase == "completed"


# pause, resume, crash


def test_a_pause_holds_the_share_but_not_the_guard():
    generator = random.Random(6)
    old, new = Version(generator), Version(generator)
    rollout, _ = step(begin("e", {"old": 1.0}, "new", POLICY), 0.0, old.totals(), new.totals())
    old.serve(5000)
    new.serve(5000)
    rollout, _ = pause(rollout)
    rollout, decision = step(rollout, 1000.0, old.totals(), new.totals())
    assert (decision.event, rollout.phase) == ("wait", "paused")
    held, _ = resume(rollout, 1000.0, old.totals(), new.totals())
    assert (held.phase, held.looks) == ("stepping", rollout.looks)
    assert step(held, 1059.0, old.totals(), new.totals())[1].event == "wait"  # the interval begins anew
    new.rate = 1.0
    new.serve(5000)
    rollout, decision = step(rollout, 1001.0, old.totals(), new.totals())
    assert (decision.event, rollout.phase) == ("harm", "rolled_back")


def test_a_pause_before_the_start_leads_back_there():
    rollout, _ = pause(begin("e", {"old": 1.0}, "new", POLICY))
    assert step(rollout, 1.0, Window(), Window(500, 500))[1].event == "wait"
    rollout, _ = resume(rollout, 2.0, Window(), Window())
    assert rollout.phase == "pending"


def test_counters_that_begin_again_and_a_clock_that_goes_back_break_nothing():
    generator = random.Random(7)
    old, new = Version(generator), Version(generator)
    rollout, _ = step(begin("e", {"old": 1.0}, "new", POLICY), 5000.0, Window(900, 900), Window(10**6, 10**6))
    old.serve(500)
    new.serve(500)
    rollout, decision = step(rollout, 10.0, old.totals(), new.totals())
    assert decision.reason == "at 1 %: 60 s left"
    rollout, decision = step(rollout, 71.0, old.totals(), new.totals())
    assert decision.event == "advance"


def test_shadowing_comes_first_and_judges_errors_only():
    generator = random.Random(8)
    policy = Policy(shadow_first=True)
    rollout, _, decisions = simulate(Version(generator), Version(generator), policy)
    assert rollout.phase == "completed"
    assert [(d.event, d.shadow_percent) for d in decisions][:3] == [("shadow", 10.0), ("start", 0.0), ("advance", 0.0)]
    rollout, _, decisions = simulate(Version(generator), Version(generator, errors=0.05), policy, rate=500)
    assert [d.event for d in decisions] == ["shadow", "harm"]
    assert rollout.reason.startswith("at 10 % copied ")
    rollout, _, decisions = simulate(Version(generator), Version(generator, slow=3.0), policy, rate=500)
    assert [d.event for d in decisions] == ["shadow", "start", "harm"]


# false alarms and power


def alarms(runs, policy, **new):
    """How many of `runs` rollouts to a version that is within the margins are rolled back."""
    count = 0
    for seed in range(runs):
        generator = random.Random(seed)
        latency = new.get("latency", lambda: lambda: 0.01)(generator) if "latency" in new else None
        old = Version(generator, errors=new.get("old_errors", 0.0), latency=latency)
        other = Version(generator, errors=new.get("errors", 0.0), slow=new.get("slow", 1.0), latency=latency)
        rollout, _, _ = simulate(old, other, policy, rate=40, tick=1.0)
        assert rollout.phase in ("completed", "rolled_back")
        count += rollout.phase == "rolled_back"
    return count


FAST = Policy(steps=(20.0, 50.0, 100.0), interval_s=30.0, min_requests=100)


def test_false_alarms_at_the_very_edge_of_the_margins_are_rarer_than_promised():
    """The worst case of the promise: errors higher by exactly the margin, latency by exactly the ratio."""
    assert alarms(60, FAST, old_errors=0.01, errors=0.015) <= 6  # 5 % of 60, and 2 standard deviations
    assert alarms(60, FAST, slow=1.2) <= 6


def test_equal_versions_with_heavy_tails_complete():
    def pareto(generator):
        return lambda: 0.001 * generator.paretovariate(1.1)

    assert alarms(60, FAST, errors=0.02, old_errors=0.02, latency=pareto) <= 1
