"""Copies to a shadow over real sockets: what is compared, what is dropped, and that requests never notice."""

import json
import time

import pytest

from muleteer.base.limits import COMPARE_BYTES_MAX, SHADOW_BYTES_MAX, SHADOW_CALLS_MAX
from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.shadow import EndpointMirror, Shadows
from muleteer.gateway.versions import EndpointCounts
from muleteer.spec.snapshot import BackendRoute, EndpointRoute, ReplicaAddress, Snapshot
from muleteer.spec.traffic import Shadow
from muleteer.testing.clock import FakeClock
from muleteer.testing.scripted_replica import Answer, Die, Drain, Fail, Hang


class Shadowed:
    """`primary` answers `/predict`; its calls are copied to `shadow`."""

    def __init__(self, rig):
        self.rig = rig
        self.revision = 0

    async def start(self, *, primaries=1, shadows=1, primary=None, shadow=None, concurrency=1, **options):
        self.replicas = {}
        for backend, count, script in (("primary", primaries, primary), ("shadow", shadows, shadow)):
            for number in range(1, count + 1):
                name = f"{backend}-{number}"
                self.replicas[name] = await self.rig.replica(
                    script=script or (lambda _: Answer()), backend=backend, replica=name, concurrency=concurrency
                )
        self.publish(**options)
        await self.rig.until(lambda: self.links() == primaries + shadows)

    def publish(self, *, percent=100.0, traffic=None, tolerance=1e-6, timeout_s=30.0, shadow="shadow", **backend):
        self.revision += 1
        route = EndpointRoute(
            name="e",
            route="/predict",
            traffic=traffic or {"primary": 1.0},
            timeout_s=timeout_s,
            shadow=Shadow(backend=shadow, percent=percent, tolerance=tolerance),
        )
        routes = tuple(
            BackendRoute(
                name=name,
                replicas=tuple(
                    ReplicaAddress(id, each.address) for id, each in self.replicas.items() if each.backend == name
                ),
                timeout_s=timeout_s,
                **{"expected_s": 0.01, **backend},
            )
            for name in ("primary", "shadow")
        )
        self.rig.application.apply(Snapshot(self.revision, (route,), routes))

    def links(self):
        return sum(each.links_ready for each in self.rig.application.statistics().backends.values())

    @property
    def counted(self):
        return self.rig.application.statistics().endpoints["e"].shadows["shadow"]

    async def compared(self, copies):
        await self.rig.until(lambda: sum(getattr(self.counted, each) for each in ENDS) == copies)
        await self.rig.quiet()
        return {each: count for each in ("sent", *ENDS) if (count := getattr(self.counted, each))}


ENDS = ("equal", "different", "uncompared", "error", "dropped")


@pytest.fixture
def shadowed(rig):
    return lambda test: rig(lambda inner: test(Shadowed(inner)))


@pytest.mark.parametrize(
    ("primary", "shadow", "end"),
    [
        (b'{"a": 1, "b": [0.1]}', b'{"b":[0.10000000001],"a":1.0}', "equal"),
        (b'{"a": 1}', b'{"a": 2}', "different"),
        (b'"%b"' % (b"x" * COMPARE_BYTES_MAX), b'"y"', "uncompared"),
        (b"not JSON", b"nor this", "uncompared"),
    ],
)
def test_answers_are_compared(shadowed, primary, shadow, end):
    async def test(shadowed):
        await shadowed.start(primary=lambda _: Answer(body=primary), shadow=lambda _: Answer(body=shadow))
        request = await shadowed.rig.send(b'{"nonce": 7}').outcome()
        assert (request.status, request.response.body) == (200, primary)
        assert await shadowed.compared(1) == {"sent": 1, end: 1}
        assert [call.body for call in shadowed.replicas["shadow-1"].calls] == [b'{"nonce": 7}']

    shadowed(test)


def test_copies_count_for_nobody_else(shadowed):
    async def test(shadowed):
        await shadowed.start()
        for _ in range(20):
            assert (await shadowed.rig.send().outcome()).status == 200
            await shadowed.rig.quiet()
        assert await shadowed.compared(20) == {"sent": 20, "equal": 20}
        statistics = shadowed.rig.application.statistics()
        assert list(statistics.endpoints["e"].versions) == ["primary"]
        calls, copies = statistics.backends["shadow"].calls, statistics.backends["shadow"].copies
        assert (calls.admitted, calls.dispatched, calls.answered) == (0, 0, 0)
        assert (copies.admitted, copies.dispatched, copies.answered) == (20, 20, 20)
        assert statistics.backends["primary"].copies.admitted == 0

    shadowed(test)


def test_a_share_is_copied(shadowed):
    async def test(shadowed):
        await shadowed.start(percent=20.0)
        for _ in range(400):
            await shadowed.rig.send().outcome()
            await shadowed.rig.quiet()
        assert 40 < shadowed.counted.sent < 125  # 80 ± 5 deviations

    shadowed(test)


@pytest.mark.parametrize(
    ("primary", "seen"),
    [(Fail("model_error"), {"sent": 1, "uncompared": 1}), (Fail("bad_arguments"), {}), (Fail("bad_json"), {})],
)
def test_what_the_primary_failed_is_copied_if_the_model_ran(shadowed, primary, seen):
    async def test(shadowed):
        await shadowed.start(primary=lambda _: primary)
        assert (await shadowed.rig.send().outcome()).code == primary.code
        await shadowed.rig.quiet()
        assert await shadowed.compared(len(seen) // 2) == seen

    shadowed(test)


@pytest.mark.parametrize("action", [Fail("model_error"), Fail("bad_arguments"), Fail("draining"), Die(), Drain()])
def test_a_copy_runs_once_and_its_fault_is_nobody_elses(shadowed, action):
    async def test(shadowed):
        await shadowed.start(shadow=lambda _: action)
        assert (await shadowed.rig.send().outcome()).attempts == 1
        ends = await shadowed.compared(1)
        assert ends == {"sent": 1, "equal" if action == Drain() else "error": 1}
        assert len(shadowed.replicas["shadow-1"].calls) == 1
        backend = shadowed.rig.application.statistics().backends["shadow"]
        assert (backend.retrying, backend.calls.failed, backend.calls.bounced) == (0, {}, 0)

    shadowed(test)


def test_a_shadow_that_hangs_is_dropped_from_and_then_killed(shadowed):
    async def test(shadowed):
        await shadowed.start(shadow=lambda _: Hang(), timeout_s=0.2)
        requests = [await shadowed.rig.send().outcome() for _ in range(50)]
        assert {request.status for request in requests} == {200}
        await shadowed.rig.until(lambda: shadowed.counted.dropped == 49)
        assert shadowed.counted.sent == 1
        await shadowed.rig.until(lambda: shadowed.rig.aborts)
        assert shadowed.rig.aborts[0][::2] == ("shadow-1", "hung")
        assert shadowed.counted.error == 1, "at its deadline"
        assert len(shadowed.replicas["shadow-1"].calls) == 1

    shadowed(test)


def test_a_shadow_that_is_not_there(shadowed):
    async def test(shadowed):
        await shadowed.start(shadows=0)
        for _ in range(5):
            assert (await shadowed.rig.send().outcome()).status == 200
        assert await shadowed.compared(5) == {"dropped": 5}

    shadowed(test)


def test_requests_of_the_shadows_own_go_first(shadowed):
    """With traffic of its own it takes a copy only while more than a quarter of its slots idle."""

    async def test(shadowed):
        await shadowed.start(shadows=4, traffic={"primary": 0.0, "shadow": 1.0}, shadow=lambda _: Hang())
        busy = [shadowed.rig.send() for _ in range(2)]
        await shadowed.rig.until(lambda: sum(len(each.calls) for each in shadowed.replicas.values()) == 2)
        shadowed.publish(traffic={"primary": 1.0, "shadow": 0.0000001})
        for _ in range(3):
            assert (await shadowed.rig.send().outcome()).status == 200
        await shadowed.rig.until(lambda: shadowed.counted.dropped == 2)
        assert shadowed.counted.sent == 1, "two idle, one is kept"
        shadowed.publish(traffic={"primary": 1.0, "shadow": 0.0})
        await shadowed.rig.send().outcome()
        await shadowed.rig.until(lambda: shadowed.counted.sent == 2)
        for request in busy:
            request.exchange.abandon()

    shadowed(test)


def test_the_one_slot_of_a_shadow_with_traffic_is_lent_for_a_twentieth_of_the_time(shadowed):
    async def test(shadowed):
        traffic = {"primary": 1.0, "shadow": 0.0000001}
        await shadowed.start(traffic=traffic, shadow=lambda _: Answer(after_s=0.02))
        began = shadowed.rig.now()
        while shadowed.rig.now() < began + 1.0:
            assert (await shadowed.rig.send().outcome()).status == 200
            await shadowed.rig.until(lambda: shadowed.rig.application.quiet)
        assert 1 <= shadowed.counted.sent <= 1 + 1.2 / 0.4
        assert shadowed.counted.dropped > 10

    shadowed(test)


def test_a_call_of_the_shadow_itself_is_not_copied(shadowed):
    async def test(shadowed):
        await shadowed.start(traffic={"shadow": 1.0})
        assert (await shadowed.rig.send().outcome()).status == 200
        await shadowed.rig.quiet()
        assert await shadowed.compared(0) == {}

    shadowed(test)


def test_a_backend_that_goes_takes_its_copies_along(shadowed):
    async def test(shadowed):
        await shadowed.start(shadow=lambda _: Answer(after_s=0.1))
        assert (await shadowed.rig.send().outcome()).status == 200
        await shadowed.rig.until(lambda: shadowed.replicas["shadow-1"].calls)
        route = EndpointRoute(name="e", route="/predict", traffic={"primary": 1.0})
        backend = BackendRoute(
            name="primary", replicas=(ReplicaAddress("primary-1", shadowed.replicas["primary-1"].address),)
        )
        shadowed.rig.application.apply(Snapshot(99, (route,), (backend,)))
        assert (await shadowed.rig.send().outcome()).status == 200
        await shadowed.rig.quiet()
        assert shadowed.rig.application.statistics().endpoints["e"].shadows == {}

    shadowed(test)


# -- bounds, without sockets


class Bench:
    def __init__(self, *, starts=True):
        self.clock = FakeClock()
        self.later = []
        self.started = []
        self.starts = starts
        self.shadows = Shadows(clock=self.clock, start=self.start, soon=self.later.append, uniform=lambda: 0.0)
        self.counts = EndpointCounts()
        route = EndpointRoute(name="e", route="/e", traffic={"p": 1.0}, shadow=Shadow(backend="s", percent=1))
        self.mirror = EndpointMirror(route, self.counts, self.shadows)

    def start(self, backend, head, body, seconds, version):
        if self.starts:
            self.started.append(head)
        return self.starts

    def offer(self, body=b"", answer=b"1"):
        self.mirror.offer(
            Head(
                method="POST",
                path="/e",
                query=b"",
                headers={},
                content_length=None,
                request_id="r",
                client="c",
                received_s=0.0,
                respond=print,
            ),
            body,
            Response(200, answer),
        )

    def turn(self):
        while self.later:
            self.later.pop(0)()

    @property
    def counted(self):
        return self.counts.statistics().shadows["s"]


def test_copies_in_flight_are_bounded():
    bench = Bench()
    for _ in range(SHADOW_CALLS_MAX + 3):
        bench.offer()
    assert bench.counted.sent == 0, "not in the turn of the request"
    bench.turn()
    assert (bench.counted.sent, bench.counted.dropped) == (SHADOW_CALLS_MAX, 3)
    for head in bench.started:
        head.respond(Response(200, b"1"))
    bench.turn()
    assert bench.counted.equal == SHADOW_CALLS_MAX
    assert (bench.shadows.calls, bench.shadows.bytes) == (0, 0)


def test_bytes_held_for_copies_are_bounded():
    bench = Bench()
    half = b"x" * (SHADOW_BYTES_MAX // 2)
    bench.offer(half, half)
    bench.offer()
    bench.turn()
    assert (bench.counted.sent, bench.counted.dropped) == (1, 1)
    bench.started[0].respond(Response(500, b"", code="model_error"))
    assert bench.counted.error == 1
    assert bench.shadows.bytes == 0
    bench.starts = False
    bench.offer(half, half)
    bench.turn()
    assert bench.counted.dropped == 2
    assert (bench.shadows.calls, bench.shadows.bytes) == (0, 0)


def test_comparing_takes_a_hundredth_of_the_time_at_most():
    bench = Bench()
    one, other = (json.dumps([number / 7 for number in range(first, 200)]).encode() for first in (0, 1))
    began = time.perf_counter()
    assert bench.shadows.compare(one, other, 0.0) == "different"
    took_s = time.perf_counter() - began
    assert bench.shadows.compare(one, other, 0.0) == "uncompared"
    assert bench.shadows.compare(one, one, 0.0) == "equal", "which costs nothing"
    bench.clock.advance(took_s * 100)
    assert bench.shadows.compare(one, other, 0.0) == "different"
