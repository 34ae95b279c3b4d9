"""The dispatcher in virtual time: the same links, frames and rules, with transports in memory and a clock that jumps.

First seeded overload, where the derived bound must keep its promise and a fixed queue must not; then hypothesis does to
calls and replicas what it likes, and every call must get exactly one outcome.
"""

import heapq
import itertools
import random
from collections import Counter, deque

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muleteer.base.errors import RequestError
from muleteer.base.limits import ATTEMPTS_MAX, DEADLINE_TICK_S, TICK_S
from muleteer.gateway.call import Priority
from muleteer.gateway.dispatch import Dispatcher
from muleteer.gateway.exchange import Head
from muleteer.gateway.http.respond import render_error
from muleteer.gateway.link import Link
from muleteer.gateway.shared import Shared
from muleteer.gateway.versions import Version
from muleteer.gateway.way import Way
from muleteer.spec.snapshot import BackendRoute, ReplicaAddress
from muleteer.testing.clock import FakeClock
from muleteer.wire.connection import Connection, Role, State
from muleteer.wire.frames import FrameType, join_payload, split_payload


class Handle:
    def __init__(self, what):
        self.run = what

    def cancel(self):
        self.run = lambda: None


class World:
    """One dispatcher, its replicas, and the events to come. `batch_s`: a batch of n takes so long; None: one by one."""

    def __init__(self, route, service_s, *, batch_s=None):
        self.clock = FakeClock()
        self.events = []
        self.order = itertools.count()
        self.aborts = []
        self.shared = Shared(clock=self.clock, abort=self.abort, render=render_error, place=None, later=self.later)
        self.service_s = service_s
        self.batch_s = batch_s
        self.batches = []
        self.replicas = {}
        self.processes = []
        self.requests = []
        self.executed = Counter()
        self.dispatcher = Dispatcher(route, self.shared, Replica.make(self))
        self.dispatcher.update(route)
        self.hangs_due_s = 0.0
        self.version = Version()
        self.tick()

    def at(self, when_s, what):
        heapq.heappush(self.events, (when_s, next(self.order), what))

    def after(self, seconds, what):
        self.at(self.clock.now() + seconds, what)

    def later(self, seconds, what):
        handle = Handle(what)
        self.after(seconds, lambda: handle.run())
        return handle

    def run(self, seconds):
        until_s = self.clock.now() + seconds
        while self.events and self.events[0][0] <= until_s:
            when_s, _, what = heapq.heappop(self.events)
            self.clock.advance(max(0.0, when_s - self.clock.now()))
            what()
        self.clock.advance(max(0.0, until_s - self.clock.now()))

    def tick(self):
        now = self.clock.now()
        for call in self.shared.wheel.expired(now):
            self.dispatcher.expire(call)
        if now >= self.hangs_due_s:
            self.hangs_due_s = now + TICK_S
            self.dispatcher.links.abort_hung(now)
        self.after(DEADLINE_TICK_S, self.tick)

    def kills(self, bodies):
        """Whether a replica dies of running these."""
        return False

    def abort(self, replica, pid, reason):
        """What the supervisor does, a little later."""
        self.aborts.append(reason)
        self.after(0.1, lambda: [each.die() for each in self.processes if each.link is not None and each.pid == pid])

    def send(self, timeout_s, **options):
        request = Request(self, timeout_s, **options)
        self.requests.append(request)
        return request


class Replica:
    """A replica and the dialer to it, as `fleet.Dialing`."""

    pids = itertools.count(1)

    def __init__(self, world, address, owner):
        self.world, self.address, self.owner = world, address, owner
        self.link = None
        self.concurrency = world.dispatcher.gate.route.concurrency
        self.routed = True
        self.hangs = self.corrupts = False
        world.replicas[address.id] = self
        world.processes.append(self)

    @classmethod
    def make(cls, world):
        return lambda address, owner: cls(world, address, owner)

    def open(self):
        self.pid = next(self.pids)
        self.wire = Connection(Role.REPLICA, payload_max=2**20)
        self.waiting, self.running, self.gathered = deque(), 0, []
        self.link = Link(
            backend="m",
            replica=self.address.id,
            gateway="g",
            payload_max=2**20,
            owner=self.owner,
            clock=self.world.clock,
        )
        self.link.connection_made(self)

    def retire(self):
        self.routed = False
        if self.link is not None:
            self.link.leave()

    async def close(self):
        self.die()

    # as the gateway's transport

    def write(self, data):
        link, wire = self.link, self.wire
        self.world.after(1e-5, lambda: link is self.link and self.received(wire, data))

    def abort(self):
        link = self.link
        self.world.after(0.0, lambda: self.ended(link))

    # as the replica

    def received(self, wire, data):
        for frame in wire.receive(data):
            if frame.type is FrameType.HELLO:
                self.world.after(0.05, lambda: self.introduce(wire))
            elif frame.type is FrameType.CALL:
                if wire.state is State.DRAINED:
                    self.say(wire, FrameType.ERROR, id=frame.id, payload=b'{"code":"draining"}')
                    continue
                self.gathered.append(frame)
                if not frame.flags:
                    self.waiting.append(self.gathered)
                    self.gathered = []
                    self.next(wire)
        self.leave_if_drained(wire)

    def introduce(self, wire):
        ready = {"backend": "m", "replica": self.address.id, "pid": self.pid, "concurrency": self.concurrency}
        ready["batch"] = self.world.batch_s is not None
        self.say(wire, FrameType.READY, payload=msgspec.json.encode(ready))

    def next(self, wire):
        while self.waiting and self.running < self.concurrency and not self.hangs:
            frames = self.waiting.popleft()
            self.running += 1
            bodies = [split_payload(frame.payload)[1] for frame in frames]
            self.world.executed.update(bodies)
            self.world.batches.append(bodies)
            if self.world.kills(bodies):
                self.die()
                return
            took_s = self.world.service_s() if self.world.batch_s is None else self.world.batch_s(len(frames))
            self.world.after(took_s, lambda frames=frames: self.done(wire, frames))

    def done(self, wire, frames):
        if wire is not self.wire or self.hangs:
            return
        self.running -= 1
        for frame in frames:
            _, body = split_payload(frame.payload)
            self.say(wire, FrameType.REPLY, id=frame.id, budget=5000, payload=join_payload(b"", body))
        self.next(wire)
        self.leave_if_drained(wire)

    def say(self, wire, kind, **fields):
        if wire is self.wire and wire.state is not State.DEAD:
            data = wire.send(kind, **fields)
            if self.corrupts:
                data = data[:20] + bytes([data[20] ^ 1]) + data[21:]
            link = self.link
            self.world.after(1e-5, lambda: link is self.link and link.data_received(data))

    def drain(self):
        if self.wire.state is State.OPEN:
            self.say(self.wire, FrameType.DRAIN)

    def leave_if_drained(self, wire):
        if wire.state is wire.peer_state is State.DRAINED and not wire.open_calls:
            self.die()

    def die(self):
        if self.link is not None:
            self.ended(self.link)

    def ended(self, link):
        if link is not self.link:
            return
        link.connection_lost(None)
        self.link, self.wire = None, None
        self.hangs = self.corrupts = False
        if self.routed:
            self.world.after(0.0, lambda: self.routed and self.link is None and self.open())


class Request:
    numbers = itertools.count()

    def __init__(self, world, timeout_s, *, priority=Priority.NORMAL, client="c", body=None, read_s=None):
        self.world = world
        self.body = b"%d" % next(self.numbers) if body is None else body
        self.outcomes = []
        self.gone = False
        self.sent_s = world.clock.now()
        self.due_s = self.sent_s + timeout_s
        self.head = Head(
            method="POST",
            path="/",
            query=b"",
            headers={},
            content_length=len(self.body),
            request_id="r",
            client=client,
            received_s=self.sent_s,
            respond=self.respond,
        )
        self.call = None
        try:
            way = Way(world.dispatcher, world.version)
            self.call = world.dispatcher.begin(self.head, way, deadline_s=self.due_s, priority=priority, body_max=1)
        except RequestError as error:
            self.respond(render_error(error, "r"))
            return
        if read_s is None:
            self.call.run(self.body)
        else:
            world.after(read_s, lambda: self.gone or self.call.run(self.body))

    def respond(self, response):
        assert not self.gone, "an answer after the client had gone"
        self.outcomes.append((self.world.clock.now(), response))

    def abandon(self):
        if self.call is not None and not self.outcomes:
            self.gone = True
            self.call.abandon()

    @property
    def status(self):
        return self.outcomes[0][1].status


def route(replicas=4, **settings):
    addresses = tuple(ReplicaAddress(f"m-{number}", "memory") for number in range(replicas))
    return BackendRoute(name="m", replicas=addresses, **settings)


def poisson(world, rate, seconds, timeout_s, chance, *, client="c"):
    def arrive():
        world.send(timeout_s, client=client)
        if world.clock.now() < end_s:
            world.after(chance.expovariate(rate), arrive)

    end_s = world.clock.now() + seconds
    arrive()


@pytest.mark.parametrize(("seed", "timeout_s"), [(1, 0.1), (2, 0.1), (3, 1.0)])
def test_at_ten_times_overload_nine_tenths_of_capacity_are_useful_answers(seed, timeout_s):
    chance = random.Random(seed)
    seconds, mean_s, replicas = 6.0, 0.005, 4
    world = World(route(replicas), lambda: chance.lognormvariate(-5.378, 0.4))  # mean 5 ms, p99 12 ms
    world.run(1.0)
    poisson(world, 10 * replicas / mean_s, seconds, timeout_s, chance)
    world.run(seconds + timeout_s + 1.0)
    good = [each for each in world.requests if each.status == 200 and each.outcomes[0][0] <= each.due_s]
    late = [each for each in world.requests if each.status in (200, 504) and each.outcomes[0][0] > each.due_s]
    refusals = [each for each in world.requests if each.status == 503]
    assert len(good) / seconds >= 0.9 * replicas / mean_s
    assert len(late) <= 0.01 * len(good)
    assert all(each.outcomes[0][0] == each.sent_s for each in refusals), "a refusal is immediate"
    assert world.dispatcher.quiet


@pytest.mark.parametrize("seed", [1, 2])
def test_a_fixed_queue_of_100_delivers_next_to_nothing(seed):
    """What the rule is measured against: the same load, the queue bounded by a guess, deadlines known to nobody."""
    chance = random.Random(seed)
    seconds, mean_s, replicas, timeout_s = 6.0, 0.005, 4, 0.1
    free_s = [0.0] * replicas
    queue, now, good = deque(), 0.0, 0
    while now < seconds:
        now += chance.expovariate(10 * replicas / mean_s)
        while queue and free_s[0] <= now:
            started_s = max(free_s[0], queue[0])
            finished_s = started_s + chance.lognormvariate(-5.378, 0.4)
            good += finished_s <= queue.popleft() + timeout_s
            heapq.heapreplace(free_s, finished_s)
        if len(queue) < 100:
            queue.append(now)
    assert good / seconds < 0.1 * replicas / mean_s


def test_at_half_load_nobody_is_refused():
    chance = random.Random(5)
    world = World(route(4), lambda: chance.uniform(0.004, 0.006))
    world.run(1.0)
    for _ in range(60):  # measured first
        world.send(1.0)
        world.run(0.01)
    poisson(world, 400, 5.0, 1.0, chance)
    world.run(7.0)
    assert Counter(each.status for each in world.requests) == {200: len(world.requests)}


@pytest.mark.parametrize("greedy_timeout_s", [1.0, 30.0])
def test_a_greedy_client_takes_nothing_from_a_modest_one(greedy_timeout_s):
    chance = random.Random(7)
    world = World(route(2), lambda: chance.uniform(0.004, 0.006))
    world.run(1.0)
    poisson(world, 1500, 8.0, greedy_timeout_s, chance, client="greedy")
    world.run(4.0)
    poisson(world, 20, 4.0, 1.0, chance, client="modest")
    world.run(4.0 + greedy_timeout_s + 1.0)
    modest = [each for each in world.requests if each.head.client == "modest"]
    greedy = [each for each in world.requests if each.head.client == "greedy"]
    assert {each.status for each in modest} == {200}
    assert max(each.outcomes[0][0] - each.sent_s for each in modest) < 0.05, "it waits for its turn only"
    good = [each for each in world.requests if each.status == 200 and each.outcomes[0][0] <= each.due_s]
    assert len(good) >= 0.9 * 8.0 * 400, "and nothing is wasted"
    assert {each.status for each in greedy} <= {200, 429, 503, 504}
    assert sum(each.status == 504 for each in greedy) < 0.02 * len(greedy)
    assert world.dispatcher.quiet


def test_two_greedy_clients_have_half_each():
    chance = random.Random(8)
    world = World(route(2), lambda: chance.uniform(0.004, 0.006))
    world.run(1.0)
    poisson(world, 4000, 6.0, 1.0, chance, client="more")
    poisson(world, 800, 6.0, 1.0, chance, client="less")
    world.run(8.0)
    answered = Counter(each.head.client for each in world.requests if each.status == 200)
    assert sum(answered.values()) >= 0.9 * 6.0 * 400
    assert 0.6 < answered["less"] / answered["more"] < 1.6
    assert world.dispatcher.quiet


def test_a_thousand_kills_under_load_cost_no_request():
    """behaviour.md §2, in virtual time: 4 replicas, 5 ms, 500 requests/s, deadline 2 s, one kill every 60 ms."""
    chance = random.Random(11)
    world = World(route(4), lambda: chance.uniform(0.004, 0.006))
    world.run(1.0)
    for _ in range(60):
        world.send(2.0)
        world.run(0.01)

    def kill():
        ready = [each for each in world.replicas.values() if each.link is not None and each.link.in_service]
        if len(ready) > 1:
            chance.choice(ready).die()
        if world.clock.now() < end_s:
            world.after(0.06, kill)

    end_s = world.clock.now() + 60.0
    kill()
    poisson(world, 500, 60.0, 2.0, chance)
    world.run(63.0)
    assert Counter(each.status for each in world.requests) == {200: len(world.requests)}
    assert all(each.outcomes[0][1].body == each.body for each in world.requests)
    assert world.dispatcher.statistics().calls.re_executed > 100
    assert world.dispatcher.quiet


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: one outcome for each call, no counter left standing."""

    @initialize(
        idempotent=st.booleans(),
        concurrency=st.integers(1, 3),
        expected_s=st.sampled_from([None, 0.01, 0.3]),
        batch_wait_s=st.sampled_from([None, None, 0.0, 0.05]),
        seed=st.integers(0, 9),
    )
    def begin(self, idempotent, concurrency, expected_s, batch_wait_s, seed):
        self.chance = random.Random(seed)
        self.route = route(
            3,
            idempotent=idempotent,
            concurrency=concurrency,
            expected_s=expected_s,
            timeout_s=1.0,
            unavailable="loading",
            batch_max=5,
            batch_wait_s=batch_wait_s or 0.0,
        )
        self.was_idempotent = idempotent
        self.copies = []
        self.batched = batch_wait_s is not None
        batch_s = (lambda size: self.chance.choice([0.001, 0.02, 0.2]) + 0.001 * size) if self.batched else None
        self.world = World(self.route, lambda: self.chance.choice([0.001, 0.02, 0.2]), batch_s=batch_s)
        self.world.run(0.2)

    @rule(
        timeout_s=st.sampled_from([0.05, 0.5, 2.0]),
        priority=st.sampled_from(Priority),
        client=st.sampled_from("ab"),
        body=st.sampled_from([None, None, None, b"same"]),
        read_s=st.sampled_from([None, None, 0.03]),
        count=st.integers(1, 8),
    )
    def send(self, count, timeout_s, **request):
        for _ in range(count):
            self.world.send(timeout_s, **request)

    @rule(timeout_s=st.sampled_from([0.05, 2.0]), has_traffic=st.booleans(), body=st.sampled_from([b"copy", b"same"]))
    def copy(self, timeout_s, has_traffic, body):
        dispatcher, outcomes = self.world.dispatcher, []
        dispatcher.gate.has_traffic = has_traffic
        head = Head(
            method="POST",
            path="/",
            query=b"",
            headers={},
            content_length=None,
            request_id="r",
            client="shadow",
            received_s=self.world.clock.now(),
            respond=outcomes.append,
        )
        queued = dispatcher.gate.queue.depth
        if dispatcher.start_copy(head, body, self.world.clock.now() + timeout_s, Way(dispatcher, Version())):
            self.copies.append(outcomes)
            assert not queued, "requests go first"
            slots = dispatcher.gate.capacity.slots
            assert not has_traffic or slots.next() is not None or slots.total == 1, "a slot is kept for them"

    @rule(seconds=st.sampled_from([0.0, 1e-5, 0.001, 0.02, 0.3]))
    def wait(self, seconds):
        self.world.run(seconds)

    @precondition(lambda self: self.world.requests)
    @rule(share=st.floats(0, 0.999))
    def leave(self, share):
        self.world.requests[int(share * len(self.world.requests))].abandon()

    @rule(number=st.integers(0, 2), what=st.sampled_from(["die", "die", "drain", "hang", "corrupt"]))
    def harm(self, number, what):
        replica = self.world.replicas[f"m-{number}"]
        if replica.link is None:
            return
        if what == "hang":
            replica.hangs = True
        elif what == "corrupt":
            replica.corrupts = True
        else:
            getattr(replica, what)()

    @rule(keep=st.sets(st.integers(0, 2)), unavailable=st.sampled_from(["loading", "crash_loop"]))
    def publish(self, keep, unavailable):
        replicas = tuple(each for number, each in enumerate(self.route.replicas) if number in keep)
        self.world.dispatcher.update(msgspec.structs.replace(self.route, replicas=replicas, unavailable=unavailable))

    @invariant()
    def a_waiting_call_means_no_room(self):
        dispatcher = self.world.dispatcher
        if self.batched:
            self.world.run(0.0)  # the line is looked at when this turn of the loop ends
        if dispatcher.gate.queue.depth and (link := dispatcher.gate.capacity.slots.next()) is not None:
            assert self.batched
            assert link.load >= link.concurrency or dispatcher.gate.route.batch_wait_s, "an idle slot"

    @invariant()
    def at_most_one_outcome_in_time(self):
        now = self.world.clock.now()
        for request in self.world.requests:
            assert len(request.outcomes) + request.gone <= 1
            assert request.outcomes or request.gone or now <= request.due_s + 3 * DEADLINE_TICK_S

    def teardown(self):
        if not hasattr(self, "world"):
            return
        world = self.world
        world.dispatcher.update(self.route)
        world.run(5.0)
        for request in world.requests:
            assert len(request.outcomes) + request.gone == 1
            if request.outcomes and request.status == 200:
                assert request.outcomes[0][1].body == request.body, "another call's answer"
            if request.body != b"same":
                assert world.executed[request.body] <= (ATTEMPTS_MAX if self.was_idempotent else 1)
        statistics = world.dispatcher.statistics()
        assert (statistics.open_calls, statistics.retrying, statistics.queue.depth) == (0, 0, 0)
        assert (statistics.queue.reading, statistics.queue.bytes, world.shared.waiting_bytes) == (0, 0, 0)
        assert world.dispatcher.gate.held == {}
        assert len(world.shared.wheel) == 0
        assert world.dispatcher.quiet
        assert statistics.slots == 3 * self.route.concurrency
        counts = statistics.calls
        answered = Counter(each.status == 200 for each in world.requests if each.outcomes)
        assert counts.answered == answered[True]
        assert sum(counts.failed.values()) + sum(counts.refused.values()) == answered[False]
        assert counts.cancelled == sum(each.gone for each in world.requests)
        outcomes = world.version.statistics().outcomes
        assert sum(outcomes.values()) == len(world.requests)
        assert (outcomes["ok"], outcomes.get("client_gone", 0)) == (counts.answered, counts.cancelled)
        assert all(len(outcomes) == 1 for outcomes in self.copies)
        copies = statistics.copies
        assert copies.admitted == len(self.copies) == copies.answered + sum(copies.failed.values())
        assert copies.re_executed == copies.cancelled == 0


AnyOrder.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = AnyOrder.TestCase
