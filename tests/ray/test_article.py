"""The article's last program on today's Ray Serve and on muleteer: same cluster, same request, same answer."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import muleteer
from tests.ray.cluster import free_port
from tests.waiting import until

PROGRAMS = Path(__file__).parents[2] / "examples" / "article"
ASKED = {"text": "tadaaam"}
ANSWER = "Can't tell anything smart about: tadaaam"
STOP_SERVE = "import ray; from ray import serve; ray.init(address='auto', log_to_driver=False); serve.shutdown()"


def run(cluster, program, **environment):
    done = subprocess.run(
        [sys.executable, *program],
        env={**cluster.environment, "RAY_ADDRESS": cluster.address, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def asked(port):
    """Content type and body of what curl would get."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        data=json.dumps(ASKED).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["content-type"], answer.read()


def placed(client):
    """Of each replica, whether it has a node."""
    return [bool(row["node"]) for row in client.status()["backends"][0]["replicas"]]


def test_the_articles_program_answers_the_same(cluster, tmp_path):
    serve, ours = free_port(), free_port()
    try:
        run(cluster, [str(PROGRAMS / "on_ray_serve.py")], PORT=str(serve))
        theirs = asked(serve)
    finally:
        run(cluster, ["-c", STOP_SERVE])
    run_dir = tmp_path / "run"
    places = {"MULETEER_RUN_DIR": str(run_dir), "MULETEER_STATE_DIR": str(tmp_path / "state")}
    try:
        run(cluster, [str(PROGRAMS / "on_muleteer.py")], PORT=str(ours), MULETEER_ENGINE="ray", **places)
        client = muleteer.connect(run_dir)
        until(lambda: placed(client) == [True, True], "both are on nodes of the cluster", seconds=90)
        assert asked(ours) == theirs
        assert json.loads(theirs[1]) == ANSWER
    finally:
        muleteer.connect(run_dir).shutdown()
