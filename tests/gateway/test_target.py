"""The order of the line where a backend has a target: pure with time as an argument, and over real sockets."""

from muleteer.base.limits import LATE_TURN
from muleteer.gateway.call import Priority
from muleteer.gateway.queue import CallQueue
from muleteer.testing.scripted_replica import Answer

SERVICE_S = 0.04


class Member:
    """A call as the queue sees it, of a client of its own number."""

    size = 1
    priority = Priority.NORMAL

    def __init__(self, client, arrived_s, deadline_s):
        self.client, self.arrived_s, self.deadline_s = str(client), arrived_s, deadline_s


def closed_loop(*, connections, until_s, target_s, deadline_s, batch_s, batch_max, down_s):
    """The response times of `connections` that each send the next call when one is answered, at two replicas with
    batches, of which one dies at 1 s with what it runs and is back `down_s` later.
    """
    queue, now, waited, died = CallQueue(), 0.0, [], False
    for client in range(connections):
        queue.push(Member(client, now, now + deadline_s))
    replicas = [(0.0, []), (0.0, [])]  # when each is free, and what it runs
    while now < until_s:
        at = min(range(2), key=lambda replica: replicas[replica][0])
        free_s, ran = replicas[at]
        now = max(now, free_s)
        if now >= 1.0 and not died:
            died = True
            for call in reversed(ran):
                queue.push(call, front=True)
            replicas[at] = now + down_s, []
            continue
        for call in ran:
            waited.append(now - call.arrived_s)
            queue.push(Member(call.client, now, now + deadline_s))
        queue.arrange(now, now - target_s, now + 2 * batch_s)
        batch = []
        while queue.depth and len(batch) < batch_max:
            call = queue.first()
            queue.served(call)
            queue.remove(call)
            batch.append(call)
        replicas[at] = now + batch_s, batch
    waited += [now - call.arrived_s for call in queue]
    return waited


def test_nobody_starves_in_a_closed_loop_that_never_empties_the_line():
    waited = closed_loop(
        connections=80, until_s=8.0, target_s=0.16, deadline_s=4.0, batch_s=0.03, batch_max=8, down_s=0.3
    )
    assert max(waited) <= 0.5 * 4.0 + 3 * 0.03, "half of its time, then first of all"
    assert sorted(waited)[len(waited) // 2] <= 0.16, "most keep the target"


def test_who_stands_behind_has_a_turn_for_every_so_many_that_pass():
    queue = CallQueue()
    old = [Member("old", 0.0, 100.0) for _ in range(2)]
    for call in old:
        queue.push(call)
    order = []
    for number in range(3 * LATE_TURN):
        queue.push(Member("new", 9.0, 109.0))
        queue.arrange(9.0 + number / 1000, 5.0, due_before_s=11.0)
        order.append(queue.first())
        queue.served(order[-1])
        queue.remove(order[-1])
    assert [order.index(call) for call in old] == [LATE_TURN, 2 * LATE_TURN + 1]


def test_who_has_waited_for_half_of_its_time_waits_first():
    queue = CallQueue()
    long, short, new = Member("long", 0.0, 40.0), Member("short", 1.0, 13.0), Member("new", 6.9, 46.9)
    for call in (long, short, new):
        queue.push(call)
    queue.arrange(6.9, 5.0, due_before_s=8.0)
    assert list(queue) == [short, new, long], "due before one that stands behind: it stays before it"
    queue.remove(short)
    queue.arrange(19.9, 5.0, due_before_s=21.0)
    assert queue.first() is new
    queue.arrange(20.0, 5.0, due_before_s=21.0)
    assert queue.first() is long
    queue.arrange(20.1, 19.0, due_before_s=21.0)
    assert queue.first() is long, "who was put first stays there"


def test_who_comes_back_never_stands_behind():
    queue = CallQueue()
    new, back = Member("new", 5.0, 105.0), [Member("back", at, 100.0) for at in (0.0, 1.0)]
    queue.push(new)
    for call in reversed(back):
        queue.push(call, front=True)
    queue.arrange(6.0, 4.0, due_before_s=8.0)
    assert list(queue) == list(queue.in_turn()) == [*back, new]
    assert queue.newest_of_most(new) is None, "what ran already is not shed for a newcomer"
    queue.push(Member("old", 2.0, 100.0))
    queue.arrange(6.0, 4.0, due_before_s=8.0)
    assert queue.first() is back[0]
    assert queue.ahead_of(Priority.NORMAL, "another") == 4


def slow(_):
    return Answer(after_s=SERVICE_S)


async def overtaken(rig, **route):
    """Twelve calls wait, the last of them for longer than 200 ms; then two new ones come. Who is answered how late."""
    await rig.start(1, script=slow, route={"expected_s": SERVICE_S, **route})
    old = [rig.send() for _ in range(12)]
    await rig.until(lambda: sum(request.answered.is_set() for request in old) == 6)
    new = [rig.send() for _ in range(2)]
    for request in (*old, *new):
        assert (await request.outcome()).status == 200
    await rig.quiet()
    last = max(request.answered_s for request in new)
    return sum(request.answered_s > last for request in old)


def test_calls_that_missed_the_target_let_those_pass_that_may_keep_it(rig):
    async def test(rig):
        assert await overtaken(rig, slo_s=0.2) >= 3

    rig(test)


def test_without_a_target_each_has_its_turn(rig):
    async def test(rig):
        assert await overtaken(rig) == 0

    rig(test)


async def lost_and_overtaken(rig):
    """A call that missed the target already dies with its replica; the other one is kept busy by a closed loop of calls
    that keep it. How many of these were answered from the death to the answer of that call.
    """
    lost = b'"lost"'
    await rig.start(
        2,
        script=lambda call: Answer(after_s=2.0 if lost in call.body else SERVICE_S),
        route={"expected_s": SERVICE_S, "slo_s": 0.3},
    )
    request = rig.send(lost)
    await rig.until(lambda: any(lost in call.body for replica in rig.replicas for call in replica.calls))
    holder = next(replica for replica in rig.replicas if any(lost in call.body for call in replica.calls))
    loop = [rig.send() for _ in range(4)]
    answered = 0

    def go_on():
        nonlocal answered
        for place, each in enumerate(loop):
            if each.answered.is_set():
                answered += 1
                loop[place] = rig.send()
        return answered

    await rig.until(lambda: go_on() >= 10)
    answered = 0
    holder.die(stay_dead=True)
    await rig.until(lambda: [go_on(), request.answered.is_set()][1])
    assert (request.status, request.attempts) == (200, 2)
    for each in loop:
        assert (await each.outcome()).status == 200
    await rig.quiet()
    return answered


def test_a_call_whose_replica_died_is_run_before_newcomers(rig):
    async def test(rig):
        assert await lost_and_overtaken(rig) <= 4

    rig(test)
