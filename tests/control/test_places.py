"""What is asked of a cluster: its free resources are the budget, and what waits for a place is not asked for twice."""

import json

import msgspec
import pytest

from muleteer.control.allot import Allotter
from muleteer.control.autoscale import Autoscaler
from muleteer.control.fleet import Fleet
from muleteer.control.places import (
    SEEN_LATE_S,
    Reserved,
    asking,
    budget_of_cluster,
    patience_s,
    reserved,
    waits_for_place,
)
from muleteer.control.reconcile import Plan
from muleteer.control.routes import Routes
from muleteer.control.share import MEMORY_UNBOUND, Grant
from muleteer.engine.port import Capacity, ReplicaStatus
from muleteer.engine.ray.place import Node, View
from muleteer.spec.ray_options import parse_ray
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, Replicas
from muleteer.spec.snapshot import UNPLACED
from muleteer.supervise.process import LastExit


def view(**free):
    full = {"CPU": 8.0, "GPU": 2.0, "memory": 1000.0}
    gone = Node("2", "10.0.0.2", False, full, full)
    return View((Node("1", "10.0.0.1", True, full, full | free), gone))


def test_what_others_hold_is_theirs():
    capacity = view(CPU=3.0, GPU=0.5, memory=400.0).capacity()
    ours = [Reserved(2.0, 100, 0.5), Reserved(1.0, 50, 0.0)]
    budget = budget_of_cluster(capacity, ours)
    assert (budget.cores, budget.memory_bytes, budget.gpus) == (6.0, 550, 1.0)


def test_a_view_that_is_behind_promises_no_more_than_there_is():
    budget = budget_of_cluster(view().capacity(), [Reserved(6.0, 900, 2.0)])
    assert (budget.cores, budget.memory_bytes, budget.gpus) == (8.0, 1000, 2.0)


def test_resources_that_are_asked_for_by_name_are_counted_like_the_others():
    node = Node("1", "10.0.0.1", True, {"CPU": 8.0, "disk": 4.0, "node:10.0.0.1": 1.0}, {"CPU": 8.0, "disk": 1.0})
    capacity = View((node,)).capacity()
    ours = [reserved(BackendSettings(ray='{"resources":{"disk":2}}'))]
    assert ours == [Reserved(1.0, 0, 0.0, {"disk": 2.0})]
    assert budget_of_cluster(capacity, ours, ["disk", "key"]).resources == {"disk": 3.0, "key": 0.0}
    assert budget_of_cluster(capacity, [*ours, *ours], ["disk"]).resources == {"disk": 4.0}, "a view that is behind"


def test_memory_that_nobody_counts_is_no_bound():
    assert budget_of_cluster(Capacity(4.0, None, available_cpus=4.0), []).memory_bytes == MEMORY_UNBOUND


def test_one_that_says_nothing_reserves_a_core():
    assert reserved(BackendSettings()) == Reserved(1.0, 0, 0.0)
    assert reserved(BackendSettings(cpus=0.5, memory=7, gpus=2.0)) == Reserved(0.5, 7, 2.0)


@pytest.mark.parametrize(
    ("granted", "wanted", "placed", "waiting", "asked"),
    [
        (4, 4, 4, 0, 4),  # there is room for all
        (2, 6, 2, 0, 6),  # none waits: all that are missing are asked for
        (2, 9, 2, 4, 6),  # four wait: no more, whatever the load
        (3, 9, 2, 4, 6),  # nor where there seems to be room, in pieces
        (2, 3, 2, 4, 3),  # the load fell: what is wanted no more waits no more
        (2, 2, 2, 4, 2),
        (5, 2, 2, 0, 5),  # an update's surge stays
        (3, 9, 4, 0, 3),  # one is to give way: nothing is asked for
    ],
)
def test_what_waits_is_not_asked_for_twice(granted, wanted, placed, waiting, asked):
    found = asking(Grant("b", granted, "cpu", "no core is free"), wanted, placed, waiting)
    assert found.replicas == asked


def test_only_a_replica_without_a_place_waits_for_one():
    def status(state, reason):
        last_exit = LastExit(reason=reason) if reason else None
        return ReplicaStatus(id="b-1", backend="b", generation=1, address="", state=state, last_exit=last_exit)

    assert waits_for_place(status("backoff", "unplaced"))
    assert waits_for_place(status("backoff", "node_lost"))
    assert not waits_for_place(status("ready", "node_lost"))
    assert not waits_for_place(status("backoff", "import_error"))
    assert not waits_for_place(status("starting", None))


def test_a_backend_grows_beyond_a_full_cluster_once_and_comes_back():
    settings = BackendSettings(replicas=Replicas(1, 20), cpus=3.0)
    fleet = Fleet("b", {})
    fleet.declare(BackendSpec(name="b", target="m.py:M", base_dir="/", settings=settings))
    nodes = [Node(str(n), f"10.0.0.{n}", True, {"CPU": 8.0}, {"CPU": 2.0}) for n in (1, 2)]
    allotter = Allotter(lambda: View(tuple(nodes)).capacity(), Autoscaler())

    def granted(wanted):
        fleet.wanted = wanted
        return allotter.allocate(0.0, {"b": fleet}).grants["b"].replicas

    def observe(number, state, **more):
        fleet.observe(ReplicaStatus(id=f"b-{number}", backend="b", generation=1, address="", state=state, **more), 0.0)

    for number in range(1, 5):
        observe(number, "ready", node=f"10.0.0.{number % 2 + 1}")
    assert granted(4) == 4
    assert granted(7) == 7, "three more are asked for, all at once"
    for number in range(5, 8):
        observe(number, "backoff", last_exit=LastExit(reason="unplaced"))
    assert granted(12) == 7, "no more while those wait"
    assert granted(5) == 5, "and two of them need not wait any longer"
    nodes.append(Node("3", "10.0.0.3", True, {"CPU": 8.0}, {"CPU": 2.0}))
    for number in (5, 6):
        observe(number, "ready", node="10.0.0.3")
    observe(7, "gone")
    assert granted(9) == 9, "those that waited have a place: the others may be asked for"


def fleet_of(name, resources, *, least=0, state="ready", now=0.0, **more):
    """One replica that exists, on the only node."""
    settings = BackendSettings(
        replicas=Replicas(least, 1), cpus=1.0, ray=parse_ray(json.dumps({"resources": resources}))
    )
    fleet = Fleet(name, {})
    fleet.declare(BackendSpec(name=name, target="m.py:M", base_dir="/", settings=settings))
    status = ReplicaStatus(id=f"{name}-1", backend=name, generation=1, address="", state=state, **more)
    fleet.observe(status, now)
    fleet.wanted = 1
    return fleet


def test_an_idle_replica_makes_way_for_a_resource_that_it_holds():
    node = Node("1", "10.0.0.1", True, {"CPU": 8.0, "disk": 1.0}, {"CPU": 6.0, "disk": 0.0})
    fleets = {
        "idle": fleet_of("idle", {"disk": 1}, node="10.0.0.1"),
        "other": fleet_of("other", {}, node="10.0.0.1"),
        "asks": fleet_of("asks", {"disk": 1}, least=1, state="backoff", last_exit=LastExit(reason="unplaced")),
    }
    allotter = Allotter(View((node,)).capacity, Autoscaler())
    found = allotter.allocate(99.0, fleets)
    assert found.victims == ("idle-1",)
    assert found.grants["asks"].limited_by == "resource"
    told = allotter.account(99.0, fleets.values())
    assert (told.budget.resources, told.used.resources) == ({"disk": 1.0}, {"disk": 1.0})
    assert told.replicas["asks-1"].resources == {}, "it has no place yet"


def test_what_has_left_is_free_before_the_cluster_says_so():
    node = Node("1", "10.0.0.1", True, {"CPU": 8.0, "disk": 2.0}, {"CPU": 6.0, "disk": 0.0})
    fleets = {name: fleet_of(name, {"disk": 1}, node="10.0.0.1") for name in ("one", "two")}
    fleets["asks"] = fleet_of("asks", {"disk": 1}, least=1, state="backoff", last_exit=LastExit(reason="unplaced"))
    allotter = Allotter(View((node,)).capacity, Autoscaler())
    (victim,) = allotter.allocate(99.0, fleets).victims
    name = victim.partition("-")[0]
    fleets[name].wanted = 0
    (status,) = fleets[name].statuses()
    fleets[name].observe(msgspec.structs.replace(status, state="gone"), 99.5)
    after = allotter.allocate(99.5, fleets)
    assert after.victims == (), "the other one need not make way, too"
    assert after.grants["asks"].reason.startswith("1: all it wants")
    late = allotter.allocate(99.5 + SEEN_LATE_S, fleets)
    assert late.victims, "by then the cluster would have said so: somebody else has it"


def test_the_room_of_a_backend_that_is_removed_comes_too_and_nobody_else_makes_way():
    node = Node("1", "10.0.0.1", True, {"CPU": 8.0, "disk": 2.0}, {"CPU": 6.0, "disk": 0.0})
    fleets = {name: fleet_of(name, {"disk": 1}, node="10.0.0.1") for name in ("removed", "idle")}
    fleets["asks"] = fleet_of("asks", {"disk": 1}, least=1, state="backoff", last_exit=LastExit(reason="unplaced"))
    allotter = Allotter(View((node,)).capacity, Autoscaler())
    removed = fleets["removed"]
    removed.declare(None)
    assert allotter.allocate(99.0, fleets).victims == (), "as where one apply removes the one and adds the other"
    removed.leave("removed-1", 99.0)
    assert allotter.allocate(99.0, fleets).victims == ()
    (status,) = removed.statuses()
    removed.observe(msgspec.structs.replace(status, state="gone"), 99.5)
    del fleets["removed"]
    after = allotter.allocate(99.5, fleets)
    assert (after.victims, after.grants["asks"].replicas) == ((), 1)
    assert after.grants["asks"].reason.startswith("1: all it wants")


def test_more_of_a_resource_than_there_is_waits_in_words_and_nobody_makes_way():
    node = Node("1", "10.0.0.1", True, {"CPU": 8.0, "disk": 1.0}, {"CPU": 6.0, "disk": 0.0})
    fleets = {
        "idle": fleet_of("idle", {"disk": 1}, node="10.0.0.1"),
        "asks": fleet_of("asks", {"disk": 2}, least=1, state="backoff", last_exit=LastExit(reason="unplaced")),
    }
    found = Allotter(View((node,)).capacity, Autoscaler()).allocate(99.0, fleets)
    assert found.victims == ()
    assert found.grants["asks"].replicas == 1, "asked for all the same: it is what makes a cluster grow"
    assert "one more takes 2 disk and 0 are free; 1 wait for a place" in found.grants["asks"].reason


def test_calls_wait_a_while_for_a_place_and_longer_for_that_of_a_lost_node():
    def waits(reason):
        last_exit = LastExit(reason=reason)
        return ReplicaStatus(id="b-1", backend="b", generation=1, address="", state="backoff", last_exit=last_exit)

    ready = ReplicaStatus(id="b-2", backend="b", generation=1, address="", state="ready")
    unplaced, lost = waits("unplaced"), waits("node_lost")
    assert patience_s([unplaced]) > SEEN_LATE_S, "what has just left may be its own, once the cluster says so"
    assert patience_s([unplaced]) < patience_s([lost, unplaced]) == patience_s([lost])
    for others in ([], [ready], [unplaced, ready], [unplaced, waits("actor_lost")]):
        assert patience_s(others) is None


def test_calls_are_refused_once_no_replica_has_had_a_place_for_long():
    node = Node("1", "10.0.0.1", True, {"CPU": 8.0}, {"CPU": 8.0})
    allotter = Allotter(View((node,)).capacity, Autoscaler())
    fleet = fleet_of("b", {"disk": 2}, state="backoff", last_exit=LastExit(reason="unplaced", message="1 disk"))

    def refused(now):
        fleet.allot(allotter.allocate(now, {"b": fleet}), waiting=True, now=now)
        return fleet.unplaced

    def word():
        routes = Routes()
        routes.declare(Declared(backends=(fleet.backend.spec,)))
        routes.observe(fleet.backend.spec, fleet.serving(), unplaced=fleet.unplaced)
        return routes.snapshot().backends[0].unavailable

    (status,) = fleet.statuses()
    assert [refused(now) for now in (100.0, 100.0 + patience_s([status]) - 0.1)] == [False, False]
    assert word() == "asleep"
    said_anew = msgspec.structs.replace(status, last_exit=LastExit(reason="unplaced", message="0 disk"), since_s=0.0)
    fleet.observe(said_anew, 105.0)
    assert refused(100.0 + patience_s([status])), "other words do not begin it anew"
    assert word() == UNPLACED
    fleet.observe(msgspec.structs.replace(status, state="starting"), 120.0)
    assert not refused(120.0)
    fleet.observe(status, 121.0)
    assert not refused(121.0), "it had a place in between"


def test_who_lost_its_place_has_no_address_any_more_so_that_calls_count_as_a_wish():
    """A gateway tells of calls for a backend that no replica is routed for: else the wish would end as nobody called."""
    spec = BackendSpec(name="b", target="m:M", base_dir="/", settings=BackendSettings(replicas=Replicas(0, 2)))
    lost = ReplicaStatus(id="b-1", backend="b", generation=1, address="tcp:10.0.0.1:7", state="backoff")
    lost = msgspec.structs.replace(lost, last_exit=LastExit(reason="node_lost"))
    routes = Routes()
    routes.declare(Declared(backends=(spec,)))

    def routed(*replicas, unplaced):
        routes.observe(spec, replicas, unplaced=unplaced)
        (route,) = routes.snapshot().backends
        return route.unavailable, [replica.id for replica in route.replicas]

    assert routed(lost, unplaced=False) == ("asleep", ["b-1"]), "it may be back in a moment"
    assert routed(lost, unplaced=True) == (UNPLACED, [])
    starts = msgspec.structs.replace(lost, state="starting", address="tcp:10.0.0.2:7")
    assert routed(starts, unplaced=True) == ("asleep", ["b-1"]), "that none has one was decided before"


def test_an_update_on_a_full_cluster_gives_way_instead_of_waiting_for_a_place_that_never_comes():
    settings = BackendSettings(replicas=Replicas(2, 2), cpus=1.0)
    fleet = Fleet("b", {})
    fleet.declare(BackendSpec(name="b", target="m.py:M", base_dir="/", settings=settings))
    for number in (1, 2):
        fleet.observe(ReplicaStatus(id=f"b-{number}", backend="b", generation=1, address="", state="ready"), 0.0)
    fleet.declare(BackendSpec(name="b", target="new.py:M", base_dir="/", settings=settings))
    fleet.wanted = 2

    def plan(*free):
        nodes = tuple(Node(f"{n}", f"10.0.0.{n}", True, {"CPU": 2.0}, {"CPU": cpus}) for n, cpus in enumerate(free))
        fleet.allot(Allotter(View(nodes).capacity, Autoscaler()).allocate(0.0, {"b": fleet}), waiting=False, now=99.0)
        return fleet.plan()

    assert plan(0.0, 1.0) == Plan(start=1), "there is room: the new one first"
    assert plan(0.5, 0.5) == Plan(drain=("b-1",), makes_way="b-1"), "none of both has room for a whole one"
