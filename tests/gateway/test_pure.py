"""The pure parts, by themselves: estimator, admission rules, queue, wheel, budget, quarantine, slots, routing, states."""

import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muleteer.base.errors import Loading, MethodNotAllowed, NotFound, PredictedLate, Refused, SpecError
from muleteer.base.limits import (
    CALLS_QUEUED_MAX,
    DEADLINE_TICK_S,
    QUARANTINE_S,
    RETRY_AFTER_S_MAX,
    SAMPLES_MIN,
)
from muleteer.gateway import admission
from muleteer.gateway.admission import Estimate
from muleteer.gateway.budget import RetryBudget, RetryPlace
from muleteer.gateway.call import MOVES, Call, CallState, Priority
from muleteer.gateway.estimator import MEAN_CALLS, ServiceEstimator, bucket_of, upper_edge_us
from muleteer.gateway.quarantine import Quarantine
from muleteer.gateway.queue import CallQueue
from muleteer.gateway.routing import Context, Routes
from muleteer.gateway.slots import Slots
from muleteer.gateway.wheel import DeadlineWheel
from muleteer.spec.snapshot import EMPTY, BackendRoute, EndpointRoute, Snapshot
from muleteer.spec.traffic import Affinity, Shadow

# -- estimator


@given(st.integers(0, 2**32 - 1))
def test_a_bucket_holds_its_durations_within_a_sixteenth(us):
    edge = upper_edge_us(bucket_of(us))
    assert us < edge <= us + max(1, us // 16) + 1
    assert bucket_of(edge - 1) == bucket_of(us)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 2.0), min_size=1, max_size=400), st.integers(10, 120))
def test_p99_is_the_nearest_rank_of_the_window_whatever_the_order(samples, window):
    estimator = ServiceEstimator(window)
    for count, sample in enumerate(samples, 1):
        estimator.add(sample)
        recent = sorted(samples[max(0, count - window) : count])
        exact_us = int(recent[len(recent) - 1 - len(recent) // 100] * 1e6)
        assert estimator.p99_s == upper_edge_us(bucket_of(exact_us)) / 1e6


def test_the_mean_is_plain_first_and_forgets_later():
    estimator = ServiceEstimator()
    for sample in range(MEAN_CALLS):
        estimator.add(sample)
    assert estimator.mean_s == pytest.approx((MEAN_CALLS - 1) / 2)
    for _ in range(10 * MEAN_CALLS):
        estimator.add(7.0)
    assert estimator.mean_s == pytest.approx(7.0, abs=0.01)


# -- admission


def ask(**changes):
    asked = {"queued": 0, "slots": 4, "estimate": Estimate(0.1, 0.2), "remaining_s": 1.0, "uniform": lambda: 0.0}
    return admission.refusal(**{**asked, **changes})


def test_rule_2_is_exact_at_its_edge():
    """(queued + 1)·0.1/4 + 0.2 ≤ 1.0: 31 may wait before it, 32 may not."""
    assert ask(queued=31, remaining_s=1.0 + 1e-9) is None
    late = ask(queued=32)
    assert type(late) is PredictedLate and late.retryable and late.execution == "not_started"


def test_rule_3_the_hard_caps():
    quick = Estimate(1e-9, 1e-9)
    assert ask(queued=CALLS_QUEUED_MAX - 1, estimate=quick) is None
    full = ask(queued=CALLS_QUEUED_MAX, estimate=quick)
    assert type(full) is Refused and full.code == "queue_full"


def test_rule_5_unmeasured_one_per_slot():
    assert ask(estimate=None, queued=3) is None
    assert ask(estimate=None, queued=4).code == "queue_full"


def test_an_estimate_needs_samples_a_declaration_or_a_warm_up():
    services = ServiceEstimator()
    for _ in range(SAMPLES_MIN - 1):
        services.add(0.5)
    assert admission.estimate_of(services, None) is None
    assert admission.estimate_of(services, None, 0.1) == Estimate(0.1, 0.0, guessed=True)
    assert admission.estimate_of(services, 0.3, 0.1) == Estimate(0.3, 0.3)
    services.add(0.5)
    measured = admission.estimate_of(services, 0.3, 0.1)
    assert measured.mean_s == pytest.approx(0.5) and measured.p99_s > 0.5 and not measured.guessed


def test_rule_5_a_warm_up_lets_wait_and_a_slow_one_takes_no_place():
    quick = Estimate(0.1, 0.0, guessed=True)
    assert ask(estimate=quick, queued=39, remaining_s=1.0 + 1e-9) is None
    assert type(ask(estimate=quick, queued=40)) is PredictedLate
    slow = Estimate(60.0, 0.0, guessed=True)
    assert ask(estimate=slow, queued=3) is None, "as without one"
    assert type(ask(estimate=slow, queued=4)) is PredictedLate
    assert admission.queue_bound(4, slow, 1.0) == 4
    assert admission.queue_bound(4, quick, 1.0) == 40


@pytest.mark.parametrize(
    ("late_s", "least", "most"), [(0.0, 1, 2), (0.2, 1, 2), (3.2, 4, 5), (39.5, 40, 50), (1e9, 60, 60)]
)
def test_retry_after_is_the_ceiling_with_jitter_and_a_cap(late_s, least, most):
    seen = {admission.retry_after_s(late_s, uniform / 100) for uniform in range(100)}
    assert (min(seen), max(seen)) == (least, most)
    assert most <= RETRY_AFTER_S_MAX


@given(st.integers(1, 64), st.floats(1e-4, 5), st.floats(1e-4, 5), st.floats(0.001, 60))
def test_the_bound_shown_is_the_bound_applied(slots, mean_s, p99_s, deadline_s):
    estimate = Estimate(mean_s, p99_s)
    bound = admission.queue_bound(slots, estimate, deadline_s)
    common = {"slots": slots, "estimate": estimate}
    if bound:
        assert ask(queued=bound - 1, remaining_s=deadline_s * (1 + 1e-9), **common) is None
    assert ask(queued=bound, remaining_s=deadline_s * (1 - 1e-9), **common) is not None


def test_the_bound_unmeasured_or_instant():
    assert admission.queue_bound(3, None, 30.0) == 3
    assert admission.queue_bound(3, Estimate(0.0, 1.0), 30.0) == CALLS_QUEUED_MAX
    assert admission.queue_bound(3, Estimate(0.0, 1.0), 0.5) == 0
    assert admission.client_share(1, 0) == 1
    assert admission.client_share(4, 36) == 10


# -- queue


class Member:
    def __init__(self, name, priority=Priority.NORMAL, client="c", size=1):
        self.name, self.priority, self.client, self.size, self.deadline_s = name, priority, client, size, 0.0


def drain(queue):
    names = []
    while queue.depth:
        member = queue.first()
        queue.remove(member)
        names.append(member.name)
    return names


def test_fifo_within_a_priority_and_the_front_for_those_that_come_back():
    queue = CallQueue()
    for name, priority in (("s1", 2), ("n1", 1), ("c1", 0), ("n2", 1), ("c2", 0)):
        queue.push(Member(name, Priority(priority)))
    queue.push(Member("n0"), front=True)
    assert [queue.ahead_of(priority, "c") for priority in Priority] == [2, 5, 6]
    assert drain(queue) == ["c1", "c2", "n0", "n1", "n2", "s1"]
    assert (queue.depth, queue.bytes) == (0, 0)


def test_the_newest_of_the_lowest_is_shed_first():
    queue = CallQueue()
    members = [Member(name, Priority(priority)) for name, priority in (("n1", 1), ("s1", 2), ("s2", 2), ("n2", 1))]
    for member in members:
        queue.push(member)
    shed = []
    while (victim := queue.newest_below(Priority.CRITICAL)) is not None:
        queue.remove(victim)
        shed.append(victim.name)
    assert shed == ["s2", "s1", "n2", "n1"]
    queue.push(members[0])
    assert queue.newest_below(Priority.NORMAL) is None


def test_clients_take_turns_and_each_keeps_its_order():
    queue = CallQueue()
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        queue.push(Member(name, client=name[0]))
    assert [queue.ahead_of(Priority.NORMAL, client) for client in "abcd"] == [7, 7, 5, 3]
    order = []
    while queue.depth:
        member = queue.first()
        queue.served(member)
        queue.remove(member)
        order.append(member.name)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_who_is_dropped_at_its_turn_leaves_the_turn_to_the_next_of_its_client():
    queue = CallQueue()
    for name in ("a1", "b1", "a2"):
        queue.push(Member(name, client=name[0]))
    queue.remove(queue.first())
    assert queue.first().name == "a2"


def test_in_its_class_the_newest_of_the_client_of_whom_most_wait_is_shed():
    queue, members = CallQueue(), {}
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        members[name] = Member(name, client=name[0])
        queue.push(members[name])
    shed = []
    while (victim := queue.newest_of_most(members["c1"])) is not None:
        queue.remove(victim)
        shed.append(victim.name)
    assert shed[:1] == ["a3"]
    assert set(shed) == {"a2", "a3", "b2"}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 50), st.booleans()), max_size=60),
    st.randoms(),
)
def test_counts_hold_whatever_leaves(steps, chance):
    queue, present = CallQueue(), []
    for priority, client, size, leave in steps:
        member = Member("m", Priority(priority), f"c{client}", size)
        queue.push(member)
        present.append(member)
        if leave:
            gone = present.pop(chance.randrange(len(present)))
            queue.remove(gone)
        assert queue.depth == len(present)
        assert queue.bytes == sum(each.size for each in present)
        for each in ("c0", "c1", "c2"):
            assert queue.others_wait(each) == any(other.client != each for other in present)
        for each in present:
            counts = Counter(other.client for other in present if other.priority == each.priority)
            victim = queue.newest_of_most(each)
            most = max(counts.values())
            assert (victim is None) == (counts[each.client] == most)
            assert victim is None or counts[victim.client] == most
    assert len(drain(queue)) == len(present)
    assert not queue.others_wait("nobody")


def timed_member(name, arrived_s, deadline_s=100.0, priority=Priority.NORMAL, client="c"):
    member = Member(name, priority, client)
    member.arrived_s, member.deadline_s = arrived_s, deadline_s
    return member


def test_who_missed_the_target_stands_behind_who_may_keep_it():
    queue = CallQueue()
    for number in range(6):
        queue.push(timed_member(f"n{number}", arrived_s=number))
    queue.push(timed_member("critical", arrived_s=0, priority=Priority.CRITICAL))
    queue.push(timed_member("sheddable", arrived_s=5.5, priority=Priority.SHEDDABLE))
    queue.arrange(6.0, 4.0, due_before_s=50.0)
    assert [call.name for call in queue.in_turn()][:3] == ["critical", "n4", "n5"]
    assert queue.ahead_of(Priority.NORMAL, "another") == 1 + 1 + 4, "those let in before count, also behind"
    assert queue.newest_below(Priority.NORMAL).name == "sheddable"
    assert drain(queue) == ["critical", "n4", "n5", "n0", "n1", "n2", "n3", "sheddable"]
    assert (queue.depth, queue.bytes) == (0, 0)


def test_deadlines_come_before_the_target():
    queue = CallQueue()
    queue.push(timed_member("soon", 0.0, deadline_s=9.0))
    queue.push(timed_member("a", 1.0, deadline_s=30.0))
    queue.push(timed_member("fresh", 8.0))
    queue.arrange(8.0, 5.0, due_before_s=10.0)
    assert queue.first().name == "soon", "no time to stand behind"
    queue.remove(queue.first())
    queue.arrange(8.0, 5.0, due_before_s=10.0)
    assert queue.first().name == "fresh"
    queue.arrange(9.0, 5.0, due_before_s=31.0)
    assert queue.first().name == "a", "its deadline came near"


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(1, 60), st.integers(0, 3)), min_size=1, max_size=60
    ),
    st.randoms(),
)
def test_nobody_is_lost_by_arranging(steps, chance):
    queue, present = CallQueue(), set()
    for now, (priority, client, patience_s, leaving) in enumerate(steps):
        member = timed_member(f"m{now}", now, now + patience_s, Priority(priority), f"c{client}")
        queue.push(member)
        present.add(member)
        queue.arrange(now, now - 3.0, now + 5.0)
        for _ in range(min(leaving, len(present))):
            gone = queue.first() if chance.random() < 0.7 else chance.choice(sorted(present, key=lambda m: m.name))
            queue.served(gone)
            queue.remove(gone)
            present.remove(gone)
        assert set(queue) == set(queue.in_turn()) == present
        assert queue.depth == len(present)
        assert not present or queue.first() is next(queue.in_turn())
    assert len(drain(queue)) == len(present)


# -- wheel


def timed(deadline_s):
    return Call(None, None, deadline_s=deadline_s, priority=Priority.NORMAL, body_max=0, size=0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 3), st.booleans()), max_size=50))
def test_nothing_expires_early_or_later_than_two_ticks(steps):
    now = 500.0
    wheel, live = DeadlineWheel(now), set()
    for remaining_s, pause_s, discard in steps:
        call = timed(now + remaining_s)
        wheel.add(call)
        live.add(call)
        if discard:
            wheel.discard(call)
            wheel.discard(call)
            live.discard(call)
        now += pause_s
        for expired in wheel.expired(now):
            assert expired in live and expired.deadline_s <= now
            live.discard(expired)
        assert all(each.deadline_s > now - 2 * DEADLINE_TICK_S for each in live)
        assert len(wheel) == len(live)
    assert set(wheel.expired(now + 200)) == live
    assert len(wheel) == 0


# -- budget


def test_a_fifth_of_the_active_and_always_three():
    budget = RetryBudget()
    places = [RetryPlace() for _ in range(6)]
    assert [budget.take(place, 4) for place in places[:4]] == [True, True, True, False]
    assert budget.take(places[3], 20) and not budget.take(places[4], 24) and budget.take(places[4], 25)
    budget.give_back(places[0])
    assert budget.spent == 4
    with pytest.raises(AssertionError):
        budget.give_back(places[0])


def test_the_calls_of_a_batch_hold_one_place():
    budget, place = RetryBudget(), RetryPlace()
    assert all(budget.take(place, 1) for _ in range(64))
    assert budget.spent == 1
    for left in range(63, -1, -1):
        budget.give_back(place)
        assert budget.spent == (left > 0)


# -- quarantine


def test_two_strikes_in_a_row_are_poison_for_ten_minutes():
    quarantine = Quarantine()
    assert not quarantine.strike(b"bad", 0.0, 1.0)
    assert not quarantine.is_poison(b"bad", 1.0)
    assert quarantine.strike(b"bad", 1.5, 2.0)
    assert quarantine.is_poison(b"bad", 2.0 + QUARANTINE_S - 0.1)
    assert not quarantine.is_poison(b"dab", 2.0), "same length, another body"
    assert quarantine.poisonous == 1
    quarantine.absolve(b"bad")
    assert quarantine.is_poison(b"bad", 3.0), "poison stays"
    assert not quarantine.is_poison(b"bad", 2.0 + QUARANTINE_S)
    assert len(quarantine.strikes) == 0


def test_deaths_at_once_are_one_strike_and_an_answer_takes_it_back():
    quarantine = Quarantine()
    assert not quarantine.strike(b"same", 0.0, 1.0)
    assert not quarantine.strike(b"same", 0.5, 1.001), "it was dispatched before the first death"
    quarantine.absolve(b"same")
    assert len(quarantine.strikes) == 0
    assert not quarantine.strike(b"same", 2.0, 3.0), "the count starts anew"


def test_a_first_strike_is_forgotten_too():
    quarantine = Quarantine()
    quarantine.strike(b"x", 0.0, 1.0)
    assert not quarantine.strike(b"x", 2.0, 1.0 + QUARANTINE_S)


def test_the_table_is_bounded_and_the_oldest_leave():
    quarantine = Quarantine(entries_max=3)
    for number in range(5):
        quarantine.strike(b"%d" % number, 0.0, float(number))
    assert len(quarantine.strikes) == 3
    assert not quarantine.strike(b"0", 5.0, 6.0), "it had left"
    assert quarantine.strike(b"4", 5.0, 6.0), "it had not"


# -- slots


class Loaded:
    def __init__(self, concurrency):
        self.concurrency, self.load = concurrency, 0


@settings(max_examples=200)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.lists(st.integers(0, 9), max_size=60), st.randoms())
def test_the_least_loaded_with_room_is_next(concurrencies, steps, chance):
    slots = Slots()
    links = [Loaded(each) for each in concurrencies]
    for link in links:
        slots.add(link)
    present = list(links)
    for step in steps:
        link = chance.choice(links)
        if step < 5 and (link := slots.next()) is not None:
            link.load += 1
            slots.moved(link)
        elif step < 8 and link is not None and link.load:
            link.load -= 1
            slots.moved(link)
        elif step == 8:
            slots.extend(chance.choice([1, 4]))
        elif link in present:
            slots.remove(link)
            present.remove(link)
        room = [each for each in present if each.load < each.concurrency * slots.credit]
        following = slots.next()
        assert (following is None) == (not room)
        if following is not None:
            assert following in room
            assert following.load == min(each.load for each in room)
        assert slots.total == sum(each.concurrency for each in present)
        assert len(slots) == len(present)


def test_equals_take_turns():
    slots = Slots()
    links = [Loaded(1) for _ in range(3)]
    for link in links:
        slots.add(link)
    order = []
    for _ in range(6):
        link = slots.next()
        order.append(links.index(link))
        link.load += 1
        slots.moved(link)
        link.load -= 1
        slots.moved(link)
    assert order == [0, 1, 2, 0, 1, 2]


# -- routing


def routes_of(*endpoints, backends=("m",), before=None, key="a2V5"):
    context = Context(str, lambda route, counts: None)
    return Routes(Snapshot(3, endpoints, tuple(BackendRoute(name=name) for name in backends), key), context, before)


def endpoint_of(name="e", route="/a", **options):
    return EndpointRoute(**{"name": name, "route": route, "traffic": {"m": 1.0}, **options})


@pytest.mark.parametrize("weights", [{}, {"m": 0.0}, {"m": -1.0, "n": 2.0}, {"m": math.inf}, {"m": math.nan}])
def test_weights_that_make_no_sense(weights):
    with pytest.raises(SpecError, match="finite weights"):
        routes_of(endpoint_of(traffic=weights), backends=("m", "n"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([endpoint_of(traffic={"x": 1.0})], r"unknown backends: \['x'\]"),
        ([endpoint_of(shadow=Shadow(backend="x", percent=1))], r"unknown backends: \['x'\]"),
        ([endpoint_of(), endpoint_of("f")], "/a of endpoint 'f' is taken"),
        ([endpoint_of(), endpoint_of(route="/b")], "two endpoints are called 'e'"),
        ([endpoint_of(route="/readyz")], "taken"),
    ],
)
def test_a_snapshot_that_contradicts_itself(wrong, words):
    with pytest.raises(SpecError, match=words):
        routes_of(*wrong)


def test_cookies_need_a_key():
    issues = endpoint_of(affinity=Affinity(source="cookie", name="sid"))
    with pytest.raises(SpecError, match="no key"):
        routes_of(issues, key="")
    with pytest.raises(SpecError, match="base64"):
        routes_of(issues, key="?")
    routes_of(issues)


def test_what_stays_the_same_is_taken_over():
    same, other, gone = endpoint_of(), endpoint_of("f", "/f"), endpoint_of("g", "/g")
    before = routes_of(same, other, gone)
    after = routes_of(endpoint_of(), msgspec.structs.replace(other, route="/f2"), before=before)
    assert after.find("POST", "/a") is before.find("POST", "/a")
    assert after.find("POST", "/f2") is not before.find("POST", "/f")
    assert after.find("POST", "/f2").counts is before.find("POST", "/f").counts
    assert routes_of(gone, before=after).find("POST", "/g").counts is not before.find("POST", "/g").counts
    with_key = routes_of(same, before=before, key="b3RoZXI=")
    assert with_key.find("POST", "/a") is not before.find("POST", "/a"), "its cookies are signed otherwise"


def test_routes_are_exact():
    endpoint = endpoint_of(methods=("PUT", "POST"))
    routes = routes_of(endpoint)
    assert routes.find("POST", "/a").route is endpoint
    for path in ("/", "/a/", "/A", "/a/b", ""):
        with pytest.raises(NotFound):
            routes.find("POST", path)
    with pytest.raises(MethodNotAllowed) as refused:
        routes.find("GET", "/a")
    assert refused.value.allow == ("POST", "PUT")


def test_before_the_first_snapshot_no_route_is_unknown():
    with pytest.raises(Loading):
        Routes(EMPTY, Context(str, lambda route, counts: None)).find("POST", "/a")


# -- states of a call


def test_every_move_that_is_not_in_the_table_is_refused():
    for before in CallState:
        for after in CallState:
            call = timed(0.0)
            call.state = before
            if after in MOVES[before]:
                call.move(after)
                assert call.state is after
            else:
                with pytest.raises(AssertionError):
                    call.move(after)
    assert MOVES[CallState.SETTLED] == frozenset(), "one outcome"
