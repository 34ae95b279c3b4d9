"""The reconcile step: examples, then a seeded simulation that proves the laws at the top of the module."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest

from muleteer.control.reconcile import Condition, Plan, Seen, Spare, Wanted, plan


def seen(*rows: tuple[int, int, Condition], worn: tuple[int, ...] = ()) -> tuple[Seen, ...]:
    """Rows of (number, generation, condition)."""
    return tuple(Seen(f"m-{number}", number, generation, state, number in worn) for number, generation, state in rows)


@pytest.mark.parametrize(
    ("wanted", "replicas", "expected"),
    [
        pytest.param(Wanted(3, 1), (), Plan(start=3), id="cold start: all at once"),
        pytest.param(Wanted(2, 1), ((1, 1, "ready"), (2, 1, "starting")), Plan(), id="wait"),
        pytest.param(Wanted(2, 1), ((1, 1, "ready"), (2, 1, "failed")), Plan(), id="failed is not replaced by itself"),
        pytest.param(Wanted(4, 1), ((1, 1, "ready"),), Plan(start=3), id="scale up"),
        pytest.param(
            Wanted(1, 1),
            ((1, 1, "ready"), (2, 1, "ready"), (3, 1, "ready")),
            Plan(drain=("m-3", "m-2")),
            id="scale down: newest leave first",
        ),
        pytest.param(
            Wanted(1, 1), ((1, 1, "starting"), (2, 1, "ready")), Plan(drain=("m-1",)), id="scale down: not ready first"
        ),
        pytest.param(Wanted(1, 2), ((1, 1, "ready"),), Plan(start=1), id="one replica: surge"),
        pytest.param(Wanted(1, 2), ((1, 1, "ready"), (2, 2, "starting")), Plan(), id="one replica: wait"),
        pytest.param(Wanted(1, 2), ((1, 1, "ready"), (2, 2, "ready")), Plan(drain=("m-1",)), id="one replica: drain"),
        pytest.param(Wanted(1, 2), ((1, 1, "ready"), (2, 2, "failed")), Plan(), id="the old one keeps serving"),
        pytest.param(
            Wanted(1, 3), ((1, 1, "ready"), (2, 2, "failed")), Plan(start=1, drain=("m-2",)), id="mended after failure"
        ),
        pytest.param(
            Wanted(1, 2), ((1, 1, "starting"), (2, 2, "starting")), Plan(), id="unproven: a restarting old one stays"
        ),
        pytest.param(
            Wanted(1, 3),
            ((1, 1, "ready"), (2, 2, "starting")),
            Plan(1, ("m-2",)),
            id="mended while the broken one pauses",
        ),
        pytest.param(
            Wanted(1, 3), ((1, 1, "starting"), (2, 2, "starting")), Plan(1, ("m-2",)), id="twice changed, never ready"
        ),
        pytest.param(
            Wanted(2, 3),
            ((1, 2, "starting"), (2, 2, "ready"), (3, 1, "ready")),
            Plan(drain=("m-1",)),
            id="outdated, restarting, and enough others are ready: not waited for",
        ),
        pytest.param(Wanted(0, 0), ((1, 1, "ready"), (2, 1, "starting")), Plan(drain=("m-2", "m-1")), id="undeclared"),
        pytest.param(Wanted(2, 2), ((1, 1, "failed"), (2, 1, "failed")), Plan(2, ("m-1", "m-2")), id="all failed"),
        pytest.param(
            Wanted(2, 3),
            ((1, 1, "ready"), (2, 1, "starting"), (3, 2, "starting")),
            Plan(1, ("m-3",)),
            id="overtaken: its place goes to the newest, the proven one may come back",
        ),
        pytest.param(Wanted(1, 2), ((1, 1, "starting"),), Plan(start=1), id="never ready: the new one tries beside it"),
        pytest.param(
            Wanted(3, 2),
            ((1, 1, "ready"), (2, 1, "starting"), (3, 1, "ready"), (4, 2, "ready")),
            Plan(drain=("m-2",)),
            id="proven: outdated and not ready leaves, ready stays until replaced",
        ),
        pytest.param(
            Wanted(2, 2), ((1, 1, "ready"), (2, 1, "ready"), (3, 2, "ready")), Plan(drain=("m-1",)), id="roll: oldest"
        ),
        pytest.param(
            Wanted(1, 2), ((1, 1, "ready"), (2, 1, "ready"), (3, 1, "ready")), Plan(0, ("m-1", "m-2")), id="roll down"
        ),
    ],
)
def test_step(wanted: Wanted, replicas: tuple[tuple[int, int, Condition], ...], expected: Plan) -> None:
    assert plan(wanted, seen(*replicas)) == expected


def test_a_worn_replica_is_replaced_before_it_leaves() -> None:
    wanted = Wanted(2, 1)
    assert plan(wanted, seen((1, 1, "ready"), (2, 1, "ready"), worn=(1,))) == Plan(start=1)
    assert plan(wanted, seen((1, 1, "ready"), (2, 1, "ready"), (3, 1, "starting"), worn=(1,))) == Plan()
    assert plan(wanted, seen((1, 1, "ready"), (2, 1, "ready"), (3, 1, "ready"), worn=(1,))) == Plan(drain=("m-1",))


SPARES: tuple[Spare, ...] = ("none", "give_way", "surge")


@pytest.mark.parametrize(
    ("spare", "replicas", "expected"),
    [
        pytest.param("none", ((1, 1, "ready"),), Plan(), id="no room yet: the old one serves"),
        pytest.param(
            "give_way", ((1, 1, "ready"),), Plan(drain=("m-1",), makes_way="m-1"), id="never room: it leaves first"
        ),
        pytest.param("give_way", (), Plan(start=1), id="then the new one starts"),
        pytest.param("give_way", ((1, 1, "starting"), (2, 2, "starting")), Plan(), id="one at a time"),
        pytest.param("none", ((1, 1, "failed"),), Plan(1, ("m-1",)), id="one that failed holds no room"),
    ],
)
def test_an_update_without_room_for_two(spare: Spare, replicas: Any, expected: Plan) -> None:
    assert plan(Wanted(1, 2, spare), seen(*replicas)) == expected


class World:
    """A supervisor in virtual time: replicas load, crash at random and come back, bad generations never load."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.wanted = Wanted(self.random.randint(1, 5), 1)
        self.elastic = seed % 2 == 1  # wanted moves all the time, as with the load
        self.bad: set[int] = set()
        self.faults = True
        self.replicas: dict[str, Seen] = {}
        self.failures: dict[str, int] = {}
        self.events: list[tuple[float, int, str]] = []
        self.count = 0
        self.numbers = 0

    def later(self, delay: float, id: str) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, id))

    def put(self, id: str, **changes: object) -> None:
        old = self.replicas[id]
        self.replicas[id] = Seen(
            id, old.number, old.generation, changes.get("condition", old.condition), changes.get("worn", old.worn)
        )

    def ready(self) -> int:
        return sum(replica.condition == "ready" for replica in self.replicas.values())

    def step(self) -> None:
        before = self.ready()
        action = plan(self.wanted, tuple(self.replicas.values()))
        for id in action.drain:
            del self.replicas[id]
        self.check_drains(before, action)
        for _ in range(action.start):
            self.numbers += 1
            id = f"m-{self.numbers}"
            self.replicas[id] = Seen(id, self.numbers, self.wanted.generation, "starting")
            self.later(self.random.uniform(0.1, 3.0), id)
        if action.start:
            self.check_surge()

    def check_drains(self, before: int, action: Plan) -> None:
        least = self.wanted.replicas - (self.wanted.spare == "give_way")
        assert self.ready() == before or self.ready() >= min(before - 1, least), f"{action} at {self.now}"
        if self.wanted.spare != "give_way":
            assert self.ready() == before or self.ready() >= self.wanted.replicas, f"{action} at {self.now}"

    def check_surge(self) -> None:
        assert len(self.replicas) <= self.wanted.replicas + (self.wanted.spare == "surge")
        of_current = [r for r in self.replicas.values() if r.generation == self.wanted.generation and not r.worn]
        older_serves = any(r.condition == "ready" and r not in of_current for r in self.replicas.values())
        if older_serves and not any(r.condition == "ready" for r in of_current):
            assert len(of_current) <= 1

    def event(self) -> None:
        self.now, _, id = heapq.heappop(self.events)
        replica = self.replicas.get(id)
        if replica is None:
            return
        if replica.condition == "ready":
            if self.faults:  # a crash: restarted at once, and the wear is gone with the process
                self.put(id, condition="starting", worn=False)
                self.later(self.random.uniform(0.1, 3.0), id)
        elif replica.condition == "starting":
            self.settle(id, replica)

    def settle(self, id: str, replica: Seen) -> None:
        if replica.generation in self.bad or (self.faults and self.random.random() < 0.1):
            self.failures[id] = self.failures.get(id, 0) + 1
            if self.failures[id] >= 5:
                self.put(id, condition="failed")
            else:
                self.later(0.5 * 2 ** self.failures[id], id)
            return
        self.failures[id] = 0
        self.put(id, condition="ready")
        self.later(self.random.expovariate(1 / 20), id)

    def disturb(self) -> None:
        roll = self.random.random()
        if roll < 0.04:
            self.wanted = Wanted(self.wanted.replicas, self.wanted.generation + 1, self.wanted.spare)
            if self.random.random() < 0.5:
                self.bad.add(self.wanted.generation)
        elif roll < 0.06 or (self.elastic and roll < 0.3):
            self.wanted = Wanted(self.random.randint(0, 6), self.wanted.generation, self.wanted.spare)
        elif roll > 0.98:
            self.wanted = Wanted(self.wanted.replicas, self.wanted.generation, self.random.choice(SPARES))
        elif roll > 0.94:
            serving = [r.id for r in self.replicas.values() if r.condition == "ready"]
            if serving:
                self.put(self.random.choice(serving), worn=True)


@pytest.mark.parametrize("seed", range(150))
def test_simulation_keeps_the_laws(seed: int) -> None:
    world = World(seed)
    for _ in range(400):
        world.step()
        if world.events:
            world.event()
        world.disturb()
        assert len(world.replicas) <= 1024

    world.faults = False  # calm: the last generation starts, and nobody dies any more
    world.wanted = Wanted(world.random.randint(0, 5), world.wanted.generation + 1, world.random.choice(SPARES[1:]))
    for _ in range(2000):
        world.step()
        if not world.events:
            break
        world.event()
    world.step()
    assert [r.condition for r in world.replicas.values()] == ["ready"] * world.wanted.replicas
    assert {r.generation for r in world.replicas.values()} <= {world.wanted.generation}
    assert plan(world.wanted, tuple(world.replicas.values())) == Plan()


@pytest.mark.parametrize("seed", range(50))
def test_a_bad_generation_never_costs_a_ready_replica(seed: int) -> None:
    world = World(seed)
    world.faults = False
    while world.ready() < world.wanted.replicas:
        world.step()
        world.event()
    world.bad.add(2)
    world.wanted = Wanted(world.wanted.replicas, 2)
    for _ in range(100):
        world.step()
        if not world.events:
            break
        world.event()
        assert world.ready() == world.wanted.replicas
    assert [r.condition for r in world.replicas.values() if r.generation == 2] == ["failed"]
    assert plan(world.wanted, tuple(world.replicas.values())) == Plan()
