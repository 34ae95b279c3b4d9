"""A request for a model that no node takes: it is told so in time, and why, and does not wait until its deadline."""

import http.client
import json
import time

from muleteer.control.places import patience_s
from muleteer.engine.port import ReplicaStatus
from muleteer.supervise.process import LastExit
from tests.ray.served import RayRig

DEADLINE_S = 90.0
UNPLACED = ReplicaStatus(
    id="", backend="", generation=0, address="", state="backoff", last_exit=LastExit(reason="unplaced")
)


def ask(rig):
    """Status, headers and error of one call, and the seconds it took."""
    connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=DEADLINE_S + 30)
    began = time.monotonic()
    try:
        headers = {"Content-Type": "application/json", "x-request-timeout-ms": str(int(1000 * DEADLINE_S))}
        connection.request("POST", "/predict", json.dumps({"nonce": "n"}), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read()), time.monotonic() - began
    finally:
        connection.close()


def test_a_call_for_what_no_node_has_is_refused_with_the_reason_in_status(cluster, tmp_path):
    wish = json.dumps({"resources": {"fast_disk": 2}})
    with RayRig(cluster, tmp_path, "--ray", wish, replicas="0:1") as rig:
        status, headers, error, took_s = ask(rig)
        assert (status, error["code"], error["execution"]) == (503, "memory", "not_started")
        assert error["error"] == "no node of the cluster has room for Mule"
        assert int(headers["Retry-After"]) >= 1
        assert patience_s([UNPLACED]) <= took_s < DEADLINE_S, "the place might have come"
        assert ask(rig)[3] < patience_s([UNPLACED]), "who comes next is told at once"
        (backend,) = rig.status()["backends"]
        asked = "waits for a node with 1 CPUs, 2 fast_disk: none of 2 is that large"
        assert backend["reason"].startswith(asked), backend
        assert backend["reason"].endswith("0 fast_disk"), backend
        assert "one more takes 2 fast_disk and 0 are free" in rig.command("explain", "Mule").stdout
