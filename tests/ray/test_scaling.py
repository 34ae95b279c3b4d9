"""A backend that grows beyond the cluster, and shrinks: what has no place waits visibly and leaves no wish behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.server import wait_until
from tests.ray.served import RayRig, assert_all_answered

ASK = """
import json, ray
ray.init(address="auto", log_to_driver=False)
names = sorted(row["name"].rpartition("/")[2] for row in ray.util.list_named_actors(all_namespaces=True))
print(json.dumps([names, ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0.0)]))
"""


def held(cluster):
    """What the cluster itself knows: the names of its actors, and how many CPUs they hold."""
    there = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**cluster.environment, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert there.returncode == 0, there.stderr
    names, cpus = json.loads(there.stdout)
    return names, cpus


@pytest.fixture
def rig(cluster, tmp_path):
    with RayRig(cluster, tmp_path, "--cpus", "3", replicas=2) as found:
        found.wait_replicas()
        yield found


def test_what_has_no_place_waits_and_is_taken_back(rig, cluster):
    def states(rows):
        return sorted(row["state"] for row in rows.values())

    assert rig.command("scale", "Mule", "7", "--no-wait").returncode == 0
    rig.wait_rows(lambda rows: states(rows) == ["backoff"] * 3 + ["ready"] * 4, "as many as fit, the rest waits")
    waiting = [row["last_exit"] for row in rig.rows().values() if row["state"] == "backoff"]
    assert {each["reason"] for each in waiting} == {"unplaced"}
    assert all("waits for a node with 3 CPUs free" in each["message"] for each in waiting)
    (backend,) = rig.status()["backends"]
    assert backend["state"] == "degraded"
    load = rig.load(20, 6.0, deadline_s=30.0)  # what the one that is left can bear
    assert rig.command("scale", "Mule", "1", "--no-wait").returncode == 0
    rig.wait_rows(lambda rows: states(rows) == ["ready"], "one is left")
    assert_all_answered(load)
    left = list(rig.rows())
    wait_until(lambda: held(cluster) == (left, 3.0), "no wish is left behind", seconds=120)


LARGER = """
backends:
  Mule: {model: "model.py:Mule", replicas: 4, cpus: 4, expected: 6ms}
endpoints:
  Mule: {route: /predict, traffic: {Mule: 1}}
"""


def test_on_a_full_cluster_the_old_ones_make_way_for_more_and_smaller_ones(cluster, tmp_path):
    wait_until(lambda: held(cluster) == ([], 0.0), "the server before has left nothing", seconds=120)
    with RayRig(cluster, tmp_path, "--cpus", "8", replicas=2) as rig:
        rig.wait_replicas()
        log = rig.run_dir / "logs" / "supervisor.log"
        assert "waits for a node" not in log.read_text(), "what fills the cluster waits for nothing"
        (rig.folder / "muleteer.yaml").write_text(LARGER)
        load = rig.load(20, 12.0, deadline_s=30.0)
        applied = rig.command("apply", "muleteer.yaml")
        assert applied.returncode == 0, applied.stdout + applied.stderr
        rows = rig.rows().values()
        assert [(row["state"], row["generation"]) for row in rows] == [("ready", 2)] * 4
        assert_all_answered(load)
        assert log.read_text().count(" makes way for its replacement: there is no room for both") == 2
