"""The order of the line where a backend has a target, over real sockets."""

from muleteer.testing.scripted_replica import Answer

SERVICE_S = 0.04


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
