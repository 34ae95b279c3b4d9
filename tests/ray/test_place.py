"""Where a replica may go, and the sentence for the one that may not yet. Pure."""

from __future__ import annotations

import json

import pytest

from muleteer.base.errors import UsageError
from muleteer.engine.ray.key import keep_key
from muleteer.engine.ray.place import Node, View, Waiting, actor_options, demand, has_place, why_unplaced
from muleteer.spec.ray_options import parse_ray
from muleteer.spec.secret import derive, instance_of
from muleteer.spec.settings import BackendSettings


def settings(ray=None, **more):
    return BackendSettings(ray=None if ray is None else parse_ray(json.dumps(ray)), **more)


def view(*free, alive=True):
    resources = {"CPU": 4.0, "GPU": 1.0}
    return View(
        tuple(
            Node(id=f"n{number}", address=f"10.0.0.{number}", alive=alive, resources=resources, free=each)
            for number, each in enumerate(free)
        )
    )


def test_what_is_reserved():
    assert demand(settings()) == {"CPU": 1.0}
    asked = settings({"resources": {"disk": 2}}, cpus=0.5, gpus=0.25, memory=10)
    assert demand(asked) == {"CPU": 0.5, "GPU": 0.25, "memory": 10.0, "disk": 2.0}


def test_options_of_an_actor():
    assert actor_options(settings()) == {
        "num_cpus": 1.0,
        "num_gpus": 0.0,
        "resources": {},
        "scheduling_strategy": "SPREAD",
    }
    found = actor_options(settings({"placement": "pack", "node": "10.0.0.1", "resources": {"disk": 1}}, memory=10))
    assert (found["scheduling_strategy"], found["memory"]) == ("DEFAULT", 10.0)
    assert found["resources"] == {"disk": 1.0, "node:10.0.0.1": 0.001}


@pytest.mark.parametrize(
    ("wanted", "node", "cluster", "why"),
    [
        ({"CPU": 2.0}, "", view({"CPU": 2.0}, {"CPU": 0.0}), None),
        ({"CPU": 2.0}, "10.0.0.1", view({"CPU": 2.0}, {"CPU": 0.0}),
         "waits for a node with 2 CPUs free; the most that is free on one: 0 CPUs"),
        ({"CPU": 3.0}, "", view({"CPU": 2.0}, {"CPU": 2.0}),
         "waits for a node with 3 CPUs free; the most that is free on one: 2 CPUs"),
        ({"CPU": 5.0, "disk": 1.0}, "", view({}, {}),
         "waits for a node with 5 CPUs, 1 disk: none of 2 is that large; the most there is on one: 4 CPUs, 0 disk"),
        ({"CPU": 1.0}, "10.0.0.9", view({}),
         "waits for node 10.0.0.9, which is not in the cluster (10.0.0.0)"),
        ({"CPU": 1.0}, "", view({"CPU": 4.0}, alive=False),
         "waits for a node with 1 CPUs: none of 0 is that large; the most there is on one: 0 CPUs"),
        ({}, "", view({}), None),
    ],
)  # fmt: skip
def test_why_there_is_no_place(wanted, node, cluster, why):
    assert why_unplaced(wanted, node, cluster) == why


def test_one_that_only_starts_is_not_said_to_wait():
    full = view({"CPU": 0.0}, {"CPU": 0.0})
    assert why_unplaced({"CPU": 1.0}, "", full, waits=False) is None, "it has itself what is missing"
    too_large = "waits for a node with 9 CPUs: none of 2 is that large; the most there is on one: 4 CPUs"
    assert why_unplaced({"CPU": 9.0}, "", full, waits=False) == too_large


def test_of_those_who_ask_for_the_same_the_first_have_a_place():
    told = View((), (Waiting({"CPU": 0.3, "disk": 1.0}, 2), Waiting({"CPU": 1.0}, 1)))
    asked = {"disk": 1.0, "CPU": 0.30001}
    assert [told.waits(asked, later) for later in (3, 2, 1, 0)] == [False, False, True, True]
    assert told.waits({"CPU": 1.0})
    assert not told.waits({"CPU": 2.0})
    assert View().waits({"CPU": 1.0}), "Ray does not tell"


def test_a_place_is_a_node_that_has_all_of_it():
    free = [{"CPU": 4.0, "node:10.0.0.1": 1.0}, {"CPU": 1.0, "GPU": 1.0, "disk": 1.0, "node:10.0.0.2": 1.0}]
    assert has_place(settings(cpus=3.0), free)
    assert has_place(settings({"resources": {"disk": 1}}, gpus=1.0), free)
    assert not has_place(settings({"resources": {"disk": 1}}, cpus=2.0), free)
    assert not has_place(settings(memory=10), free)
    assert not has_place(settings({"node": "10.0.0.2"}, cpus=2.0), free)
    assert has_place(settings({"node": "10.0.0.1"}, cpus=2.0), free)


def test_capacity_counts_living_nodes():
    nodes = (*view({}, {}).nodes, Node(id="gone", address="10.0.0.7", alive=False, resources={"CPU": 64.0}))
    capacity = View(nodes).capacity()
    assert (capacity.cpus, capacity.memory_bytes) == (8.0, None)
    assert capacity.gpus == ("10.0.0.0/0", "10.0.0.1/0")


def test_capacity_counts_what_nodes_have_by_other_names():
    nodes = tuple(
        Node(id=str(n), address="a", alive=True, resources={"CPU": 1, "disk": 2, "object_store_memory": 9}, free=free)
        for n, free in enumerate(({"disk": 0.5}, {"CPU": 1, "disk": 2}))
    )
    capacity = View(nodes).capacity()
    assert (capacity.resources, capacity.available_resources) == ({"disk": 4}, {"disk": 2.5})


@pytest.mark.parametrize(
    "text",
    ["pack", "[]", '{"placement": "tight"}', '{"nodes": "a"}', '{"resources": {"a": 0}}', '{"resources": {"GPU": 1}}'],
)
def test_options_that_are_none_are_refused(text):
    with pytest.raises(ValueError):
        parse_ray(text)


def test_options_have_one_form():
    assert parse_ray('{"node": "a", "placement": "spread"}') == parse_ray('{ "node":"a" }') == '{"node":"a"}'


def test_the_key_is_kept_where_it_can_be(tmp_path):
    state, run = tmp_path / "state", tmp_path / "run"
    key = keep_key([state, run])
    assert keep_key([state, run]) == key
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/ray.key")} == {0o600}
    (state / "ray.key").write_bytes(b"torn")
    assert keep_key([state, run]) == key, "from the other place"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        keep_key([tmp_path / "file" / "under"])


def test_secrets_differ_by_replica_and_key_and_tell_nothing_of_either():
    assert len({derive(b"a", "m-1"), derive(b"a", "m-2"), derive(b"b", "m-1"), instance_of(b"a")}) == 4
    assert derive(b"a", "m-1") == derive(b"a", "m-1")
