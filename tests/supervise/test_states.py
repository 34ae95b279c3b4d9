import itertools
from typing import get_args, get_type_hints

import pytest

from muleteer.supervise.process import ProcessStatus
from muleteer.supervise.states import TABLE, Event, IllegalMove, State, next_state

S, E = State, Event
LEGAL = {
    (S.STARTING, E.READY): S.READY,
    (S.STARTING, E.PAUSE): S.BACKOFF,
    (S.STARTING, E.GIVE_UP): S.FAILED,
    (S.STARTING, E.STOP): S.STOPPING,
    (S.READY, E.AGAIN): S.STARTING,
    (S.READY, E.PAUSE): S.BACKOFF,
    (S.READY, E.STOP): S.STOPPING,
    (S.STOPPING, E.READY): S.STOPPING,
    (S.STOPPING, E.STOP): S.STOPPING,
    (S.STOPPING, E.GONE): S.STOPPED,
    (S.BACKOFF, E.RESUME): S.STARTING,
    (S.BACKOFF, E.RETRY): S.STARTING,
    (S.BACKOFF, E.STOP): S.STOPPED,
    (S.FAILED, E.RETRY): S.STARTING,
    (S.FAILED, E.STOP): S.STOPPED,
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_cell(state, event):
    if (state, event) in LEGAL:
        assert next_state(state, event) is LEGAL[state, event]
    else:
        with pytest.raises(IllegalMove, match=f"{event.value} is not legal in state {state.value}"):
            next_state(state, event)


def test_every_state_has_a_row_can_be_reached_and_is_known_on_the_wire():
    assert set(TABLE) == set(State)
    reached = {S.STARTING}
    for _ in State:
        reached |= {follows for state in reached for follows in TABLE[state].values()}
    assert reached == set(State)
    assert {state.value for state in State} == set(get_args(get_type_hints(ProcessStatus)["state"]))


def test_every_living_state_can_be_stopped():
    for state in set(State) - {S.STOPPED}:
        assert next_state(state, E.STOP) in {S.STOPPING, S.STOPPED}
