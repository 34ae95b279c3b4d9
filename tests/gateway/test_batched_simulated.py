"""Batches through the whole dispatcher, in virtual time: overload, deaths, killers, fairness, targets, sending ahead."""

import random
from collections import Counter

import pytest

from tests.gateway.test_simulated import World, poisson, route


def curve(base_s, item_s, chance=None):
    """Seconds of a batch of n, a tenth more or less."""
    return lambda size: (base_s + item_s * size) * (chance.uniform(0.9, 1.1) if chance else 1.0)


def warm(world, timeout_s=2.0, rounds=30):
    """Batches of many sizes, so that the line is known."""
    world.run(1.0)
    for number in range(rounds):
        for _ in range(1 + number % 16):
            world.send(timeout_s)
        world.run(0.5)
    world.requests.clear()


@pytest.mark.parametrize(("seed", "timeout_s"), [(1, 0.25), (2, 1.0), (3, 30.0)])
def test_at_ten_times_overload_nine_tenths_of_what_batches_can_do_are_useful_answers(seed, timeout_s):
    chance = random.Random(seed)
    world = World(route(2, batch_max=32), None, batch_s=curve(0.02, 0.001, chance))
    warm(world)
    capacity = 2 * 32 / 0.052
    poisson(world, 10 * capacity, 4.0, timeout_s, chance)
    world.run(4.0 + timeout_s + 1.0)
    good = [each for each in world.requests if each.status == 200 and each.outcomes[0][0] <= each.due_s]
    late = [each for each in world.requests if each.status in (200, 504) and each.outcomes[0][0] > each.due_s]
    busy_s = 4.0 + min(timeout_s, max(each.outcomes[0][0] - each.sent_s for each in good))
    assert len(good) / busy_s >= 0.9 * capacity
    assert len(late) <= 0.01 * len(good)
    assert world.dispatcher.quiet


def test_a_burst_on_replicas_that_nobody_measured_is_not_taken_for_one_that_is_served_singly():
    world = World(route(1, batch_max=64), None, batch_s=curve(0.1, 0.001))
    world.run(1.0)
    for _ in range(64):
        world.send(2.0)  # one by one they would take 6.4 s
    world.run(3.0)
    assert Counter(each.status for each in world.requests) == {200: 64}


def test_one_at_a_time_waits_for_nothing():
    world = World(route(1), None, batch_s=curve(0.01, 0.001))
    world.run(1.0)
    for _ in range(20):
        request = world.send(1.0)
        world.run(0.1)
        assert request.outcomes[0][0] - request.sent_s == pytest.approx(0.011, abs=1e-4)


def test_what_comes_in_one_turn_of_the_loop_goes_together():
    world = World(route(1), None, batch_s=curve(0.01, 0.001))
    warm(world)
    world.batches.clear()
    for _ in range(9):
        world.send(1.0)
    world.run(0.1)
    assert [len(batch) for batch in world.batches] == [9]


def test_a_declared_wait_gathers_a_batch_and_ends_when_it_is_full():
    world = World(route(1, batch_max=4, batch_wait_s=0.05), None, batch_s=curve(0.01, 0.0))
    warm(world)
    world.batches.clear()
    first = world.send(1.0)
    world.run(0.02)
    second = world.send(1.0)
    world.run(0.1)
    assert [len(batch) for batch in world.batches] == [2]
    assert first.outcomes[0][0] - first.sent_s == pytest.approx(0.06, abs=0.002)
    assert second.outcomes[0][0] == first.outcomes[0][0]
    for _ in range(4):
        world.send(1.0)
    world.run(0.02)
    assert [len(batch) for batch in world.batches] == [2, 4], "a full one is not held"
    world.run(1.0)
    pressed = world.send(0.04)
    world.run(0.1)
    assert pressed.status == 200, "its deadline ends the wait before"


def test_clients_have_equal_parts_of_a_batch():
    world = World(route(1, batch_max=8), None, batch_s=curve(0.05, 0.0))
    warm(world)
    world.send(5.0)
    world.run(0.01)
    world.batches.clear()
    for _ in range(40):
        world.send(5.0, client="greedy", body=b"greedy %d" % len(world.requests))
    for _ in range(8):
        world.send(5.0, client="modest", body=b"modest %d" % len(world.requests))
    world.run(2.0)
    shares = [sum(body.startswith(b"modest") for body in batch) for batch in world.batches]
    assert shares[:2] == [4, 4] and sum(shares) == 8
    assert Counter(each.status for each in world.requests) == {200: 49}


def test_clients_that_a_batch_has_no_room_for_are_first_in_the_next():
    world = World(route(1, batch_max=2), None, batch_s=curve(0.05, 0.0))
    warm(world)
    world.batches.clear()
    for client in "abc" * 6:
        world.send(5.0, client=client, body=f"{client} {len(world.requests)}".encode())
    world.run(5.0)
    served = [body[:1] for batch in world.batches for body in batch]
    assert served == [b"a", b"b", b"c"] * 6


def test_a_killer_is_found_and_takes_none_of_its_batch_with_it():
    world = World(route(3, batch_max=64), None, batch_s=curve(0.02, 0.001))
    warm(world)
    world.kills = lambda bodies: b"killer" in bodies
    world.batches.clear()
    requests = [world.send(10.0, body=b"killer" if number == 20 else None) for number in range(32)]
    world.run(0.001)
    for number in range(300):  # of others, who have their turns between those that are run again
        requests.append(world.send(10.0, client=f"other {number % 7}"))
        world.run(0.005)
    world.run(10.0)
    assert [len(batch) for batch in world.batches if b"killer" in batch] == [32, 1]
    statuses = Counter(each.status for each in requests)
    assert statuses == {200: 331, 502: 1}
    assert requests[20].status == 502
    world.executed[b"killer"] = 0
    again = world.send(2.0, body=b"killer")
    world.run(1.0)
    assert again.status == 502 and not world.executed[b"killer"], "it is quarantined"
    assert world.dispatcher.statistics().poisonous == 1
    assert world.dispatcher.quiet


def test_a_hundred_kills_under_load_cost_no_request():
    chance = random.Random(12)
    world = World(route(4, batch_max=32), None, batch_s=curve(0.004, 0.0005, chance))
    warm(world)

    def kill():
        ready = [each for each in world.replicas.values() if each.link is not None and each.link.in_service]
        if len(ready) > 1:
            chance.choice(ready).die()
        if world.clock.now() < end_s:
            world.after(0.1, kill)

    end_s = world.clock.now() + 10.0
    kill()
    poisson(world, 2000, 10.0, 2.0, chance)
    world.run(13.0)
    assert Counter(each.status for each in world.requests) == {200: len(world.requests)}
    assert all(each.outcomes[0][1].body == each.body for each in world.requests)
    assert world.dispatcher.statistics().calls.re_executed > 200
    assert world.dispatcher.quiet


def test_a_target_bounds_batches_so_that_it_is_kept():
    chance = random.Random(13)
    world = World(route(2, batch_max=256, slo_s=0.1), None, batch_s=curve(0.01, 0.002, chance))
    warm(world)
    sizes = []
    poisson(world, 600, 20.0, 30.0, chance)  # of about 850/s with batches of 28
    world.run(25.0)
    sizes = [len(batch) for batch in world.batches]
    took = sorted(each.outcomes[0][0] - each.sent_s for each in world.requests)
    assert Counter(each.status for each in world.requests) == {200: len(world.requests)}
    assert took[int(0.99 * len(took))] <= 0.1
    assert max(sizes) <= 45
    assert world.dispatcher.statistics().batches.limited_by == "target"


def test_a_full_batch_is_sent_ahead_and_one_that_could_grow_is_not():
    world = World(route(1, batch_max=8), None, batch_s=curve(0.01, 0.0))
    warm(world)
    world.run(1.0)
    link = world.replicas["m-0"].link
    for _ in range(8):
        world.send(5.0)
    world.run(0.001)
    for _ in range(7):
        world.send(5.0)
    world.run(0.001)
    assert (link.load, world.dispatcher.gate.queue.depth) == (1, 7)
    world.send(5.0)
    world.run(0.001)
    assert (link.load, world.dispatcher.gate.queue.depth) == (2, 0)
    world.run(1.0)
    assert {each.status for each in world.requests} == {200}
    assert world.dispatcher.quiet


def test_what_was_sent_ahead_to_a_replica_that_is_stuck_goes_elsewhere():
    world = World(route(1, batch_max=4), None, batch_s=curve(0.01, 0.0))
    warm(world)
    stuck = world.replicas["m-0"]
    for _ in range(4):
        world.send(5.0)
    world.run(0.001)
    stuck.hangs = True
    behind = [world.send(5.0) for _ in range(4)]
    world.run(0.001)
    assert stuck.link.load == 2
    world.dispatcher.update(route(2, batch_max=4))
    world.run(1.0)
    assert [each.status for each in behind] == [200] * 4
    assert all(world.executed[each.body] == 1 for each in behind)
