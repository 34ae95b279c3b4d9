"""The rules of a link: every cell of the table is walked from both ends, and each law has a test."""

import pytest

from muleteer.base.errors import WireError
from muleteer.wire.connection import COUPLED, TABLE, TERMINAL, Connection, Role, State
from muleteer.wire.frames import Flag, FrameType, encode

PAYLOAD_MAX = 1000
CELLS = [(role, state, kind) for role, state in TABLE for kind in FrameType]
# The shortest legal conversation that brings an end into a state; call 1 is open afterwards where calls are possible.
TO_OPEN = [(Role.GATEWAY, FrameType.HELLO), (Role.REPLICA, FrameType.READY), (Role.GATEWAY, FrameType.CALL)]
PATHS = {
    (Role.GATEWAY, State.START): [],
    (Role.REPLICA, State.START): [],
    (Role.GATEWAY, State.GREETED): TO_OPEN[:1],
    (Role.REPLICA, State.GREETED): TO_OPEN[:1],
    (Role.GATEWAY, State.OPEN): TO_OPEN,
    (Role.REPLICA, State.OPEN): TO_OPEN,
    (Role.GATEWAY, State.DRAINED): [*TO_OPEN, (Role.GATEWAY, FrameType.DRAIN)],
    (Role.REPLICA, State.DRAINED): [*TO_OPEN, (Role.REPLICA, FrameType.DRAIN)],
}


class Pair:
    """Two ends of one link; each frame sent is received at once."""

    def __init__(self):
        self.ends = {role: Connection(role, payload_max=PAYLOAD_MAX) for role in Role}

    def send(self, role, kind, id=0):
        data = self.ends[role].send(kind, id=id)
        other = Role.REPLICA if role is Role.GATEWAY else Role.GATEWAY
        return self.ends[other].receive(data)

    def states(self):
        gateway, replica = self.ends[Role.GATEWAY], self.ends[Role.REPLICA]
        assert gateway.state is replica.peer_state
        assert replica.state is gateway.peer_state
        return {Role.GATEWAY: gateway.state, Role.REPLICA: replica.state}


def pair_in(role, state):
    pair = Pair()
    if state is State.DEAD:
        for end in pair.ends.values():
            end.close()
    else:
        for sender, kind in PATHS[role, state]:
            pair.send(sender, kind, id=1)
    assert pair.states()[role] is state
    return pair


def id_for(kind):
    """An id that is legal where the type is: a new one for CALL, the open one for the rest."""
    return 2 if kind is FrameType.CALL else 1


def test_the_table_has_a_row_for_every_state():
    assert set(TABLE) == {(role, state) for role in Role for state in State}
    assert all(isinstance(follows, State) for row in TABLE.values() for follows in row.values())


def test_every_type_is_legal_somewhere():
    assert {kind for row in TABLE.values() for kind in row} == set(FrameType)


@pytest.mark.parametrize(("role", "state", "kind"), CELLS, ids=lambda cell: cell.name)
def test_cell(role, state, kind):
    pair = pair_in(role, state)
    before = pair.states()
    follows = TABLE[role, state].get(kind)
    if follows is None:
        with pytest.raises(WireError):
            pair.ends[role].send(kind, id=id_for(kind))
        assert pair.states() == before, "an illegal send must not move the sender"
        receiver = pair.ends[Role.REPLICA if role is Role.GATEWAY else Role.GATEWAY]
        with pytest.raises(WireError):
            receiver.receive(encode(kind, id=id_for(kind)))
        assert receiver.state is State.DEAD
        assert receiver.peer_state is State.DEAD
    else:
        received = pair.send(role, kind, id=id_for(kind))
        assert [frame.type for frame in received] == [kind]
        expected = before | {role: follows}
        if kind in COUPLED:
            other, was, becomes = COUPLED[kind]
            assert before[other] is was
            expected[other] = becomes
        assert pair.states() == expected


@pytest.mark.parametrize("kind", sorted(TERMINAL))
def test_a_call_gets_exactly_one_terminal_frame(kind):
    pair = pair_in(Role.REPLICA, State.OPEN)
    assert [end.open_calls for end in pair.ends.values()] == [1, 1]
    pair.send(Role.REPLICA, kind, id=1)
    assert [end.open_calls for end in pair.ends.values()] == [0, 0]
    with pytest.raises(WireError, match="not open"):
        pair.ends[Role.REPLICA].send(kind, id=1)
    with pytest.raises(WireError, match="not open"):
        pair.ends[Role.GATEWAY].receive(encode(kind, id=1))


@pytest.mark.parametrize("kind", [*sorted(TERMINAL), FrameType.CHUNK])
def test_an_answer_to_a_call_that_was_never_made_kills_the_link(kind):
    gateway = pair_in(Role.GATEWAY, State.OPEN).ends[Role.GATEWAY]
    with pytest.raises(WireError, match="call 99, which is not open"):
        gateway.receive(encode(kind, id=99))
    assert gateway.state is State.DEAD
    with pytest.raises(WireError):
        gateway.receive(encode(FrameType.REPLY, id=1))


def test_an_id_is_not_used_twice_while_open_but_may_be_afterwards():
    pair = pair_in(Role.GATEWAY, State.OPEN)
    with pytest.raises(WireError, match="call 1 is already open"):
        pair.ends[Role.GATEWAY].send(FrameType.CALL, id=1)
    pair.send(Role.REPLICA, FrameType.REPLY, id=1)
    pair.send(Role.GATEWAY, FrameType.CALL, id=1)
    assert pair.ends[Role.REPLICA].open_calls == 1
    with pytest.raises(WireError, match="call 1 is already open"):
        pair.ends[Role.REPLICA].receive(encode(FrameType.CALL, id=1))


def test_chunks_do_not_end_a_call():
    pair = pair_in(Role.REPLICA, State.OPEN)
    for _ in range(3):
        pair.send(Role.REPLICA, FrameType.CHUNK, id=1)
    assert pair.ends[Role.GATEWAY].open_calls == 1
    pair.send(Role.REPLICA, FrameType.END, id=1)
    assert pair.ends[Role.GATEWAY].open_calls == 0


def test_a_cancelled_call_still_gets_its_terminal_frame():
    pair = pair_in(Role.GATEWAY, State.OPEN)
    pair.send(Role.GATEWAY, FrameType.CANCEL, id=1)
    assert pair.ends[Role.GATEWAY].open_calls == 1
    pair.send(Role.REPLICA, FrameType.ERROR, id=1)
    assert pair.ends[Role.GATEWAY].open_calls == 0


def test_a_cancel_that_crosses_the_answer_is_legal():
    pair = pair_in(Role.REPLICA, State.OPEN)
    reply = pair.ends[Role.REPLICA].send(FrameType.REPLY, id=1)
    cancel = pair.ends[Role.GATEWAY].send(FrameType.CANCEL, id=1)
    assert [frame.type for frame in pair.ends[Role.GATEWAY].receive(reply)] == [FrameType.REPLY]
    assert [frame.type for frame in pair.ends[Role.REPLICA].receive(cancel)] == [FrameType.CANCEL]


def test_a_call_that_crosses_the_drain_of_the_replica_is_legal_and_answered():
    pair = pair_in(Role.REPLICA, State.OPEN)
    drain = pair.ends[Role.REPLICA].send(FrameType.DRAIN)
    call = pair.ends[Role.GATEWAY].send(FrameType.CALL, id=2)
    pair.ends[Role.GATEWAY].receive(drain)
    pair.ends[Role.REPLICA].receive(call)
    pair.send(Role.REPLICA, FrameType.ERROR, id=2)
    pair.send(Role.REPLICA, FrameType.REPLY, id=1)
    pair.send(Role.GATEWAY, FrameType.DRAIN)
    assert pair.states() == {Role.GATEWAY: State.DRAINED, Role.REPLICA: State.DRAINED}
    assert pair.ends[Role.GATEWAY].open_calls == 0


def test_after_its_drain_a_gateway_gets_what_is_open():
    pair = pair_in(Role.GATEWAY, State.DRAINED)
    with pytest.raises(WireError):
        pair.ends[Role.GATEWAY].send(FrameType.CALL, id=2)
    assert pair.send(Role.REPLICA, FrameType.REPLY, id=1)


def test_after_a_broken_rule_nothing_is_read_or_sent():
    gateway = pair_in(Role.GATEWAY, State.OPEN).ends[Role.GATEWAY]
    with pytest.raises(WireError):
        gateway.receive(b"\x00" * 64)
    for kind in FrameType:
        with pytest.raises(WireError):
            gateway.send(kind, id=3)
        with pytest.raises(WireError):
            gateway.receive(encode(kind, id=1))


def test_a_dead_connection_refuses_bytes_that_complete_no_frame():
    gateway = pair_in(Role.GATEWAY, State.OPEN).ends[Role.GATEWAY]
    with pytest.raises(WireError):
        gateway.receive(b"\x00" * 64)
    for _ in range(3):
        with pytest.raises(WireError):
            gateway.receive(b"\xab")
    assert gateway.statistics().buffered_bytes == 0


def test_both_ends_may_not_be_the_same_role():
    one, two = (Connection(Role.GATEWAY, payload_max=PAYLOAD_MAX) for _ in range(2))
    hello = one.send(FrameType.HELLO)
    with pytest.raises(WireError, match="replica may not send HELLO"):
        two.receive(hello)


def test_statistics_are_a_snapshot():
    pair = pair_in(Role.GATEWAY, State.OPEN)
    gateway = pair.ends[Role.GATEWAY]
    gateway.receive(encode(FrameType.REPLY, id=1)[:10])
    statistics = gateway.statistics()
    assert (statistics.ours, statistics.theirs) == ("open", "open")
    assert (statistics.open_calls, statistics.buffered_bytes) == (1, 10)
    gateway.close()
    assert statistics.ours == "open"
    assert gateway.statistics().ours == "dead"


@pytest.mark.parametrize("kind", [kind for kind in TABLE[Role.GATEWAY, State.OPEN] if kind is not FrameType.CALL])
def test_nothing_stands_inside_a_batch(kind):
    for sender in Role:
        pair = pair_in(Role.GATEWAY, State.OPEN)
        gateway, replica = pair.ends[Role.GATEWAY], pair.ends[Role.REPLICA]
        replica.receive(gateway.send(FrameType.CALL, id=2, flags=Flag.MORE))
        pair.send(Role.REPLICA, FrameType.REPLY, id=1)  # the replica may speak meanwhile
        with pytest.raises(WireError, match=f"{kind.name} inside a batch"):
            if sender is Role.GATEWAY:
                gateway.send(kind, id=2)
            else:
                replica.receive(encode(kind, id=2))


def test_after_the_last_of_a_batch_everything_goes():
    pair = pair_in(Role.GATEWAY, State.OPEN)
    gateway, replica = pair.ends[Role.GATEWAY], pair.ends[Role.REPLICA]
    for id, flags in ((2, Flag.MORE), (3, Flag.MORE), (4, 0)):
        replica.receive(gateway.send(FrameType.CALL, id=id, flags=flags))
    pair.send(Role.GATEWAY, FrameType.CANCEL, id=3)
    for id in (2, 3, 4):
        pair.send(Role.REPLICA, FrameType.REPLY, id=id)
