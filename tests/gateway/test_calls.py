"""Calls over real sockets when nothing breaks: admission, queue, deadlines, clients that leave, snapshots that change."""

import pytest

from muleteer.base.errors import OutOfMemory, SpecError
from muleteer.base.limits import QUEUED_BYTES_MAX
from muleteer.gateway.exchange import Head
from muleteer.spec.snapshot import BackendRoute, EndpointRoute, Snapshot
from muleteer.testing.scripted_replica import Answer, Hang, Send
from muleteer.wire.frames import FrameType, encode, join_payload


def slow(_):
    return Answer(after_s=0.1)


def test_before_any_replica_is_ready_503_loading(rig):
    async def test(rig):
        replica = await rig.replica()
        replica.dead = True
        rig.publish()
        request = await rig.send().outcome()
        assert (request.status, request.code) == (503, "loading")
        assert b"retry-after: " in request.response.headers
        assert rig.application.not_ready() == {"model": "loading"}
        replica.revive()
        await rig.ready()
        assert rig.application.not_ready() == {}
        assert (await rig.send().outcome()).status == 200

    rig(test)


@pytest.mark.parametrize(("warm_up_us", "refused"), [(5000, 0), (0, 56)])
def test_a_burst_on_cold_replicas_waits_if_the_warm_up_was_measured(rig, warm_up_us, refused):
    async def test(rig):
        await rig.start(4, script=lambda _: Answer(after_s=0.005), warm_up_us=warm_up_us)
        requests = [rig.send(timeout_ms=2000) for _ in range(64)]
        statuses = [(await request.outcome()).status for request in requests]
        assert (statuses.count(200), statuses.count(503)) == (64 - refused, refused)
        await rig.quiet()

    rig(test)


def test_a_warm_up_that_was_slow_drops_nobody_who_waits(rig):
    async def test(rig):
        await rig.start(1, script=slow, warm_up_us=60_000_000)
        requests = [rig.send(timeout_ms=1000) for _ in range(2)]
        assert rig.send(timeout_ms=1000).code == "predicted_late"
        assert [(await request.outcome()).status for request in requests] == [200, 200]

    rig(test)


def test_crash_loop_refuses_and_fails_those_that_wait(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Hang(), route={"expected_s": 0.01})
        running = rig.send(b'"runs"')
        waiting = rig.send(b'"waits"')
        assert rig.backend.queue.depth == 1
        rig.publish(unavailable="crash_loop")
        assert waiting.response is None, "a replica is ready, whatever the others do"
        rig.replicas[0].die(stay_dead=True)
        assert (await waiting.outcome()).code == "crash_loop"
        assert (await running.outcome()).status == 502
        assert (await rig.send().outcome()).code == "crash_loop"
        await rig.quiet()

    rig(test)


def test_the_third_of_two_slots_waits_and_order_is_kept(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(after_s=0.02), route={"expected_s": 0.01})
        requests = [rig.send(b'"%d"' % number) for number in range(6)]
        assert rig.backend.queue.depth == 5
        for request in requests:
            await request.outcome()
        assert [call.body for call in rig.replicas[0].calls] == [request.body for request in requests]
        assert sorted(requests, key=lambda each: each.answered_s) == requests
        await rig.quiet()

    rig(test)


def test_critical_goes_first_and_sheddable_last(rig):
    async def test(rig):
        await rig.start(1, script=slow, route={"expected_s": 0.01})
        first = rig.send(b'"first"')
        names = ["sheddable", "normal", "critical"]
        requests = [first, *(rig.send(f'"{name}"'.encode(), priority=name) for name in names)]
        for request in requests:
            assert (await request.outcome()).status == 200
        assert [call.body for call in rig.replicas[0].calls] == [b'"first"', b'"critical"', b'"normal"', b'"sheddable"']

    rig(test)


def test_a_full_queue_sheds_the_newest_of_the_lowest_for_a_higher(rig):
    async def test(rig):
        await rig.start(2, script=slow)  # unmeasured: one waiting call per slot
        running = [rig.send() for _ in range(2)]
        old, new = rig.send(priority="sheddable"), rig.send(priority="sheddable")
        assert old.response is new.response is None
        higher = rig.send()
        assert higher.response is old.response is None
        assert (new.status, new.code) == (503, "queue_full")
        assert rig.send(priority="sheddable").code == "queue_full"
        for request in [*running, old, higher]:
            assert (await request.outcome()).status == 200
        await rig.quiet()

    rig(test)


def test_predicted_late_is_refused_at_once_with_retry_after(rig):
    async def test(rig):
        await rig.start(1, script=slow, route={"expected_s": 1.0})
        running = rig.send()
        request = rig.send(timeout_ms=500)  # answered before this returns
        assert (request.status, request.code) == (503, "predicted_late")
        assert any(f"retry-after: {seconds}".encode() in request.response.headers for seconds in (2, 3))
        await running.outcome()
        await rig.quiet()

    rig(test)


def test_the_deadline_passes_in_the_queue(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(after_s=0.4), route={"expected_s": 0.01})
        running = rig.send()
        waiting = rig.send(timeout_ms=100)
        await waiting.outcome()
        assert (waiting.status, waiting.code, waiting.execution) == (504, "expired_in_queue", "not_started")
        assert waiting.answered_s - waiting.head.received_s >= 0.1
        await running.outcome()
        assert waiting.answered_s < running.answered_s
        await rig.quiet()
        assert len(rig.replicas[0].calls) == 1

    rig(test)


def test_at_dequeue_a_call_that_cannot_be_in_time_is_dropped(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(after_s=0.5), route={"expected_s": 0.5})
        running = rig.send()
        waiting = rig.send(timeout_ms=1200)
        rig.publish(expected_s=0.8)  # it turns out to take longer: 700 ms will be left
        await running.outcome()
        await waiting.outcome()
        assert waiting.code == "expired_in_queue"
        assert 0.45 <= waiting.answered_s - waiting.head.received_s < 1.1, "at once, not at its deadline"
        assert len(rig.replicas[0].calls) == 1

    rig(test)


def test_a_client_that_leaves_the_queue_never_runs(rig):
    async def test(rig):
        await rig.start(1, script=slow, route={"expected_s": 0.01})
        running, gone = rig.send(), rig.send(b'"gone"')
        gone.exchange.abandon()
        await running.outcome()
        assert (await rig.send(b'"next"').outcome()).status == 200
        assert [call.body for call in rig.replicas[0].calls] == [b'"x"', b'"next"']
        assert gone.response is None
        await rig.quiet()

    rig(test)


def test_a_client_that_leaves_a_running_call_cancels_it(rig):
    async def test(rig):
        await rig.start(1, script=slow)
        gone = rig.send()
        await rig.until(lambda: rig.replicas[0].calls)
        gone.exchange.abandon()
        await rig.until(lambda: rig.replicas[0].calls[0].cancelled)
        assert (await rig.send().outcome()).status == 200
        assert gone.response is None
        await rig.quiet()

    rig(test)


def test_a_slow_sender_takes_no_slot_and_no_place(rig):
    async def test(rig):
        await rig.start(1)
        slow_senders = [rig.open(length=1000) for _ in range(20)]
        assert rig.backend.queue.reading == 20
        assert rig.application.statistics().waiting_bytes == 20_000
        for _ in range(3):
            assert (await rig.send().outcome()).status == 200
        for request in slow_senders[:10]:
            request.run()
            await request.outcome()
        for request in slow_senders[10:]:
            request.exchange.abandon()
        await rig.quiet()

    rig(test)


def test_bodies_of_unknown_size_count_as_they_grow(rig):
    async def test(rig):
        rig.max_body = 2 * QUEUED_BYTES_MAX
        await rig.start(1)
        announced = rig.open(length=QUEUED_BYTES_MAX - 100)
        growing = rig.open(length=0)  # chunked: it has announced nothing
        growing.exchange.hold(60)
        growing.exchange.hold(90)
        assert rig.application.statistics().waiting_bytes == QUEUED_BYTES_MAX - 10
        with pytest.raises(OutOfMemory) as refused:
            growing.exchange.hold(101)
        assert refused.value.retry_after_s >= 1
        growing.exchange.abandon()
        announced.exchange.abandon()
        assert (await rig.send(length=0).outcome()).status == 200
        await rig.quiet()

    rig(test)


def test_the_rules_are_asked_again_when_the_body_is_in(rig):
    async def test(rig):
        await rig.start(1, script=slow)  # unmeasured: one may wait
        running = rig.send()
        first, second = rig.open(), rig.open()
        assert first.response is second.response is None, "nobody waited when they came"
        second.run()
        assert second.response is None
        first.run()
        assert (first.status, first.code) == (503, "queue_full")
        assert (await second.outcome()).status == (await running.outcome()).status == 200
        await rig.quiet()

    rig(test)


def test_a_backend_without_replicas_lets_nobody_wait(rig):
    async def test(rig):
        await rig.start(1, route={"expected_s": 0.01})
        rig.publish([])
        assert rig.send().code == "loading"
        rig.publish()
        await rig.ready()
        assert (await rig.send().outcome()).status == 200

    rig(test)


def test_while_every_replica_restarts_the_slots_there_were_are_reckoned_with(rig):
    async def test(rig):
        await rig.start(2, script=lambda _: Hang(), route={"expected_s": 1.0, "timeout_s": 9.0})
        running = [rig.send() for _ in range(2)]
        for replica in rig.replicas:
            replica.script = lambda _: Answer()
            replica.die(stay_dead=True)
        await rig.until(lambda: rig.backend.queue.depth == 2)
        assert rig.send(timeout_ms=2400).code == "predicted_late"  # (2 + 1)·1 s / 2 + 1 s = 2.5 s
        waiting = rig.send(timeout_ms=2600)
        for replica in rig.replicas:
            replica.revive()
        for request in [*running, waiting]:
            assert (await request.outcome()).status == 200
        await rig.quiet()

    rig(test)


def test_bodies_that_wait_are_bounded_in_bytes(rig):
    async def test(rig):
        rig.max_body = QUEUED_BYTES_MAX
        await rig.start(1)
        announced = rig.open(length=QUEUED_BYTES_MAX - 10)
        assert rig.open(length=10).response is None
        refused = rig.open(length=1)
        assert (refused.status, refused.code) == (503, "memory")
        assert (await rig.send(b"", length=0).outcome()).status == 200
        announced.exchange.abandon()
        assert (await rig.send().outcome()).status == 200

    rig(test)


def test_a_body_that_comes_too_late_is_504_and_never_runs(rig):
    async def test(rig):
        await rig.start(1)
        request = rig.open(timeout_ms=60)
        assert (await request.outcome()).code == "expired_in_queue"
        request.run()
        await rig.quiet()
        assert not rig.replicas[0].calls

    rig(test)


def test_one_client_holds_a_quarter_while_others_wait(rig):
    async def test(rig):
        await rig.start(1, script=slow, route={"expected_s": 1.0, "timeout_s": 9.0})  # 1 slot + 8 waiting: 2 each
        greedy = [rig.send(client="greedy") for _ in range(3)]
        assert all(request.response is None for request in greedy), "nobody else waits"
        other = rig.send(client="other")
        assert other.response is None
        refused = rig.send(client="greedy")
        assert (refused.status, refused.code) == (429, "quota")
        assert b"retry-after" in refused.response.headers
        other.exchange.abandon()
        assert rig.send(client="greedy").response is None
        rig.replicas[0].script = lambda _: Answer()

    rig(test)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e3", "", "9999999999999", "٣", " 5"])
def test_a_bad_timeout_is_400(rig, value):
    async def test(rig):
        await rig.start(1)
        request = rig.send(headers={"x-request-timeout-ms": value})
        assert (request.status, request.code) == (400, "bad_request")

    rig(test)


def test_other_refusals_before_the_body(rig):
    async def test(rig):
        await rig.start(1)
        assert rig.send(path="/nope").code == "not_found"
        assert rig.send(headers={"x-priority": "urgent"}).code == "bad_request"
        assert rig.send(headers={"content-type": "text/plain"}).code == "unsupported_media_type"
        assert rig.send(length=2**20 + 1).code == "body_too_large"
        assert (await rig.send(timeout_ms=10**11).outcome()).status == 200
        assert rig.replicas[0].calls[0].budget_ms <= 3_600_000
        await rig.quiet()

    rig(test)


def test_short_calls_are_sent_ahead_and_long_ones_are_not(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(service_us=20), route={"expected_s": 0.001})
        for _ in range(50):
            await rig.send().outcome()
        assert rig.backend.credit == 4
        rig.replicas[0].script = lambda _: Hang()
        requests = [rig.send(timeout_ms=1500) for _ in range(6)]
        assert rig.backend.replicas["model-1"].in_flight == 4
        assert rig.backend.queue.depth == 2
        rig.replicas[0].script = lambda _: Answer(service_us=20)
        rig.replicas[0].die()  # one ran, three were only sent ahead: more than the budget of three is no matter
        for request in requests:
            assert (await request.outcome()).status == 200
        rig.replicas[0].script = lambda _: Answer(service_us=5000)
        await sent_ahead(rig, 50)
        rig.publish(idempotent=False)
        await rig.quiet()

    rig(test)


async def sent_ahead(rig, calls):
    """After so many, one more a slot may be sent ahead."""
    for _ in range(calls):
        await rig.send().outcome()
    assert rig.backend.credit == 2, rig.backend.service


def test_of_calls_that_wait_one_is_sent_ahead_and_only_of_those(rig):
    async def test(rig):
        await rig.start(2, script=lambda _: Answer(service_us=2000), route={"expected_s": 0.002})
        await sent_ahead(rig, 200)
        for replica in rig.replicas:
            replica.script = lambda _: Answer(after_s=0.01, service_us=2000)
        requests = [rig.send() for _ in range(3)]
        assert rig.backend.queue.depth == 1  # it goes to whichever is free first
        requests += [rig.send() for _ in range(5)]
        await rig.until(lambda: rig.backend.queue.depth == 2)  # one was answered: the others were sent ahead of time
        assert [each.in_flight for each in rig.backend.replicas.values()] in ([2, 2], [2, 1], [1, 2])
        for request in requests:
            assert (await request.outcome()).status == 200
        await rig.quiet()

    rig(test)


def test_calls_sent_ahead_to_a_replica_that_is_stuck_are_taken_back(rig):
    async def test(rig):
        await rig.start(2, script=lambda _: Answer(service_us=2000), route={"expected_s": 0.002})
        await sent_ahead(rig, 200)
        stuck = rig.replicas[0]
        stuck.script = lambda _: Hang()
        requests = [rig.send() for _ in range(12)]
        await rig.until(lambda: sum(request.answered.is_set() for request in requests) == 11)
        await rig.until(lambda: [call.cancelled for call in stuck.calls[-2:]] == [False, True])
        stuck.die()
        assert {(await request.outcome()).status for request in requests} == {200}
        await rig.quiet()

    rig(test)


@pytest.mark.parametrize(("heeds_cancel", "attempts"), [(True, 1), (False, 2)])
def test_what_was_taken_back_counts_as_run_there_until_the_replica_says_that_it_was_not(rig, heeds_cancel, attempts):
    async def test(rig):
        await rig.start(
            1, script=lambda _: Answer(service_us=20), route={"expected_s": 0.001}, heeds_cancel=heeds_cancel
        )
        for _ in range(50):
            await rig.send().outcome()
        rig.replicas[0].script = lambda _: Answer(after_s=0.5)
        requests = [rig.send() for _ in range(4)]  # three of them sent ahead
        await rig.replica(script=lambda _: Answer(after_s=0.05))
        rig.publish()
        await rig.until(lambda: rig.backend.calls.bounced == 3)
        for request in requests:
            assert (await request.outcome()).status == 200
        assert [request.attempts for request in requests] == [1, attempts, attempts, attempts]
        await rig.quiet()
        assert len(rig.replicas[0].calls) == 54
        assert sum(rig.replicas[0].batches[50:]) == (1 if heeds_cancel else 4), "what it ran"

    rig(test)


def test_calls_sent_ahead_keep_their_order_and_their_two_attempts(rig):
    async def test(rig):
        await rig.start(1, script=lambda _: Answer(service_us=20), route={"expected_s": 0.001})
        for _ in range(50):
            await rig.send().outcome()
        replica = rig.replicas[0]
        replica.script = lambda _: Hang()
        bodies = [b'"%d"' % number for number in range(4)]
        requests = [rig.send(body) for body in bodies]
        for _ in range(2):
            replica.calls.clear()
            await rig.until(lambda: len(replica.calls) == 4)
            assert [call.body for call in replica.calls] == bodies
            replica.die()
        for request in requests:
            await request.outcome()
            assert (request.status, request.code, request.attempts) == (502, "replica_died", 2)
        await rig.quiet()

    rig(test)


def test_the_hang_clock_of_a_call_sent_ahead_starts_when_it_could_have(rig):
    async def test(rig):
        await rig.start(
            1, script=lambda _: Answer(service_us=20), route={"expected_s": 0.001, "timeout_s": 0.6}, heeds_cancel=False
        )
        for _ in range(50):
            await rig.send().outcome()
        rig.replicas[0].script = lambda _: Answer(after_s=0.6)
        requests = [rig.send(timeout_ms=200) for _ in range(3)]
        for request in requests:
            assert (await request.outcome()).status == 504
        await rig.until(lambda: rig.backend.replicas["model-1"].in_flight == 0)
        assert rig.aborts == [], "three calls of 0.6 s each, none of them over 1.1 s"

    rig(test)


def test_a_link_that_leaves_is_closed_when_its_last_call_is_answered(rig):
    async def test(rig):
        answer = join_payload(b"", b"1")
        await rig.start(1, script=lambda call: Send(encode(FrameType.REPLY, id=call.id, payload=answer)))
        request = rig.send()
        rig.publish([])  # the replica does not know that it has answered, so it will not close
        assert (await request.outcome()).response.body == b"1"
        await rig.until(lambda: not rig.backend.replicas)

    rig(test)


def test_a_new_replica_gets_calls_and_a_vanished_one_is_drained(rig):
    async def test(rig):
        await rig.start(1, script=slow, route={"expected_s": 0.01})
        running = rig.send(b'"running"')
        await rig.until(lambda: rig.replicas[0].calls)
        await rig.replica()
        rig.publish([rig.replicas[1]])
        await rig.ready(1)
        assert (await rig.send(b'"new"').outcome()).status == 200
        assert (await running.outcome()).attempts == 1
        assert [call.body for call in rig.replicas[1].calls] == [b'"new"']
        await rig.until(lambda: list(rig.backend.replicas) == ["model-2"])
        assert rig.aborts == []
        await rig.quiet()

    rig(test)


def test_a_vanished_backend_fails_what_waits_and_answers_what_runs(rig):
    async def test(rig):
        await rig.start(1, script=slow, route={"expected_s": 0.01})
        running, waiting, reading = rig.send(), rig.send(), rig.open()
        rig.application.apply(Snapshot(99))
        assert (await waiting.outcome()).code == "draining"
        assert (await reading.run().outcome()).code == "draining"
        assert (await running.outcome()).status == 200
        assert rig.send().code == "not_found"
        await rig.until(lambda: rig.application.quiet)

    rig(test)


def test_a_snapshot_is_taken_wholly_or_not_at_all(rig):
    async def test(rig):
        await rig.start(1)
        endpoint = EndpointRoute(name="e", route="/a", traffic={"new": 1.0})
        for bad in (
            Snapshot(9, (EndpointRoute(name="e", route="/a", traffic={"absent": 1.0}),), (BackendRoute(name="new"),)),
            Snapshot(9, (EndpointRoute(name="e", route="/a", traffic={"new": -1.0}),), (BackendRoute(name="new"),)),
            Snapshot(9, (EndpointRoute(name="e", route="/livez", traffic={"new": 1.0}),), (BackendRoute(name="new"),)),
            Snapshot(9, (endpoint, endpoint), (BackendRoute(name="new"),)),
            Snapshot(9, (endpoint,), (BackendRoute(name="new"), BackendRoute(name="new"))),
        ):
            with pytest.raises(SpecError):
                rig.application.apply(bad)
            assert list(rig.application.statistics().backends) == ["model"]
            assert (await rig.send().outcome()).status == 200

    rig(test)


def probe(rig, path, method="GET"):
    answers = []
    head = Head(
        method=method,
        path=path,
        query=b"",
        headers={},
        content_length=None,
        request_id="r",
        client="c",
        received_s=rig.now(),
        respond=answers.append,
    )
    rig.application.begin(head).run(b"")
    return answers[0].status


def test_probes(rig):
    async def test(rig):
        assert probe(rig, "/livez") == 200
        assert probe(rig, "/readyz") == 503
        await rig.start(1)
        assert probe(rig, "/readyz") == 200
        rig.application.draining = True
        assert (probe(rig, "/livez"), probe(rig, "/readyz")) == (200, 503)
        assert (await rig.send().outcome()).status == 200, "it still accepts"

    rig(test)
