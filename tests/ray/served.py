"""`muleteer serve --engine ray` of the model under fault, and its processes: actor, host and model of each replica."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.server import wait_until
from muleteer.base.errors import MuleteerError
from muleteer.client.admin import Admin
from tests.faults.load import Background
from tests.faults.server import Rig

AWAY = (MuleteerError, OSError, ValueError, KeyError)
"""What asking raises while the controller is away, or knows nothing yet."""
PATIENCE_S = 90.0
"""Ends only a test that has failed: an actor takes seconds to start, on a machine that others use many of them."""


class RayRig(Rig):
    """Replicas are found by the pid that they told the gateway: both nodes are on this machine."""

    def __init__(self, cluster, folder, *arguments, replicas=4, **more):
        where = ("--engine", "ray", "--ray-address", cluster.address)
        super().__init__(folder, *where, *arguments, replicas=replicas, **more)
        self._env = cluster.environment | {"XDG_STATE_HOME": str(folder / "state")}

    def command(self, *arguments, timeout_s=240.0):
        return super().command(*arguments, timeout_s=timeout_s)

    def load(self, rate, seconds, *, deadline_s):
        return Background(self.port, rate=rate, seconds=seconds, deadline_s=deadline_s)

    def status(self):
        """What the controller tells, or the one that comes after it."""
        return Admin(self.run_dir / "admin.sock").get_patiently("/v1/status", patience_s=PATIENCE_S)

    def wait_replicas(self, count=None, *, without=(), seconds=PATIENCE_S, name="Mule"):
        return super().wait_replicas(count, without=without, seconds=seconds, name=name)

    def rows(self):
        """Replica id → what status tells."""
        return {row["id"]: row for backend in self.status()["backends"] for row in backend["replicas"]}

    def wait_rows(self, fits, what, seconds=PATIENCE_S):
        """Wait until all rows together `fits`. What only gateways tell, while a controller knows nothing yet, are none."""

        def look():
            try:
                rows = self.rows()
                return all(row["restarts"] is not None for row in rows.values()) and fits(rows)
            except AWAY:
                return False

        return wait_until(look, what, seconds=seconds)

    def actor(self, pid):
        """The actor that keeps the model process `pid`: parent of its host."""
        return parent(parent(pid))

    def bridge(self):
        """The pid of the bridge."""
        (found,) = [row["pid"] for row in self.status()["processes"] if row["id"] == "ray"]
        return found


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def alive(pid):
    """Whether it runs; what has ended and is not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_all_answered(load):
    """Every request of a background load, which is one of 30 requests a second for 4 s at least, got its answer."""
    records = load.finish().records
    outcomes = Counter(record.status or record.failure for record in records)
    assert set(outcomes) == {200}, outcomes
    assert len(records) > 50
