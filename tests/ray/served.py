"""`muleteer serve --engine ray` of the model under fault, and its processes: actor, host and model of each replica."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.server import wait_until
from tests.faults.server import Rig


class RayRig(Rig):
    """Replicas are found by the pid that they told the gateway: both nodes are on this machine."""

    def __init__(self, cluster, folder, *arguments, replicas=4):
        super().__init__(folder, "--engine", "ray", "--ray-address", cluster.address, *arguments, replicas=replicas)
        self._env = cluster.environment | {"XDG_STATE_HOME": str(folder / "state")}

    def rows(self):
        """Replica id → what status tells."""
        return {row["id"]: row for backend in self.status()["backends"] for row in backend["replicas"]}

    def wait_rows(self, fits, what, seconds=30.0):
        """Wait until all rows together `fits`. What only gateways tell, while a controller knows nothing yet, are none."""

        def look():
            try:
                rows = self.rows()
                return all(row["restarts"] is not None for row in rows.values()) and fits(rows)
            except (OSError, ValueError, KeyError, RuntimeError):
                return False  # the controller is away

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
    return Path(f"/proc/{pid}").exists()


def assert_all_answered(load):
    """Every request of a background load got its answer."""
    records = load.finish().records
    outcomes = Counter(record.status or record.failure for record in records)
    assert set(outcomes) == {200}, outcomes
    assert len(records) > 100
