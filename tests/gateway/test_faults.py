"""Each fault of a replica, over real sockets: what the caller gets, what the model saw, what is left behind."""

import asyncio

import msgspec
import pytest

from muleteer.testing.scripted_replica import Answer, Die, Drain, Fail, Hang, Send
from muleteer.wire.frames import HEADER_BYTES, FrameType, encode, join_payload

ANSWER = Answer()


def once(action, then=ANSWER):
    """A script that does `action` to the first call that any replica of the rig gets, and `then` to the others."""
    spent = []

    def script(call):
        if spent:
            return then
        spent.append(call)
        return action

    return script


def calls_seen(rig):
    return sum(len(replica.calls) for replica in rig.replicas)


def test_an_answer_is_the_models_bytes(uvloop_rig):
    async def test(rig):
        await rig.start(1, script=lambda call: Answer(b'{"said":' + call.body + b"}"))
        request = await rig.send(b'"hello"').outcome()
        assert (request.status, request.response.body) == (200, b'{"said":"hello"}')
        assert request.response.headers == b"muleteer-backend: model\r\nmuleteer-attempts: 1\r\n"
        assert rig.replicas[0].calls[0].meta == {"id": request.head.request_id}
        assert 29_000 < rig.replicas[0].calls[0].budget_ms <= 30_000
        await rig.quiet()

    uvloop_rig(test)


def test_a_call_whose_replica_died_is_run_once_more_elsewhere(uvloop_rig):
    async def test(rig):
        await rig.start(2, script=once(Die(stay_dead=True)))
        request = await rig.send().outcome()
        assert (request.status, request.attempts) == (200, 2)
        assert sorted(len(replica.calls) for replica in rig.replicas) == [1, 1]
        assert rig.backend.calls.re_executed == 1
        assert rig.aborts == []
        await rig.quiet()

    uvloop_rig(test)


def test_with_one_replica_it_waits_for_the_next_life(uvloop_rig):
    async def test(rig):
        await rig.start(1, script=once(Die(stay_dead=True)), route={"expected_s": 0.01})
        request = rig.send()
        await rig.until(lambda: rig.backend.links_ready == 0 and rig.backend.queue.depth == 1)
        later = rig.send(b'"arrives while nothing is ready"')
        assert later.response is None, "a backend that was ready comes back: wait"
        rig.replicas[0].revive()
        assert (await request.outcome()).attempts == 2
        assert (await later.outcome()).attempts == 1
        await rig.quiet()

    uvloop_rig(test)


def test_after_two_deaths_502_and_then_poison_without_dispatch(uvloop_rig):
    async def test(rig):
        await rig.start(3, script=lambda call: Die() if b"kill" in call.body else Answer())
        request = await rig.send(b'"kill"').outcome()
        assert (request.status, request.code, request.execution) == (502, "replica_died", "unknown")
        assert request.attempts == 2
        again = await rig.send(b'"kill"').outcome()
        assert (again.status, again.code, again.execution) == (502, "poison", "not_started")
        assert calls_seen(rig) == 2
        assert rig.backend.poisonous == 1 and rig.backend.calls.quarantined == 1
        await rig.ready()
        assert (await rig.send(b'"good"').outcome()).status == 200
        await rig.quiet()

    uvloop_rig(test)


def test_replicas_killed_together_poison_nothing(uvloop_rig):
    """Every client sends the same body, and somebody kills all replicas at once."""

    async def test(rig):
        await rig.start(3, script=lambda _: Hang())
        requests = [rig.send(b'"same"') for _ in range(3)]
        await rig.until(lambda: calls_seen(rig) == 3)
        for replica in rig.replicas:
            replica.script = lambda _: Answer()
            replica.die()
        for request in requests:
            assert (await request.outcome()).status == 200
        assert rig.backend.poisonous == 0
        await rig.quiet()

    uvloop_rig(test)


def test_an_answer_absolves_a_body_that_was_struck_once(uvloop_rig):
    async def test(rig):
        await rig.start(2)
        for _ in range(4):  # each time one innocent death, then an answer to the very same body
            for replica in rig.replicas:
                replica.script = once(Die())
            rig.replicas[1].script = lambda _: Answer()
            rig.replicas[0].script = once(Die())
            for _ in range(2):
                assert (await rig.send(b'"ping"').outcome()).status == 200
            await rig.ready()
        assert rig.backend.calls.re_executed == 4
        assert rig.backend.poisonous == 0

    uvloop_rig(test)


def test_not_idempotent_fails_at_once_and_is_run_once(rig):
    async def test(rig):
        await rig.start(2, script=once(Hang()), route={"idempotent": False})
        request = rig.send()
        await rig.until(lambda: calls_seen(rig) == 1)
        victim = next(replica for replica in rig.replicas if replica.calls)
        killed_s = rig.now()
        victim.die()
        await request.outcome()
        assert request.answered_s - killed_s < 2.0, "at once, of the 30 s that it has"
        assert (request.status, request.code, request.attempts) == (502, "replica_died", 1)
        assert calls_seen(rig) == 1
        await rig.quiet()

    rig(test)


def test_the_retry_budget_bounds_re_execution(uvloop_rig):
    async def test(rig):
        await rig.start(2, concurrency=8, script=lambda _: Hang())
        requests = [rig.send(b'"%d"' % number) for number in range(16)]
        await rig.until(lambda: calls_seen(rig) == 16)
        rig.replicas[0].script = lambda _: Answer()
        rig.replicas[0].die()
        await rig.until(lambda: sum(request.response is not None for request in requests) == 8)
        done = [request for request in requests if request.response is not None]
        assert sorted(request.status for request in done) == [200] * 3 + [502] * 5  # 20 % of 16 is 3
        rig.replicas[1].script = lambda _: Answer()
        rig.replicas[1].die()
        for request in requests:
            await request.outcome()
        await rig.quiet()

    uvloop_rig(test)


def test_every_byte_of_a_reply_may_be_wrong_and_no_answer_is(uvloop_rig):
    async def test(rig):
        await rig.start(2, script=lambda _: Answer())
        size = len(encode(FrameType.REPLY, payload=join_payload(b"", b'"000"')))
        for position in range(size):
            flip = Answer(mutate=lambda data, at=position: data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
            script = once(flip)
            for replica in rig.replicas:
                replica.script = script
            body = b'"%03d"' % position
            request = await rig.send(body).outcome()
            assert (request.status, request.response.body, request.attempts) == (200, body, 2), position
            assert len(rig.aborts) == position + 1
            assert rig.aborts[-1][2] == "protocol"
            await rig.ready()
        await rig.quiet()

    uvloop_rig(test)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(FrameType.REPLY, id=77, payload=join_payload(b"", b"1")), id="wrong id"),
        pytest.param(encode(FrameType.REPLY, id=1, payload=b"\x00" * 2**21), id="over the cap"),
        pytest.param(encode(FrameType.REPLY, id=1, payload=b"\xff\xff{"), id="metadata longer than payload"),
        pytest.param(encode(FrameType.REPLY, id=1), id="no payload"),
        pytest.param(encode(FrameType.ERROR, id=1, payload=b"no json"), id="ERROR without JSON"),
        pytest.param(encode(FrameType.ERROR, id=1, payload=b'{"code":"new"}'), id="ERROR with a code of its own"),
        pytest.param(encode(FrameType.END, id=1), id="end of a stream"),
        pytest.param(encode(FrameType.CHUNK, id=1, payload=join_payload(b"", b"1")), id="chunk of a stream"),
        pytest.param(encode(FrameType.CALL, id=9, payload=join_payload(b"", b"1")), id="a CALL to us"),
        pytest.param(encode(FrameType.READY, payload=b"{}"), id="a second READY"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" * 2, id="not the wire"),
    ],
)
def test_a_broken_rule_ends_the_link_and_the_replica(uvloop_rig, data):
    async def test(rig):
        await rig.start(1, script=once(Send(data)), route={"idempotent": False})
        pid = rig.replicas[0].pid
        request = await rig.send().outcome()
        assert (request.status, request.code) == (502, "replica_protocol")
        assert rig.aborts == [("model-1", pid, "protocol")]
        await rig.ready()
        assert (await rig.send().outcome()).status == 200
        await rig.quiet()

    uvloop_rig(test)


def test_a_huge_length_allocates_nothing(uvloop_rig):
    async def test(rig):
        import struct
        from zlib import crc32

        head = bytearray(encode(FrameType.REPLY, id=1))[: HEADER_BYTES - 4]
        struct.pack_into("<I", head, 8, 2**32 - 1)
        await rig.start(1, script=once(Send(bytes(head) + struct.pack("<I", crc32(head)))), route={"idempotent": False})
        request = await rig.send().outcome()  # at once: nobody waits for four gigabytes
        assert request.code == "replica_protocol"

    uvloop_rig(test)


def test_a_truncated_reply_is_no_answer(uvloop_rig):
    async def test(rig):
        await rig.start(2)

        def die_soon(data):
            asyncio.get_running_loop().call_later(0.01, victim.die)
            return data[: HEADER_BYTES + 3]

        victim = rig.replicas[0]
        victim.script = once(Answer(mutate=die_soon))
        for number in range(2):
            request = await rig.send(b'"%d"' % number).outcome()
            assert request.response.body == b'"%d"' % number
        assert rig.backend.calls.re_executed == 1
        await rig.quiet()

    uvloop_rig(test)


def test_an_impostor_at_the_address_is_not_taken(uvloop_rig):
    async def test(rig):
        await rig.replica(replica="other-1")
        await rig.replica()
        rig.publish()
        await rig.ready(1)
        assert rig.aborts == [("model-1", rig.replicas[0].pid, "protocol")] or not rig.aborts
        assert (await rig.send().outcome()).status == 200
        assert not rig.replicas[0].calls

    uvloop_rig(test)


def test_a_hung_call_is_504_and_its_replica_is_reported_once(rig):
    async def test(rig):
        await rig.start(2, script=lambda call: Hang() if b"hang" in call.body else Answer(), route={"timeout_s": 0.3})
        pid = {replica.replica: replica.pid for replica in rig.replicas}
        request = rig.send(b'"hang"')
        sent_s = request.head.received_s
        await request.outcome()
        assert (request.status, request.code, request.execution) == (504, "deadline", "unknown")
        assert 0.3 <= request.answered_s - sent_s < 1.0
        victim = next(replica for replica in rig.replicas if replica.calls)
        await rig.until(lambda: victim.calls[0].cancelled)
        assert victim.calls[0].cancelled
        assert rig.backend.replicas[victim.replica].in_flight == 1, "the slot stays taken"
        for number in range(5):
            assert (await rig.send(b'"%d"' % number).outcome()).status == 200
        assert len(victim.calls) == 1
        await rig.until(lambda: rig.aborts)
        assert rig.aborts == [(victim.replica, pid[victim.replica], "hung")]
        assert 0.8 <= rig.now() - sent_s < 3.0
        assert rig.backend.replicas[victim.replica].state == "hung"
        await asyncio.sleep(0.4)  # more ticks pass; it is not reported again
        assert len(rig.aborts) == 1
        victim.die()
        await rig.ready()
        await rig.quiet()

    rig(test)


def test_the_hang_clock_of_a_call_with_a_longer_deadline_runs_longer(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(after_s=1.2), route={"timeout_s": 0.2})
        request = await rig.send(timeout_ms=5000).outcome()
        assert request.status == 200
        assert rig.aborts == []

    rig(test)


def test_other_calls_of_a_killed_replica_are_run_again(rig):
    async def test(rig):
        await rig.start(2, concurrency=2, script=lambda call: Hang() if b"hang" in call.body else Answer(after_s=0.5))
        hung = rig.send(b'"hang"', timeout_ms=100)
        others = [rig.send(b'"%d"' % number) for number in range(2)]
        await rig.until(lambda: calls_seen(rig) == 3)
        assert (await hung.outcome()).code == "deadline"
        victim = next(replica for replica in rig.replicas if any(b"hang" in call.body for call in replica.calls))
        for replica in rig.replicas:
            replica.script = lambda _: Answer()
        victim.die()
        shared_its_fate = [number for call in victim.calls if (number := call.body) != b'"hang"']
        for request in others:
            await request.outcome()
            assert (request.status, request.attempts) == (200, 1 + (request.body in shared_its_fate))
        assert len(shared_its_fate) == 1
        await rig.quiet()

    rig(test)


def test_a_late_reply_is_dropped(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(after_s=0.2))
        request = await rig.send(timeout_ms=60).outcome()
        assert request.code == "deadline"
        await rig.until(lambda: rig.backend.calls.late_replies == 1)
        assert rig.backend.calls.answered == 0
        await rig.quiet()

    rig(test)


@pytest.mark.parametrize(
    ("code", "status", "execution"),
    [
        ("bad_json", 400, "not_started"),
        ("bad_arguments", 400, "not_started"),
        ("model_error", 500, "completed"),
        ("bad_model_output", 500, "completed"),
        ("expired_in_queue", 504, "not_started"),
    ],
)
def test_what_the_replica_says_is_the_outcome(uvloop_rig, code, status, execution):
    async def test(rig):
        await rig.start(1, script=lambda _: Fail(code, 'a "quoted" reason\n', traceback="File secret.py"))
        request = await rig.send().outcome()
        assert (request.status, request.code, request.execution) == (status, code, execution)
        body = msgspec.json.decode(request.response.body)
        assert body["error"] == 'a "quoted" reason\n' and "secret" not in str(body)
        assert request.response.headers.startswith(b"muleteer-backend: model\r\nmuleteer-attempts: 1\r\n")
        assert rig.backend.service.samples == (1 if execution == "completed" else 0)
        await rig.quiet()

    uvloop_rig(test)


def test_a_call_that_crosses_drain_is_dispatched_elsewhere_uncounted(uvloop_rig):
    async def test(rig):
        await rig.start(2)
        draining = rig.replicas[0]
        draining.drain()  # the frame is on its way while the gateway still sends
        requests = [rig.send(b'"%d"' % number) for number in range(2)]
        for request in requests:
            assert ((await request.outcome()).status, request.attempts) == (200, 1)
        assert rig.backend.calls.bounced == 1
        await rig.ready()  # it came back as a new life
        assert draining.life == 1
        await rig.quiet()

    uvloop_rig(test)


def test_a_call_given_back_is_first_in_line_again(uvloop_rig):
    async def test(rig):
        await rig.start(1, route={"expected_s": 0.01})
        rig.replicas[0].drain()
        requests = [rig.send(b'"%d"' % number) for number in range(4)]  # the first crosses, the others wait
        for request in requests:
            assert (await request.outcome()).status == 200
        first, *lives = rig.replicas[0].calls
        assert (first.body, [call.body for call in lives]) == (b'"0"', [request.body for request in requests])

    uvloop_rig(test)


def test_a_draining_replica_answers_what_it_has_and_gets_no_more(rig):
    async def test(rig):
        await rig.start(2, script=lambda _: Answer(after_s=0.1))
        requests = [rig.send(b'"%d"' % number) for number in range(2)]
        await rig.until(lambda: calls_seen(rig) == 2)
        rig.replicas[0].drain()
        await rig.until(lambda: rig.backend.slots == 1)
        requests += [rig.send(b'"late"'), rig.send(b'"later"')]
        await rig.until(lambda: rig.replicas[0].life == 1)
        assert len(rig.replicas[0].calls) == 1
        statuses = [(await request.outcome()).status for request in requests]
        assert statuses[:3] == [200] * 3
        assert rig.aborts == [] and rig.backend.calls.re_executed == 0

    rig(test)


def test_drain_in_the_middle_of_a_call(uvloop_rig):
    async def test(rig):
        await rig.start(1, script=once(Drain()))
        assert (await rig.send().outcome()).attempts == 1
        await rig.until(lambda: rig.replicas[0].life == 1)
        await rig.ready()
        assert (await rig.send().outcome()).status == 200
        await rig.quiet()

    uvloop_rig(test)


def test_a_replica_that_gives_every_call_back_ends_in_503(uvloop_rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Fail("cancelled"))
        request = await rig.send().outcome()
        assert (request.status, request.code) == (503, "draining")
        assert rig.backend.calls.bounced == 11
        await rig.quiet()

    uvloop_rig(test)


async def hanging(rig, *hosts, batch=False):
    """Replicas that never answer, one on each of these hosts; only the first is linked."""
    for host in hosts:
        await rig.replica(host=host, batch=batch, script=lambda _: Hang())
    rig.publish(rig.replicas[:1])
    await rig.ready(1)
    return rig.replicas


@pytest.mark.parametrize("batch", [False, True], ids=["calls", "batches"])
def test_what_was_lost_on_a_node_is_run_again_on_another_one_while_that_has_room(uvloop_rig, batch):
    """The replicas of a lost node do not die in the same moment: the next one may be about to."""

    async def test(rig):
        first, beside, elsewhere = await hanging(rig, "127.0.0.2", "127.0.0.2", "127.0.0.3", batch=batch)
        lost = rig.send()
        await rig.until(lambda: first.calls)
        rig.publish()
        await rig.ready(3)
        first.die(stay_dead=True)
        await rig.until(lambda: elsewhere.calls or beside.calls)
        assert not beside.calls
        beside.script = lambda _: Answer()
        more = rig.send()
        assert (await more.outcome()).status == 200, "who lost nothing goes there"
        elsewhere.die(stay_dead=True)
        assert (await lost.outcome()).code == "replica_died"
        await rig.quiet()

    uvloop_rig(test)


def test_a_session_does_not_take_what_was_lost_on_a_node_back_there(uvloop_rig):
    class Pinned:
        """A session that keeps to `model-2`."""

        replica = True

        def preferred(self, slots):
            return next((link for link in slots if link.replica == "model-2"), None)

        def lines(self, life):
            return b""

    async def test(rig):
        first, beside, elsewhere = await hanging(rig, "127.0.0.2", "127.0.0.2", "127.0.0.3")
        lost = rig.open()
        lost.exchange.session = Pinned()
        lost.run()
        await rig.until(lambda: first.calls)
        elsewhere.script = lambda _: Answer()
        rig.publish([first, elsewhere])
        await rig.ready(2)
        rig.publish()
        await rig.ready(3)
        first.die(stay_dead=True)
        await rig.until(lambda: elsewhere.calls or beside.calls)
        assert not beside.calls
        assert (await lost.outcome()).status == 200
        await rig.quiet()

    uvloop_rig(test)


def test_what_was_lost_on_the_only_node_is_run_again_there(uvloop_rig):
    async def test(rig):
        first, beside = await hanging(rig, "127.0.0.2", "127.0.0.2")
        beside.script = lambda _: Answer()
        lost = rig.send()
        await rig.until(lambda: first.calls)
        rig.publish()
        await rig.ready(2)
        first.die(stay_dead=True)
        assert (await lost.outcome()).status == 200
        await rig.quiet()

    uvloop_rig(test)
