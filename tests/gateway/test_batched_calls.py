"""Batches over real sockets: members that leave, expire or are wrong, replicas that die, hang, drain or break the rules."""

from muleteer.testing.scripted_replica import Answer, Die, Drain, Fail, Hang, Send


def slow(_):
    return Answer(after_s=0.05)


async def together(rig, count, **options):
    """Requests that are in one turn of the loop."""
    return [rig.send(b'"%d"' % number, **options) for number in range(count)]


def test_what_waits_goes_together_and_each_gets_its_own_answer(rig):
    async def test(rig):
        await rig.start(1, batch=True, script=slow, route={"expected_s": 0.05})
        first = rig.send(b'"first"')
        await rig.until(lambda: rig.replicas[0].batches == [1])
        requests = await together(rig, 7)
        for request in [first, *requests]:
            assert (await request.outcome()).response.body == request.body
        assert rig.replicas[0].batches == [1, 2, 4, 1], "twice the largest seen yet"
        assert rig.backend.batches.sizes == {1: 2, 2: 1, 4: 1}
        assert rig.backend.batches.limits == {"unproven": 3, "waiting": 1}
        assert rig.backend.service.samples == 4
        await rig.quiet()

    rig(test)


def test_one_bad_member_fails_alone(rig):
    def script(call):
        return Fail("bad_arguments", "no such thing") if call.body == b'"2"' else slow(call)

    async def test(rig):
        await rig.start(1, batch=True, script=script)
        await learn(rig)
        requests = await together(rig, 8)
        statuses = [(await request.outcome()).status for request in requests]
        assert statuses == [200, 200, 400, 200, 200, 200, 200, 200]
        assert rig.replicas[0].batches[-1] == 8
        await rig.quiet()

    rig(test)


async def learn(rig, up_to=8):
    """Batches of twice the size each, so that one of `up_to` may be sent."""
    count = 1
    while count <= up_to:
        for request in await together(rig, count):
            await request.outcome()
        count *= 2
    for replica in rig.replicas:
        replica.batches.clear()


def test_a_member_that_leaves_or_expires_harms_nobody_and_the_slot_is_held(rig):
    async def test(rig):
        await rig.start(1, batch=True, script=slow)
        await learn(rig)
        rig.replicas[0].script = lambda _: Answer(after_s=1.0)
        gone, late, *others = [*await together(rig, 1), rig.send(b'"late"', timeout_ms=500), *await together(rig, 6)]
        await rig.until(lambda: rig.replicas[0].batches == [8])
        gone.exchange.abandon()
        assert ((await late.outcome()).status, late.code) == (504, "deadline")
        assert rig.backend.replicas["model-1"].in_flight == 8
        waits = rig.send(b'"waits"')
        for request in [*others, waits]:
            assert (await request.outcome()).status == 200
        assert gone.response is None
        assert {call.body for call in rig.replicas[0].calls if call.cancelled} == {b'"0"', b'"late"'}
        await rig.quiet()

    rig(test)


def test_a_replica_dies_in_a_batch_and_its_members_are_run_again_one_by_one(rig):
    async def test(rig):
        await rig.start(2, batch=True, script=slow)
        await learn(rig, 16)
        requests = await together(rig, 12)
        await rig.until(lambda: [12] in [replica.batches for replica in rig.replicas])
        victim, other = sorted(rig.replicas, key=lambda replica: not replica.batches)
        victim.batches.clear()
        victim.die()
        for request in requests:
            assert ((await request.outcome()).status, request.attempts) == (200, 2)
            assert request.response.body == request.body
        assert [*victim.batches, *other.batches] == [1] * 12
        assert rig.backend.batches.limits["alone"] == 12
        assert rig.backend.retrying == 0
        await rig.quiet()

    rig(test)


def test_what_was_answered_before_the_end_of_the_link_counts(rig):
    """Of a batch of two one is answered, then the replica dies: the other alone is run again."""

    async def test(rig):
        await rig.start(1, batch=True)
        await learn(rig, 2)
        replica = rig.replicas[0]
        replica.script = lambda _: Hang()
        answered, lost = await together(rig, 2)
        await rig.until(lambda: replica.batches == [2])
        (life,) = replica._lives
        life._reply(replica.calls[-2], Answer(b'"mine"'), 10)
        life._transport.close()  # what was written still arrives
        replica.script = lambda _: Answer()
        assert (await lost.outcome()).attempts == 2
        assert ((await answered.outcome()).response.body, answered.attempts) == (b'"mine"', 1)
        await rig.quiet()

    rig(test)


def test_a_killer_in_a_batch_is_quarantined_and_the_others_are_answered(rig):
    def script(call):
        return Die() if call.body == b'"3"' else slow(call)

    async def test(rig):
        await rig.start(2, batch=True)
        await learn(rig)
        for replica in rig.replicas:
            replica.script = script
        requests = await together(rig, 8)
        statuses = [(await request.outcome()).status for request in requests]
        assert statuses == [200, 200, 200, 502, 200, 200, 200, 200]
        assert rig.send(b'"3"').code == "poison"
        await rig.quiet()

    rig(test)


def test_without_reruns_every_member_fails_and_nobody_else(rig):
    async def test(rig):
        await rig.start(1, batch=True, route={"idempotent": False})
        await learn(rig)
        rig.replicas[0].script = lambda _: Die()
        requests = await together(rig, 8)
        assert [(await request.outcome()).code for request in requests] == ["replica_died"] * 8
        rig.replicas[0].script = lambda _: Answer()
        await rig.ready()
        assert (await rig.send().outcome()).status == 200
        await rig.quiet()

    rig(test)


def test_a_batch_that_hangs_is_found(rig):
    async def test(rig):
        await rig.start(1, batch=True, route={"timeout_s": 0.3})
        await learn(rig)
        rig.replicas[0].script = lambda _: Hang()
        requests = await together(rig, 8)
        assert [(await request.outcome()).code for request in requests] == ["deadline"] * 8
        await rig.until(lambda: rig.aborts)
        assert [reason for _, _, reason in rig.aborts] == ["hung"]
        rig.replicas[0].die()
        await rig.quiet()

    rig(test)


def test_calls_that_were_taken_back_are_no_longer_part_of_their_batch(rig):
    """When the stuck replica comes to what stands in their place, they run elsewhere, since their own moment."""

    async def test(rig):
        await rig.start(1, batch=True, route={"batch_max": 8})
        for _ in range(6):
            await learn(rig)
        stuck = rig.replicas[0]
        stuck.heeds_cancel = False
        stuck.script = lambda _: Answer(after_s=0.6)
        first = await together(rig, 8)
        await rig.until(lambda: stuck.batches == [8])
        behind = await together(rig, 8)
        await rig.until(lambda: rig.backend.replicas["model-1"].in_flight == 16)
        other = await rig.replica(batch=True, script=lambda _: Answer(after_s=1.5))
        rig.publish()
        await rig.until(lambda: sum(other.batches) == 8)
        started_s = [request.exchange.started_s for request in behind]
        for request in first:
            assert (await request.outcome()).status == 200
        await rig.until(lambda: rig.backend.replicas["model-1"].in_flight == 0)
        assert [request.exchange.started_s for request in behind] == started_s
        for request in behind:
            assert ((await request.outcome()).status, request.attempts) == (200, 2), "the stuck one ran it, too"
        await rig.quiet()

    rig(test)


def test_a_replica_that_drains_answers_its_batch_and_gives_the_next_back(rig):
    async def test(rig):
        await rig.start(2, batch=True, script=slow)
        await learn(rig)
        for replica in rig.replicas:
            replica.script = lambda call: Drain() if call.body == b'"drain"' else slow(call)
        requests = [rig.send(b'"drain"')]
        await rig.until(lambda: any(replica.batches for replica in rig.replicas))
        requests += await together(rig, 9)
        assert [(await request.outcome()).status for request in requests] == [200] * 10
        await rig.quiet()

    rig(test)


def test_a_broken_frame_in_a_batch_ends_the_link_and_no_answer_is_wrong(rig):
    async def test(rig):
        await rig.start(2, batch=True)
        await learn(rig)
        broken = rig.replicas[0]
        broken.script = rig.replicas[1].script = lambda call: (
            Send(b"no frame at all, and longer than a header") if not rig.aborts else Answer()
        )
        requests = await together(rig, 8)
        for request in requests:
            assert (await request.outcome()).response.body == request.body
        assert [reason for _, _, reason in rig.aborts] == ["protocol"]
        await rig.quiet()

    rig(test)


def test_sessions_that_keep_to_a_replica_keep_to_it_in_batches(rig):
    class Pinned:
        """A session whose replica is known."""

        replica = True

        def __init__(self, name):
            self.name = name

        def preferred(self, slots):
            return next((link for link in slots if link.replica == self.name), None)

        def lines(self, life):
            return b"muleteer-affinity: %s\r\n" % life.replica.encode()

    async def test(rig):
        await rig.start(2, batch=True)
        await learn(rig, 16)
        requests = []
        for number in range(12):
            request = rig.open(b'"%d"' % number)
            request.exchange.session = Pinned(f"model-{1 + number % 2}")
            requests.append(request.run())
        for number, request in enumerate(requests):
            await request.outcome()
            assert b"muleteer-affinity: model-%d\r\n" % (1 + number % 2) in request.response.headers
        assert [replica.batches for replica in rig.replicas] == [[6], [6]]
        await rig.quiet()

    rig(test)
