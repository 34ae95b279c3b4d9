"""Updates where there is no room for old and new side by side: the old ones make way, one at a time, and never the last
of several that serve. The same on a full budget and on a full cluster.
"""

from __future__ import annotations

import msgspec
import pytest

from muleteer.control.allot import Allotter
from muleteer.control.autoscale import Autoscaler
from muleteer.control.budget import Allocation, allocate
from muleteer.control.claims import Demand, Holding
from muleteer.control.fleet import Fleet
from muleteer.control.share import Budget
from muleteer.engine.port import ReplicaStatus
from muleteer.engine.ray.place import Node, View
from muleteer.spec.settings import BackendSettings, BackendSpec
from muleteer.supervise.process import LastExit

LOAD_S, GRACE_S = 3.0, 1.0
SEEN_S = 3.0
"""So old may be what a cluster says of itself."""


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
            self.start(self.fleet.next_id(), self.fleet.backend.generation)
        self.check()
        self.least_ready = min(self.least_ready, len(self.serving()))

    def start(self, id: str, generation: int) -> None:
        self.size[id] = self.each
        self.due[id] = self.now + LOAD_S
        self.put(id, "starting", generation)

    def check(self) -> None:
        held = sum(self.size[id] for id in self.fleet.replicas)
        assert held <= self.room, f"{held} at {self.now}"

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


class OneCluster(OneMachine):
    """The same on a cluster of one node with so many CPUs: it places in the order in which it was asked, others may
    take what is free, and what it says of itself is old.
    """

    def __init__(self, room: int, replicas: int) -> None:
        self.placed: set[str] = set()
        self.others = 0
        self.seen: list[tuple[float, int, frozenset[str]]] = [(-SEEN_S, room, frozenset())]
        super().__init__(room, replicas)
        self.allotter = Allotter(self.capacity, Autoscaler())

    def declare(self, target: str, replicas: int, size: int) -> None:
        settings = BackendSettings(replicas=replicas, cpus=size)
        self.fleet.declare(BackendSpec(name="a", target=target, base_dir="/", settings=settings))
        self.fleet.wanted, self.each = replicas, size

    def capacity(self):
        _, free, _ = self.seen[0]
        return View((Node("1", "10.0.0.1", True, {"CPU": float(self.room)}, {"CPU": float(free)}),)).capacity()

    def allocation(self) -> Allocation:
        return self.allotter.allocate(self.now, {"a": self.fleet})

    def start(self, id: str, generation: int) -> None:
        self.size[id] = self.each
        self.put(id, "starting", generation)

    def step(self) -> None:
        super().step()
        replicas = self.fleet.replicas
        self.placed &= replicas.keys()
        for id in list(replicas):
            if id not in self.placed and self.fleet.leaves(id):
                self.due.setdefault(id, self.now)
            elif id not in self.placed and self.size[id] <= self.free():
                self.placed.add(id)
                self.due[id] = self.now + LOAD_S
        waiting = frozenset(replicas.keys() - self.placed)
        self.seen.append((self.now, self.free(), waiting))
        while len(self.seen) > 1 and self.seen[1][0] <= self.now - SEEN_S:
            del self.seen[0]
        told = self.seen[0][2]
        for id, each in list(replicas.items()):
            status, unplaced = each.status, LastExit(reason="unplaced")
            if status.state == "starting" and id in told:
                self.fleet.observe(status_of(status, "backoff", unplaced), self.now)
            elif status.state == "backoff" and id not in told and not self.fleet.leaves(id):
                self.fleet.observe(status_of(status, "starting", unplaced), self.now)

    def free(self) -> int:
        return self.room - self.others - sum(self.size[id] for id in self.placed if id in self.fleet.replicas)

    def check(self) -> None:
        assert self.free() >= 0


def status_of(status: ReplicaStatus, state: str, last_exit: LastExit) -> ReplicaStatus:
    return msgspec.structs.replace(status, state=state, last_exit=last_exit)


@pytest.mark.parametrize(("replicas", "room"), [(2, 200), (2, 250), (4, 400), (3, 350)])
def test_on_a_full_cluster_it_is_the_same(replicas: int, room: int) -> None:
    cluster = OneCluster(room, replicas)
    cluster.run(15)
    assert len(cluster.serving()) == replicas
    cluster.declare("new.py:M", replicas, 100)
    cluster.least_ready = replicas
    cluster.run(150)
    assert cluster.least_ready == replicas - 1
    assert cluster.fleet.settled()


@pytest.mark.parametrize(("more", "size"), [(4, 50), (8, 25), (3, 66), (4, 100), (2, 150)])
def test_on_a_full_cluster_too_numbers_and_sizes_may_change_with_the_code(more: int, size: int) -> None:
    cluster = OneCluster(200, 2)
    cluster.run(15)
    cluster.declare("new.py:M", more, size)
    cluster.least_ready = 2
    cluster.run(200)
    assert cluster.least_ready == 1
    fit = min(more, 200 // size)
    if size <= 100:
        assert len(cluster.serving()) == fit
        assert not cluster.fleet.outdated()
    else:
        assert cluster.serving() == ["a-2"], "the last that serves does not go for one that has no place beside it"


def test_the_next_does_not_make_way_while_the_cluster_has_not_said_who_got_the_place() -> None:
    cluster = OneCluster(400, 4)
    cluster.run(15)
    cluster.declare("new.py:M", 6, 100)
    cluster.least_ready = 4
    cluster.run(200)
    assert cluster.least_ready == 3
    assert len(cluster.serving()) == 4
    assert not cluster.fleet.outdated()


def test_a_single_one_makes_way_on_a_cluster_as_well() -> None:
    cluster = OneCluster(150, 1)
    cluster.run(15)
    cluster.declare("new.py:M", 1, 100)
    cluster.run(60)
    assert cluster.gave_way == ["a-1"]
    assert cluster.fleet.settled()


def test_where_others_take_what_was_given_up_the_last_one_goes_on() -> None:
    cluster = OneCluster(200, 2)
    cluster.run(15)
    cluster.declare("new.py:M", 4, 100)
    for _ in range(60):
        cluster.step()
        cluster.others = 0 if "a-1" in cluster.fleet.replicas else 100
        cluster.placed -= {"a-3"}
        cluster.due.pop("a-3", None)
    cluster.run(120)
    assert (cluster.serving(), cluster.gave_way) == (["a-2"], ["a-1"])
    cluster.others = 0
    cluster.run(120)
    assert len(cluster.serving()) == 2
    assert not cluster.fleet.outdated()
