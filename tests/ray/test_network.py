"""A cluster whose network is cut, and then its head is lost: what was sent there is run elsewhere, and the rest goes on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from bench.server import wait_until
from muleteer.base.limits import LINK_SILENCE_S
from tests.faults.load import ask
from tests.ray.cluster import RayCluster, SeparateCluster
from tests.ray.served import RayRig, assert_all_answered

MARGIN_S = 2.5  # keepalive asks every second; and a machine shared with others


@pytest.fixture(scope="module")
def parts():
    """A cluster of its own, with networks of its own where this machine allows that."""
    cluster = SeparateCluster()
    if not cluster.open_network():
        cluster.stop()
        cluster = RayCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def rig(parts, tmp_path_factory):
    with RayRig(parts, tmp_path_factory.mktemp("served")) as found:
        found.wait_replicas(seconds=60)
        yield found


def ready(rows):
    return all(row["state"] == "ready" for row in rows.values())


def test_a_network_that_is_cut_costs_time_but_no_request(rig, parts):
    if not isinstance(parts, SeparateCluster):
        pytest.skip("no network namespaces here: needs root and iproute2")
    before = rig.rows()
    there = {id for id, row in before.items() if row["node"] == parts.second}
    assert 0 < len(there) < 4
    load = rig.load(60, 6.0, deadline_s=15.0)
    time.sleep(1.0)  # calls are to be under way
    parts.cut()
    begun = time.monotonic()
    wait_until(lambda: len(rig.ready_pids()) == 4 - len(there), "the links are known to be dead", seconds=30)
    found_s = time.monotonic() - begun
    outcomes = Counter(record.status or record.failure for record in load.finish().records)
    assert set(outcomes) == {200}, outcomes
    assert found_s < LINK_SILENCE_S + MARGIN_S
    rig.wait_rows(
        lambda rows: ready(rows) and all(row["node"] == parts.head for row in rows.values()),
        "all on the node that is left",
        seconds=60,
    )
    rig.wait_replicas(seconds=20)


def test_the_head_is_lost_and_requests_go_on(rig, parts):
    id, before = min(rig.rows().items())
    pids = rig.ready_pids()
    load = rig.load(60, 3.0, deadline_s=8.0)
    os.kill(parts.gcs(), signal.SIGKILL)
    wait_until(lambda: "head" in rig.status()["problems"].get("ray", ""), "the problem is told", seconds=30)
    os.kill(before["pid"], signal.SIGKILL)
    restarts = before["restarts"] + 1
    rig.wait_rows(lambda rows: ready(rows) and rows[id]["restarts"] == restarts, "restarted without a head")
    assert_all_answered(load)
    assert rig.ready_pids() & pids == pids - {before["pid"]}
    (controller,) = rig.pids("controller")
    os.kill(controller, signal.SIGKILL)
    wait_until(lambda: told_by_another(rig, controller), "its successor adopts, and tells the problem too", seconds=30)

    serving = set(rig.rows())
    rig.kill(*rig.pids("controller"), rig.bridge())
    wait_until(
        lambda: seen_by_gateway(rig) == serving, "what is not known is told, and what the gateway sees", seconds=15
    )
    assert ask(rig.port).status == 200


def seen_by_gateway(rig):
    """Replicas that it has links to, while nobody has told what runs."""
    try:
        (backend,) = rig.status()["backends"]
    except (OSError, ValueError, RuntimeError):
        return None
    rows = backend["replicas"]
    return {row["id"] for row in rows if row["state"] == "ready"} if backend["state"] == "unknown" else None


def told_by_another(rig, controller):
    """Whether a controller that is not `controller` serves all replicas and says that the head is away."""
    try:
        status = rig.status()
    except (OSError, ValueError, RuntimeError):
        return False
    rows = {row["id"]: row for backend in status["backends"] for row in backend["replicas"]}
    return rig.pids("controller") != [controller] and ready(rows) and "head" in status["problems"].get("ray", "")
