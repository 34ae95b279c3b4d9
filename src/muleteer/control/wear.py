"""Which replicas have outgrown `max_rss`, one at a time per backend. Must not know what is done about it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from muleteer.base.limits import WEAR_AGE_S_MIN
from muleteer.engine.port import ReplicaStatus


class Measured(msgspec.Struct, frozen=True):
    """One replica with its memory. `ready_s`: seconds since it became ready, 0 if it is not."""

    replica: ReplicaStatus
    ready_s: float
    rss_bytes: int | None


class Wear:
    """Remembers the marked processes. A mark is on a pid: a replica that died and came back is as new."""

    def __init__(self) -> None:
        self._worn: dict[str, int] = {}

    def worn(self, id: str) -> bool:
        """Whether this replica is to be replaced."""
        return id in self._worn

    def examine(self, max_rss: int | None, replicas: Iterable[Measured]) -> Measured | None:
        """Look at all replicas of one backend that are not leaving; returns the one newly marked, if any."""
        replicas = list(replicas)
        for seen in replicas:
            if self._worn.get(seen.replica.id, seen.replica.pid) != seen.replica.pid:
                del self._worn[seen.replica.id]
        if max_rss is None or any(seen.replica.id in self._worn for seen in replicas):
            return None
        for seen in replicas:
            # The age bounds the churn where max_rss is less than the model needs right after loading.
            if seen.ready_s >= WEAR_AGE_S_MIN and seen.rss_bytes is not None and seen.rss_bytes > max_rss:
                assert seen.replica.pid is not None
                self._worn[seen.replica.id] = seen.replica.pid
                return seen
        return None

    def forget(self, id: str) -> None:
        """The replica is gone."""
        self._worn.pop(id, None)
