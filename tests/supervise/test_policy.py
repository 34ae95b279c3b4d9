import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muleteer.base.limits import FAILED_STARTS_MAX
from muleteer.supervise.policy import RestartPolicy
from muleteer.supervise.states import Event


def low():
    return 0.0


def high():
    return 1.0


@pytest.mark.parametrize(
    ("chance", "pauses"),
    [(low, [0.5, 1, 2, 4, 8, 15, 15, 15]), (high, [1, 2, 4, 8, 16, 30, 30, 30])],
)
def test_failed_starts_double_their_pause_up_to_the_cap(chance, pauses):
    policy = RestartPolicy(100, chance)
    assert [policy.start_failed().pause_s for _ in pauses] == pauses


def test_enough_failed_starts_in_a_row_are_given_up():
    policy = RestartPolicy(FAILED_STARTS_MAX, random.random)
    verdicts = [policy.start_failed().event for _ in range(FAILED_STARTS_MAX)]
    assert verdicts == [Event.PAUSE] * (FAILED_STARTS_MAX - 1) + [Event.GIVE_UP]


def test_one_failed_start_can_be_enough():
    assert RestartPolicy(1, low).start_failed().event is Event.GIVE_UP


def test_without_a_maximum_it_never_gives_up_and_pauses_at_most_five_seconds():
    policy = RestartPolicy(None, high)
    verdicts = [policy.start_failed() for _ in range(5000)]
    assert {verdict.event for verdict in verdicts} == {Event.PAUSE}
    assert max(verdict.pause_s for verdict in verdicts) == 5.0


def test_death_after_ready_starts_at_once_and_forgives_failed_starts():
    policy = RestartPolicy(2, low)
    policy.start_failed()
    assert policy.died_ready(60.0).event is Event.AGAIN
    assert policy.start_failed().event is Event.PAUSE


def test_dying_again_and_again_just_after_ready_earns_a_small_pause_but_is_no_crash_loop():
    policy = RestartPolicy(5, high)
    verdicts = [policy.died_ready(0.01) for _ in range(1000)]
    assert verdicts[0].event is Event.AGAIN
    assert {verdict.event for verdict in verdicts[1:]} == {Event.PAUSE}
    pauses = [verdict.pause_s for verdict in verdicts]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5
    assert policy.died_ready(1.5).event is Event.AGAIN
    assert policy.died_ready(0.01).event is Event.AGAIN


def test_a_starved_start_is_not_counted():
    policy = RestartPolicy(1, low)
    for _ in range(100):
        verdict = policy.starved()
        assert (verdict.event, verdict.pause_s) == (Event.PAUSE, 1.0)
    assert policy.failed_starts == 0


def test_forgive_starts_the_count_afresh():
    policy = RestartPolicy(2, low)
    policy.start_failed()
    policy.forgive()
    assert policy.start_failed().event is Event.PAUSE


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6))), st.integers(1, 10), st.randoms())
def test_whatever_happens_only_an_unbroken_row_of_failed_starts_is_given_up(ends, starts_max, chance):
    policy = RestartPolicy(starts_max, chance.random)
    row = 0
    for ready_s in ends:
        row = row + 1 if ready_s is None else 0
        verdict = policy.start_failed() if ready_s is None else policy.died_ready(ready_s)
        assert (verdict.event is Event.GIVE_UP) == (row >= starts_max)
        assert 0 <= verdict.pause_s <= (30 if ready_s is None else 0.5)
