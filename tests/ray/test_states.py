"""What an actor may meet is a visible state with a reason, and ends when the reason does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from muleteer.base.limits import LOG_FILE_BYTES_MAX
from muleteer.engine.port import ReplicaRequest
from muleteer.engine.ray.engine import RayEngine
from muleteer.spec.ray_options import parse_ray
from muleteer.spec.settings import BackendSettings
from tests.ray.cluster import SECOND, BridgeProcess
from tests.ray.served import alive, parent
from tests.waiting import until

KEY = b"states"
GOOD = "class Model:\n    def predict(self):\n        return 1\n"


@pytest.fixture(scope="module")
def bridge(cluster, tmp_path_factory):
    found = BridgeProcess(cluster, tmp_path_factory.mktemp("bridge"))
    yield found
    found.close()


class Watched:
    def __init__(self, engine):
        self.engine = engine
        self.now = {}
        self._changed = asyncio.Event()

    def start(self, wanted):
        self.now[wanted.id] = self.engine.start(wanted)

    async def follow(self):
        async for status in self.engine.changes():
            self.now[status.id] = status
            self._changed.set()

    async def until(self, fits, seconds=120.0):
        """The time is generous: it only ends a test that has failed."""
        async with asyncio.timeout(seconds):
            while not fits(self.now):
                self._changed.clear()
                await self._changed.wait()

    async def until_told(self, id, state, reason):
        """The message that goes with it; before there may be another reason, if this machine is late."""
        await self.until(lambda now: (now[id].state, told_reason(now[id])) == (state, reason))
        return self.now[id].last_exit.message


@asynccontextmanager
async def watched(bridge):
    problems = []
    watch = Watched(RayEngine(bridge.path, KEY, problems.append))
    watch.now |= {status.id: status for status in await watch.engine.open()}
    task = asyncio.create_task(watch.follow())
    try:
        yield watch
        left = [id for id, status in watch.now.items() if status.state != "gone"]
        for id in left:
            watch.engine.stop(id)
        await watch.until(lambda now: all(now[id].state == "gone" for id in left))
    finally:
        watch.engine.close()
        await task


def request(folder, id, source=GOOD, **settings):
    name = id.rpartition("-")[0]
    (folder / f"{name}.py").write_text(source)
    return ReplicaRequest(
        id=id,
        backend=name,
        generation=1,
        target=f"{name}.py:Model",
        base_dir=str(folder),
        settings=BackendSettings(**settings),
    )


def told_reason(status):
    return status.last_exit.reason if status.last_exit is not None else None


def test_no_node_is_large_enough(bridge, tmp_path):
    async def test():
        async with watched(bridge) as watch:
            watch.start(request(tmp_path, "large-1", cpus=99.0, gpus=1.0))
            assert await watch.until_told("large-1", "backoff", "unplaced") == (
                "waits for a node with 99 CPUs, 1 GPUs: none of 2 is that large; the most there is on one: 8 CPUs, 0 GPUs"
            )

    asyncio.run(test())


def test_the_cluster_is_full_until_something_leaves(bridge, tmp_path):
    async def test():
        async with watched(bridge) as watch:
            for number in (1, 2, 3):
                watch.start(request(tmp_path, f"half-{number}", cpus=5.0))
            await watch.until(lambda now: [s.state for s in now.values()].count("ready") == 2)
            await watch.until(lambda now: [s.state for s in now.values()].count("backoff") == 1)
            (waiting,) = [status for status in watch.now.values() if status.state == "backoff"]
            assert waiting.last_exit.message.startswith("waits for a node with 5 CPUs free;")
            leaving = next(status.id for status in watch.now.values() if status.state == "ready")
            watch.engine.stop(leaving)
            await watch.until(lambda now: now[waiting.id].state == "ready")

    asyncio.run(test())


def test_a_node_may_be_named(bridge, tmp_path):
    async def test():
        async with watched(bridge) as watch:
            here = parse_ray(json.dumps({"node": SECOND}))
            nowhere = parse_ray(json.dumps({"node": "10.9.9.9"}))
            watch.start(request(tmp_path, "here-1", cpus=0.1, ray=here))
            watch.start(request(tmp_path, "nowhere-1", cpus=0.1, ray=nowhere))
            await watch.until(lambda now: now["here-1"].state == "ready")
            assert watch.now["here-1"].node == SECOND
            message = await watch.until_told("nowhere-1", "backoff", "unplaced")
            assert message.startswith("waits for node 10.9.9.9, which is not in the cluster (")

    asyncio.run(test())


def test_what_is_missing_is_told_with_the_name_of_the_node(bridge, tmp_path):
    async def test():
        async with watched(bridge) as watch:
            watch.start(request(tmp_path, "lacking-1", "import no_such_package\n", cpus=0.1))
            pip = parse_ray(json.dumps({"runtime_env": {"working_dir": str(tmp_path / "nothing_here.zip")}}))
            watch.start(request(tmp_path, "refused-1", cpus=0.1, ray=pip))
            await watch.until(lambda now: told_reason(now["lacking-1"]) == "import_error")
            lacking = watch.now["lacking-1"]
            assert "no_such_package" in lacking.last_exit.message
            assert lacking.last_exit.message.endswith(f"(on node {lacking.node})")
            await watch.until(lambda now: now["refused-1"].state == "failed")
            refused = watch.now["refused-1"].last_exit
            assert refused.reason == "ray_refused"
            assert "nothing_here.zip" in refused.message

    asyncio.run(test())


def test_serve_ends_if_a_model_starts_nowhere(cluster, tmp_path):
    (tmp_path / "model.py").write_text("import no_such_package\n" + GOOD)
    address = ["--engine", "ray", "--ray-address", cluster.address, "--port", "0", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "muleteer.cli", "serve", "model.py:Model", *address],
        cwd=tmp_path,
        env=cluster.environment | {"XDG_STATE_HOME": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 6, done.stdout + done.stderr
    assert "ready after" not in done.stdout
    assert "cannot serve model.py:Model: import_error: " in done.stderr
    assert "no_such_package" in done.stderr


EXTRA = """
import os

from extra_words import WORD

class Model:
    def __init__(self):
        assert (WORD, os.environ["GIVEN"]) == ("shipped", "said")

    def predict(self):
        return 1
"""


def test_modules_and_variables_reach_the_node_from_beside_the_model(bridge, tmp_path):
    module = tmp_path / "modules" / "extra_words"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("WORD = 'shipped'\n")
    wished = {"py_modules": ["modules/extra_words"], "env_vars": {"GIVEN": "said"}}

    async def test():
        async with watched(bridge) as watch:
            asked = parse_ray(json.dumps({"runtime_env": wished}))
            watch.start(request(tmp_path, "extra-1", EXTRA, cpus=0.1, ray=asked))
            await watch.until(lambda now: now["extra-1"].state in ("ready", "failed"))
            assert watch.now["extra-1"].state == "ready", watch.now["extra-1"].last_exit

    asyncio.run(test())


LOUD = """
class Model:
    def __init__(self):
        for _ in range(40):
            print(("loud " * 200 + "\\n") * 1024)

    def predict(self):
        return 1
"""


def test_what_has_not_changed_is_uploaded_once(bridge, tmp_path):
    """Told by what the bridge writes: an upload begins with an archive of the folder."""
    weights = 8_000_000
    (tmp_path / "weights.bin").write_bytes(os.urandom(weights))

    def written():
        (line,) = (line for line in Path(f"/proc/{bridge.process.pid}/io").read_text().splitlines() if "wchar" in line)
        return int(line.split()[1])

    async def test():
        async with watched(bridge) as watch:

            async def start(id, source=GOOD):
                before = written()
                watch.start(request(tmp_path, id, source, cpus=0.1))
                await watch.until(lambda now: now[id].state == "ready")
                return written() - before

            assert await start("upload-1") > weights
            assert await start("upload-2") < weights / 4
            watch.engine.stop("upload-1")
            await watch.until(lambda now: now["upload-1"].state == "gone")
            assert await start("upload-3") < weights / 4
            assert await start("upload-4", GOOD.replace("return 1", "return 2")) > weights

    asyncio.run(test())


def test_what_a_model_prints_does_not_fill_the_disk_of_its_node(bridge, cluster, tmp_path):
    async def test():
        async with watched(bridge) as watch:
            watch.start(request(tmp_path, "loud-1", LOUD, cpus=0.1))
            await watch.until(lambda now: now["loud-1"].state == "ready")
            return parent(parent(watch.now["loud-1"].pid))

    actor = asyncio.run(test())
    until(lambda: not alive(actor), "nothing is written any more")
    logs = [file for file in (cluster.folder / "session_latest" / "logs").glob("worker-*") if b"loud" in head(file)]
    assert 0 < sum(file.stat().st_size for file in logs) <= 2 * LOG_FILE_BYTES_MAX


def head(file):
    with file.open("rb") as opened:
        return opened.read(4096)


def test_a_replica_is_adopted_by_the_bridge_that_follows(bridge, tmp_path):
    async def test():
        async with watched(bridge) as watch:
            watch.start(request(tmp_path, "kept-1", cpus=0.1))
            watch.start(request(tmp_path, "waiting-1", cpus=99.0))
            await watch.until(lambda now: now["kept-1"].state == "ready" and now["waiting-1"].state == "backoff")
            before = watch.now["kept-1"]
            await asyncio.to_thread(bridge.kill)
            watch.engine.stop("waiting-1")  # to a bridge that is not there
            bridge.start()
            await watch.until(lambda now: now["waiting-1"].state == "gone")
            after = watch.now["kept-1"]
            assert (after.pid, after.address, after.restarts) == (before.pid, before.address, before.restarts)

    asyncio.run(test())


def test_another_version_is_refused_by_the_host(tmp_path):
    config = {
        "version": "0.0.1",
        "request": msgspec.to_builtins(request(tmp_path, "m-1")),
        "secret": "s",
        "shipped": False,
        "folder": str(tmp_path),
        "address": "127.0.0.1",
    }
    told = subprocess.run(
        [sys.executable, "-m", "muleteer.engine.ray.host"],
        input=json.dumps(config).encode() + b"\n",
        capture_output=True,
        timeout=90,
        env=dict(os.environ),
    )
    row = json.loads(told.stdout)
    assert (row["state"], row["last_exit"]["reason"]) == ("failed", "unfit_node")
    assert row["last_exit"]["message"].endswith("the server 0.0.1: install the same on every node")
