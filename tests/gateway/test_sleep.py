"""Backends without replicas that a call wakes up: who waits, who is told to come again, and who hears of it."""

import asyncio
import math

import msgspec
import pytest

from muleteer.base.limits import DEMAND_KEPT_S, DEMAND_REPEAT_S, SAMPLES_MIN
from muleteer.gateway.demand import Demand
from muleteer.gateway.steering import Steering
from muleteer.spec.snapshot import ASLEEP, UNPLACED, BackendRoute, EndpointRoute, ReplicaAddress, Snapshot
from muleteer.spec.traffic import Affinity, Shadow
from muleteer.testing.clock import FakeClock
from muleteer.testing.scripted_replica import Answer
from muleteer.wire.lines import LineDecoder, encode_line
from tests.gateway.unhurried import UnhurriedLoop


def watch(rig):
    """What is wanted, as it is told from now on."""
    told = []
    rig.application.demand.watch(told.append)
    return told


def wanted(demand):
    """What is told to who comes now."""
    told = []
    demand.watch(told.append)
    demand.unwatch(told.append)
    return told


async def asleep(rig, **route):
    """A backend that sleeps, and the replica that it could have."""
    replica = await rig.replica()
    rig.publish([], **{"unavailable": ASLEEP, "start_s": 0.3, **route})
    return replica


def test_a_call_wakes_it_and_waits(rig):
    async def test(rig):
        told = watch(rig)
        replica = await asleep(rig)
        assert rig.application.not_ready() == {}
        requests = [rig.send() for _ in range(3)]
        await rig.until(lambda: told)
        assert told == [["model"]], "told once, not for each call"
        assert not any(request.answered.is_set() for request in requests)
        rig.publish()
        for request in requests:
            assert (await request.outcome()).status == 200
        assert not wanted(rig.application.demand)
        assert [len(replica.calls)] == [3]
        await rig.quiet()

    rig(test)


def test_those_who_wait_are_told_of_again_when_what_they_waited_for_is_taken_away(rig):
    async def test(rig):
        told = watch(rig)
        await asleep(rig)
        request = rig.send()
        await rig.until(lambda: told == [["model"]])
        rig.publish()
        assert not wanted(rig.application.demand), "one starts"
        rig.publish([])  # and is given up before it was ready
        await rig.until(lambda: told == [["model"]] * 2)
        rig.publish()
        assert (await request.outcome()).status == 200

    rig(test)


def test_a_call_whose_body_comes_slowly_wakes_it_with_its_head(rig):
    async def test(rig):
        told = watch(rig)
        await asleep(rig)
        request = rig.open(length=3)
        await rig.until(lambda: told)
        rig.publish()
        await rig.ready()
        assert (await request.run().outcome()).status == 200

    rig(test)


def test_who_cannot_wait_so_long_is_told_when_to_come_again_and_wakes_it_too(rig):
    async def test(rig):
        told = watch(rig)
        await asleep(rig, start_s=7.2)
        request = rig.send(timeout_ms=2000)
        assert (request.status, request.code) == (503, "loading")
        lines = dict(line.split(": ") for line in request.response.headers.decode().splitlines())
        assert 8 <= int(lines["retry-after"]) <= 10
        await rig.until(lambda: told == [["model"]])
        rig.publish()
        await rig.ready()
        assert (await rig.send(timeout_ms=2000).outcome()).status == 200

    rig(test)


def test_the_time_that_a_start_has_already_taken_counts(rig):
    async def test(rig):
        await asleep(rig, start_s=0.6)
        patient = rig.send()
        assert rig.send(timeout_ms=200).code == "loading"
        await asyncio.sleep(0.4)
        late = rig.send(timeout_ms=400)
        assert not late.answered.is_set(), "200 ms are left of the start"
        rig.publish()
        assert [(await request.outcome()).status for request in (patient, late)] == [200, 200]

    rig(test)


def test_nobody_knows_how_long_a_start_takes_so_calls_wait_until_their_deadline(rig):
    async def test(rig):
        await asleep(rig, start_s=None)
        request = await rig.send(timeout_ms=100).outcome()
        assert (request.status, request.code, request.execution) == (504, "expired_in_queue", "not_started")

    rig(test)


def test_as_many_wait_for_an_unknown_model_as_will_measure_it(rig):
    async def test(rig):
        await asleep(rig)
        requests = [rig.send() for _ in range(SAMPLES_MIN)]
        assert rig.send().code == "queue_full"
        rig.publish()
        assert [(await request.outcome()).status for request in requests] == [200] * SAMPLES_MIN

    rig(test)


@pytest.mark.parametrize(
    ("unavailable", "code"), [("crash_loop", "crash_loop"), ("memory", "memory"), (UNPLACED, "memory")]
)
def test_a_start_that_fails_fails_those_who_wait_at_once(rig, unavailable, code):
    async def test(rig):
        await asleep(rig)
        request = rig.send()
        assert not request.answered.is_set()
        rig.publish([], unavailable=unavailable)
        assert (request.status, request.code) == (503, code)
        assert rig.application.not_ready() == {"model": unavailable}
        assert rig.send().code == code

    rig(test)


@pytest.mark.parametrize("unavailable", ["memory", UNPLACED])
def test_a_call_for_what_does_not_fit_is_heard_of(rig, unavailable):
    """Room may come: the controller has to know that somebody still asks."""

    async def test(rig):
        told = watch(rig)
        await asleep(rig, unavailable=unavailable)
        assert rig.send().code == "memory"
        await rig.until(lambda: told == [["model"]])

    rig(test)


def test_what_is_loading_or_removed_is_not_demanded(rig):
    async def test(rig):
        told = watch(rig)
        rig.publish([], unavailable="loading")
        assert rig.send().code == "loading"
        assert not told
        assert not wanted(rig.application.demand)

    rig(test)


def test_a_removed_backend_is_not_demanded_any_more(rig):
    async def test(rig):
        await asleep(rig)
        request = rig.send()
        assert wanted(rig.application.demand) == [["model"]]
        rig.application.apply(Snapshot(9))
        assert not wanted(rig.application.demand)
        assert request.code == "draining"

    rig(test)


def test_falling_asleep_while_calls_run_loses_none(rig):
    async def test(rig):
        told = watch(rig)
        await rig.start(1, script=lambda _: Answer(after_s=0.1), route={"unavailable": ASLEEP})
        running = rig.send()
        rig.publish([])
        waiting = rig.send()
        await rig.until(lambda: told)
        assert (await running.outcome()).status == 200
        rig.publish()
        assert (await waiting.outcome()).status == 200

    rig(test)


def split(rig, *, sleeping=(), **endpoint):
    """Endpoint `e` over `model`, awake, and `other`, without replicas."""
    rig.revision += 1
    route = EndpointRoute(name="e", route="/predict", **endpoint)
    addresses = tuple(ReplicaAddress(each.replica, each.address) for each in rig.replicas)
    backends = (
        BackendRoute(name="model", replicas=addresses),
        BackendRoute(name="other", unavailable=ASLEEP, start_s=0.2, replicas=tuple(sleeping)),
    )
    rig.application.apply(Snapshot(rig.revision, (route,), backends))


def test_a_sleeper_gets_its_share_of_an_endpoint(rig):
    async def test(rig):
        told = watch(rig)
        await rig.replica()
        split(rig, traffic={"model": 1.0, "other": 1.0})
        await rig.ready()
        requests = [rig.send() for _ in range(40)]
        assert rig.application.not_ready() == {}
        await rig.until(lambda: told == [["other"]])
        await rig.until(lambda: rig.application.loads({})["other"].queued)
        queued = rig.application.loads({})["other"].queued
        other = await rig.replica(replica="other-1", backend="other")
        split(rig, sleeping=[ReplicaAddress("other-1", other.address)], traffic={"model": 1.0, "other": 1.0})
        assert {(await request.outcome()).status for request in requests if request.exchange} <= {200}
        assert len(other.calls) == queued

    rig(test)


def test_copies_wake_nobody(rig):
    async def test(rig):
        told = watch(rig)
        await rig.replica()
        split(rig, traffic={"model": 1.0}, shadow=Shadow(backend="other", percent=100.0))
        await rig.ready()
        assert (await rig.send().outcome()).status == 200
        counts = rig.application.statistics().endpoints["e"].shadows["other"]
        await rig.until(lambda: rig.application.statistics().endpoints["e"].shadows["other"].dropped == 1)
        assert counts.sent == 0
        assert not told

    rig(test)


def test_a_call_whose_body_names_its_session_wakes_who_could_take_it(rig):
    async def test(rig):
        told = watch(rig)
        split(rig, traffic={"other": 1.0}, affinity=Affinity(source="json", name="user"))
        assert rig.open(timeout_ms=50).code == "loading"
        await rig.until(lambda: told == [["other"]])
        request = rig.send(b'{"user": "u"}', timeout_ms=5000)
        other = await rig.replica(replica="other-1", backend="other")
        split(
            rig,
            sleeping=[ReplicaAddress("other-1", other.address)],
            traffic={"other": 1.0},
            affinity=Affinity(source="json", name="user"),
        )
        assert (await request.outcome()).status == 200

    rig(test)


# who hears of it


def test_a_demand_is_repeated_while_calls_wait_and_told_to_who_comes_later():
    async def main():
        clock, waits = FakeClock(), [True]
        demand = Demand(clock, lambda _: waits[0])
        first, second = [], []
        demand.watch(first.append)
        demand.want("a")
        demand.want("b")
        await _until(lambda: first)
        assert first == [["a", "b"]]
        demand.watch(second.append)
        assert second == [["a", "b"]], "as a controller that comes back"
        clock.advance(DEMAND_KEPT_S + 1)
        demand.unwatch(first.append)
        await _until(lambda: len(second) == 2)
        waits[0] = False
        await _until(lambda: not wanted(demand))
        demand.close()

    with asyncio.Runner(loop_factory=UnhurriedLoop) as runner:
        runner.run(main())


async def _until(holds):
    now = asyncio.get_running_loop().time
    give_up_s = now() + 3 * DEMAND_REPEAT_S
    while not holds():
        assert now() < give_up_s
        await asyncio.sleep(0.01)


class Peer(asyncio.Protocol):
    def __init__(self):
        self.lines = LineDecoder()
        self.messages = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.messages += self.lines.feed(data)


def test_the_control_socket_tells_demands_and_loads(rig):
    async def test(rig):
        loop = asyncio.get_running_loop()
        path = f"{rig.directory}/control.sock"
        server = await loop.create_unix_server(lambda: Steering(rig.application, dict), path)
        transport, peer = await loop.create_unix_connection(Peer, path)

        async def asked(kind):
            transport.write(encode_line({"type": kind}))
            count = len(peer.messages)
            await rig.until(lambda: len(peer.messages) > count)
            return peer.messages.pop()

        replica = await asleep(rig)
        assert (await asked("load"))["backends"] == {}
        transport.write(encode_line({"type": "watch"}))
        request = rig.send()
        await rig.until(lambda: peer.messages)
        assert peer.messages.pop() == {"type": "demand", "backends": ["model"]}
        load = (await asked("load"))["backends"]["model"]
        assert (load["arrivals"], load["queued"], load["open_calls"], load["slots"]) == (1, 1, 1, 0)
        replica.script = lambda _: Answer(service_us=1)
        rig.publish()
        assert (await request.outcome()).status == 200
        assert (await asked("load"))["backends"] == {}, "no call came since, and none is open"
        assert (await rig.send().outcome()).status == 200
        told = await asked("load")
        load = told["backends"]["model"]
        assert (load["arrivals"], load["served"], load["answered"], load["slots"]) == (2, 2, 2, 1)
        assert sum(count for _, count in load["services"]) == 2
        assert math.isclose(sum(s * n for s, n in load["services"]) / 2, load["mean_s"], rel_tol=0.1)
        assert told["epoch"] == rig.application.epoch
        transport.close()
        await rig.until(lambda: not rig.application.demand._watchers)
        server.close()

    rig(test)


def test_every_connection_is_told_of_all_calls(rig):
    async def test(rig):
        await rig.start(1)
        one, other = {}, {}
        await rig.send().outcome()
        assert [*rig.application.loads(one)] == [*rig.application.loads(other)] == ["model"]
        assert rig.application.loads(one) == {}
        assert msgspec.json.encode(rig.application.loads({})["model"])

    rig(test)
