"""Updates where there is no room for old and new side by side: the old ones make way, one at a time, and never the last
of several that serve. The same on a full budget and on a full cluster.
"""

from __future__ import annotations

import pytest

from muleteer.control.budget import Allocation, allocate
from muleteer.control.claims import Demand, Holding
from muleteer.control.fleet import Fleet
from muleteer.control.share import Budget
from muleteer.engine.port import ReplicaStatus
from muleteer.spec.settings import BackendSettings, BackendSpec

LOAD_S, GRACE_S = 3.0, 1.0


class OneMachine:
    """One backend on a machine of so many bytes, in virtual time: a replica loads, and one that leaves finishes."""

    def __init__(self, room: int, replicas: int) -> None:
        self.now = 0.0
        self.room = room
        self.size: dict[str, int] = {}
        self.due: dict[str, float] = {}
        self.least_ready = 1000
        self.gave_way: list[str] = []
        self.fleet = Fleet("a", {})
        self.declare("old.py:M", replicas, 100)

    def declare(self, target: str, replicas: int, size: int) -> None:
        settings = BackendSettings(replicas=replicas, memory=size)
        self.fleet.declare(BackendSpec(name="a", target=target, base_dir="/", settings=settings))
        self.fleet.wanted, self.each = replicas, size

    def allocation(self) -> Allocation:
        fleet = self.fleet
        holdings = [
            Holding(
                backend="a",
                replica=id,
                state="leaving" if fleet.leaves(id) else each.status.state,
                memory_bytes=self.size[id],
                ready_s=9.0 if each.status.state == "ready" else 0.0,
            )
            for id, each in fleet.replicas.items()
        ]
        surge = 1 if fleet.outdated() else 0
        wanted = fleet.wanted
        asked = Demand(backend="a", wanted=wanted, least=wanted, surge=surge, memory_bytes=self.each)
        return allocate([asked], holdings, Budget(self.room, 8, 0))

    def put(self, id: str, state: str, generation: int) -> None:
        self.fleet.observe(ReplicaStatus(id=id, backend="a", generation=generation, address="", state=state), self.now)

    def step(self) -> None:
        self.now += 0.5
        for id, at in list(self.due.items()):
            if self.now < at:
                continue
            del self.due[id]
            leaves = self.fleet.leaves(id)
            self.put(id, "gone" if leaves else "ready", self.fleet.replicas[id].status.generation)
        self.fleet.allot(self.allocation(), waiting=False, now=self.now)
        action = self.fleet.plan()
        for id in action.drain:
            self.fleet.leave(id, self.now)
            self.due[id] = self.now + GRACE_S
        if action.makes_way:
            self.gave_way.append(action.makes_way)
        assert self.fleet.backend is not None
        for _ in range(action.start):
            id = self.fleet.next_id()
            self.size[id] = self.each
            self.due[id] = self.now + LOAD_S
            self.put(id, "starting", self.fleet.backend.generation)
        held = sum(self.size[id] for id in self.fleet.replicas)
        assert held <= self.room, f"{held} at {self.now}"
        self.least_ready = min(self.least_ready, len(self.serving()))

    def serving(self) -> list[str]:
        rows = self.fleet.replicas.items()
        return [id for id, each in rows if each.status.state == "ready" and not self.fleet.leaves(id)]

    def run(self, seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            self.step()


@pytest.mark.parametrize(("replicas", "room"), [(2, 200), (2, 250), (4, 400), (3, 350)])
def test_one_at_a_time_and_never_the_last_of_several(replicas: int, room: int) -> None:
    machine = OneMachine(room, replicas)
    machine.run(10)
    assert len(machine.serving()) == replicas
    machine.declare("new.py:M", replicas, 100)
    machine.least_ready = replicas
    machine.run(60)
    assert machine.least_ready == replicas - 1
    assert machine.fleet.settled()
    assert len(machine.gave_way) == replicas


@pytest.mark.parametrize(("more", "size"), [(4, 50), (8, 25), (3, 66), (4, 100), (1, 200)])
def test_numbers_and_sizes_that_change_with_the_code_hold_nothing_up(more: int, size: int) -> None:
    machine = OneMachine(200, 2)
    machine.run(10)
    machine.declare("new.py:M", more, size)
    machine.least_ready = 2
    machine.run(90)
    assert machine.least_ready >= (1 if size <= 100 else 0)
    assert len(machine.serving()) == min(more, 200 // size)
    assert not machine.fleet.outdated()


def test_a_single_one_makes_way_as_well_and_it_is_told() -> None:
    machine = OneMachine(150, 1)
    machine.run(10)
    machine.declare("new.py:M", 1, 100)
    machine.run(30)
    assert machine.gave_way == ["a-1"]
    assert machine.fleet.settled()


def test_where_there_is_room_nobody_makes_way() -> None:
    machine = OneMachine(300, 2)
    machine.run(10)
    machine.declare("new.py:M", 2, 100)
    machine.least_ready = 2
    machine.run(60)
    assert (machine.least_ready, machine.gave_way) == (2, [])
    assert machine.fleet.settled()
