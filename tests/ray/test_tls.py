"""A cluster whose own traffic is sealed: the links of our replicas are sealed as well, with the same files."""

from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace

import pytest

from muleteer.engine.ray.engine import RayEngine
from tests.certificates import authority, certificate
from tests.faults.load import ask
from tests.ray.cluster import BridgeProcess, RayCluster
from tests.ray.served import RayRig


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    signer = authority(folder)
    found = RayCluster()
    found.environment |= certificate(folder, "node", signer, ("127.0.0.1", found.head_host()))
    try:
        found.start(nodes=1)
        yield found
    finally:
        found.stop()


def test_replicas_of_a_cluster_with_tls_are_reached_through_tls_only(cluster, tmp_path):
    with RayRig(cluster, tmp_path / "served", replicas=1) as rig:
        rig.wait_replicas()
        assert ask(rig.port).status == 200
        (row,) = rig.rows().values()
        scheme, host, port = row["address"].split(":")
        assert scheme == "tls"
        with socket.create_connection((host, int(port)), 30.0) as plain:
            plain.sendall(b"x" * 16)
            assert plain.recv(64)[:1] in (b"", b"\x15"), "no answer but a TLS alert"
        done = rig.stop()
        assert done.returncode == 0, done.stderr


def test_a_server_without_the_files_says_so(tmp_path):
    nowhere = SimpleNamespace(address="127.0.0.1:1", environment={**os.environ, "RAY_USE_TLS": "1"})
    bridge = BridgeProcess(nowhere, tmp_path)

    async def live():
        said = asyncio.Event()

        def report(problem):
            if "RAY_USE_TLS is set and RAY_TLS_SERVER_CERT is not" in problem:
                said.set()

        engine = RayEngine(bridge.path, b"tls", report)
        opening = asyncio.create_task(engine.open())
        async with asyncio.timeout(60):
            await said.wait()
        opening.cancel()
        engine.close()

    try:
        asyncio.run(live())
    finally:
        bridge.close()
