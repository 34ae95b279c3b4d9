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
from tests.ray.served import RayRig, alive


class EveryNode(RayRig):
    def __init__(self, cluster, folder):
        super().__init__(cluster, folder, "--gateways", "every_node", "--host", cluster.head_host(), replicas=2)

    def probe(self, path):
        try:
            return httpx2.get(self.url + path, timeout=5).status_code
        except httpx2.HTTPError:
            return 0

    @property
    def url(self):
        lock = self.lock()
        return f"http://{lock['host']}:{lock['port']}"

    def gateways(self):
        try:
            return self.status()["gateways"]
        except (OSError, ValueError, KeyError, RuntimeError):
            return {}

    def wait_gateways(self, *nodes):
        """Until those of these nodes, and the server's own, have what was published."""

        def look():
            found = self.gateways()
            names = {"gateway-0", *(f"gateway@{node}" for node in nodes)}
            return found.keys() == names and all(told["answers"] and told["revision"] for told in found.values())

        wait_until(look, f"gateways on {nodes}", seconds=60)


def ask(url, nonce):
    answer = httpx2.post(f"{url}/predict", json={"nonce": nonce}, timeout=20)
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
        rig.wait_gateways(cluster.second)
        told = rig.gateways()[f"gateway@{cluster.second}"]
        there = f"http://{cluster.second}:{rig.port}"
        assert told["url"] == there and rig.gateways()["gateway-0"]["url"] == rig.url
        wait_until(lambda: rig.status()["settled"], "settled", seconds=30)
        for nonce, url in enumerate((rig.url, there)):
            status, answer = ask(url, nonce)
            assert (status, answer["nonce"]) == (200, nonce)
        assert told["url"] in rig.command("status").stdout

        # nobody without the secret is heard
        pid = gateway_pid(cluster)
        (control,) = [place for place in listens_on(pid) if place[1] != rig.port]
        for line in ({"type": "statistics"}, {"type": "hello", "secret": "guessed"}):
            with socket.create_connection(control, 5) as stranger:
                stranger.settimeout(10)
                stranger.sendall(json.dumps(line).encode() + b"\n")
                assert stranger.recv(100) == b""

        # killed, it comes back on its node, and is told where the replicas are
        os.kill(pid, signal.SIGKILL)
        assert ask(rig.url, 10)[0] == 200
        wait_until(lambda: gateway_pid(cluster) not in (None, pid), "another gateway", seconds=20)
        wait_until(lambda: _answers(there, 11), "it serves again", seconds=20)

        # its node lost, the other serves on; another node, another gateway
        os.kill(cluster.raylet(cluster.second), signal.SIGKILL)
        rig.wait_gateways()
        assert ask(rig.url, 12)[0] == 200
        assert not _answers(there, 13)
        cluster.add_node()
        rig.wait_gateways(cluster.second)
        wait_until(lambda: _answers(there, 14), "the new node serves", seconds=30)
        last = gateway_pid(cluster)
    wait_until(lambda: not alive(last), "no gateway is left", seconds=30)


def _answers(url, nonce):
    try:
        return ask(url, nonce)[0] == 200
    except httpx2.HTTPError:
        return False
