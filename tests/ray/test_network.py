"""A cluster whose network is cut, and then its head is lost: what was sent there is run elsewhere, and the rest goes on."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from bench.server import wait_until
from tests.faults.load import ask
from tests.ray.cluster import RayCluster, SeparateCluster
from tests.ray.served import AWAY, RayRig, assert_all_answered

DEADLINE_S = 20.0
FOUND_S = 10.0
"""A link is dead after 3 s of silence, or 4, and this machine may be late. Else nothing would end a call there before its
deadline, and Ray, asking as the cluster of these tests does, would not know for 15 s either.
"""


@pytest.fixture(scope="module")
def parts():
    """A cluster of its own, with networks of its own where this machine allows that."""
    patient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}  # or nodes without a head end within a minute
    cluster = SeparateCluster(**patient)
    if not cluster.open_network():
        cluster.stop()
        cluster = RayCluster(**patient)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def rig(parts, tmp_path_factory):
    with RayRig(parts, tmp_path_factory.mktemp("served")) as found:
        found.wait_replicas()
        yield found


def ready(rows):
    return all(row["state"] == "ready" for row in rows.values())


def test_a_network_that_is_cut_costs_time_but_no_request(rig, parts):
    if not isinstance(parts, SeparateCluster):
        pytest.skip("no network namespaces here: needs root and iproute2")
    before = rig.rows()
    there = {id for id, row in before.items() if row["node"] == parts.second}
    assert 0 < len(there) < 4
    load = rig.load(30, 6.0, deadline_s=DEADLINE_S)
    wait_until(lambda: len(load.load.records) > 30, "calls are under way")
    parts.cut()
    found_s = wait_until(lambda: len(rig.ready_pids()) == 4 - len(there), "the links are known to be dead")
    outcomes = Counter(record.status or record.failure for record in load.finish().records)
    assert set(outcomes) == {200}, outcomes
    assert found_s < FOUND_S
    rig.wait_rows(
        lambda rows: ready(rows) and all(row["node"] == parts.head for row in rows.values()),
        "all on the node that is left",
    )
    rig.wait_replicas()


def test_the_head_is_lost_and_requests_go_on(rig, parts):
    rig.wait_rows(ready, "all are there")
    id, before = min(rig.rows().items())
    pids = rig.ready_pids()
    load = rig.load(30, 4.0, deadline_s=DEADLINE_S)
    os.kill(parts.gcs(), signal.SIGKILL)
    wait_until(lambda: "head" in rig.status()["problems"].get("ray", ""), "the problem is told", seconds=60)
    os.kill(before["pid"], signal.SIGKILL)
    restarts = before["restarts"] + 1
    rig.wait_rows(lambda rows: ready(rows) and rows[id]["restarts"] == restarts, "restarted without a head")
    assert_all_answered(load)
    assert rig.ready_pids() & pids == pids - {before["pid"]}
    (controller,) = rig.pids("controller")
    os.kill(controller, signal.SIGKILL)
    wait_until(lambda: told_by_another(rig, controller), "its successor adopts, and tells the problem too", seconds=60)

    serving = set(rig.rows())
    rig.kill(*rig.pids("controller"), rig.bridge())
    wait_until(
        lambda: seen_by_gateway(rig) == serving, "what is not known is told, and what the gateway sees", seconds=60
    )
    assert ask(rig.port).status == 200


def seen_by_gateway(rig):
    """Replicas that it has links to, while nobody has told what runs."""
    try:
        (backend,) = rig.status()["backends"]
    except AWAY:
        return None
    rows = backend["replicas"]
    return {row["id"] for row in rows if row["state"] == "ready"} if backend["state"] == "unknown" else None


def told_by_another(rig, controller):
    """Whether a controller that is not `controller` serves all replicas and says that the head is away."""
    try:
        status = rig.status()
    except AWAY:
        return False
    rows = {row["id"]: row for backend in status["backends"] for row in backend["replicas"]}
    return rig.pids("controller") != [controller] and ready(rows) and "head" in status["problems"].get("ray", "")
