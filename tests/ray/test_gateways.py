"""`gateways: every_node` on a real cluster of two nodes: an address on each, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import httpx2

from bench.server import wait_until
from tests.ray.cluster import free_port
from tests.ray.served import AWAY, PATIENCE_S, RayRig, alive
from tests.waiting import until


class EveryNode(RayRig):
    def __init__(self, cluster, folder):
        where = ("--gateways", "every_node", "--host", cluster.head_host())
        super().__init__(cluster, folder, *where, replicas=4, port=free_port())  # free on both nodes

    def probe(self, path):
        try:
            return httpx2.get(self.url + path, timeout=30).status_code
        except httpx2.HTTPError:
            return 0

    @property
    def url(self):
        lock = self.lock()
        return f"http://{lock['host']}:{lock['port']}"

    def gateways(self):
        try:
            return self.status()["gateways"]
        except AWAY:
            return {}

    def wait_gateways(self, *nodes):
        """Those of these nodes, and the server's own, as soon as they have what was published; by name."""

        def look():
            found = self.gateways()
            names = {"gateway-0", *(f"gateway@{node}" for node in nodes)}
            there = found.keys() == names and all(told["answers"] and told["revision"] for told in found.values())
            return found if there else None

        return until(look, f"gateways on {nodes}", seconds=PATIENCE_S)


def ask(url, nonce):
    answer = httpx2.post(f"{url}/predict", json={"nonce": nonce}, timeout=60)
    return answer.status_code, answer.json()


def gateway_pid(cluster):
    """Of the process that is the gateway of the second node."""
    title = f"muleteer: gateway@{cluster.second}".encode()
    found = [int(each.name) for each in Path("/proc").glob("[0-9]*") if _command(each).startswith(title)]
    return found[0] if found else None


def _command(process):
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def listens_on(pid):
    """Host and port of each of its listening TCP sockets."""
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(str(each.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [row[1].partition(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links]
    return [(socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)) for host, _, port in places]


def test_every_node_answers_and_comes_and_goes(cluster, tmp_path):
    with EveryNode(cluster, tmp_path) as rig:
        told = rig.wait_gateways(cluster.second)
        there = f"http://{cluster.second}:{rig.port}"
        assert told[f"gateway@{cluster.second}"]["url"] == there and told["gateway-0"]["url"] == rig.url
        wait_until(lambda: rig.status()["settled"], "settled", seconds=PATIENCE_S)
        wait_until(lambda: _answers(there, 0), "it serves", seconds=PATIENCE_S)
        for nonce, url in enumerate((rig.url, there)):
            status, answer = ask(url, nonce)
            assert (status, answer["nonce"]) == (200, nonce)
        assert there in rig.command("status").stdout

        # nobody without the secret is heard
        pid = gateway_pid(cluster)
        (control,) = [place for place in listens_on(pid) if place[1] != rig.port]
        for line in ({"type": "statistics"}, {"type": "hello", "secret": "guessed"}):
            with socket.create_connection(control, 30) as stranger:
                stranger.sendall(json.dumps(line).encode() + b"\n")
                assert stranger.recv(100) == b""

        # killed, it comes back on its node, and is told where the replicas are
        os.kill(pid, signal.SIGKILL)
        assert ask(rig.url, 10)[0] == 200
        wait_until(lambda: gateway_pid(cluster) not in (None, pid), "another gateway", seconds=PATIENCE_S)
        wait_until(lambda: _answers(there, 11), "it serves again", seconds=PATIENCE_S)

        # its node lost, the other serves on; another node, another gateway
        os.kill(cluster.raylet(cluster.second), signal.SIGKILL)
        try:
            rig.wait_gateways()
            assert ask(rig.url, 12)[0] == 200
            wait_until(lambda: not _answers(there, 13), "nobody answers on the lost one")
        finally:
            cluster.add_node()
        rig.wait_gateways(cluster.second)
        wait_until(lambda: _answers(there, 14), "the new node serves", seconds=PATIENCE_S)
        last = gateway_pid(cluster)
    wait_until(lambda: not alive(last), "no gateway is left", seconds=60)


def _answers(url, nonce):
    try:
        return ask(url, nonce)[0] == 200
    except httpx2.HTTPError:
        return False
