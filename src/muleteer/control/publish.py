"""Brings the snapshot to the gateways, and into the run directory for those that start later. Must not know what is
in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from muleteer.control.gateway_link import GatewayLink, OnDemand
from muleteer.control.problems import Problems
from muleteer.spec.snapshot import EMPTY, Snapshot


class PublisherStatistics(msgspec.Struct, frozen=True):
    """`applied`: gateway → the revision it took; 0 while it is away."""

    revision: int
    applied: dict[str, int]


class Publisher:
    """Publishes each change once, as a new revision.

    Args:
        run_dir: holds `snapshot.json` and the gateways' control sockets.
        gateways: their names.
        on_applied: called whenever a gateway took a snapshot.
        on_demand: see GatewayLink.
    """

    def __init__(
        self,
        run_dir: str,
        gateways: Iterable[str],
        problems: Problems,
        on_applied: Callable[[], None],
        on_demand: OnDemand = lambda _names: None,
    ) -> None:
        self._path = Path(run_dir, "snapshot.json")
        self._problems = problems
        self._links = [
            GatewayLink(name, f"{run_dir}/{name}.sock", problems, on_applied, on_demand) for name in gateways
        ]
        self._last = EMPTY
        self._written = EMPTY
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Go on from the last publication, if it can be read; start dialling the gateways."""
        with suppress(OSError, msgspec.MsgspecError):  # not there at the first start; unreadable: it is replaced soon
            self._last = self._written = msgspec.json.decode(self._path.read_bytes(), type=Snapshot)
        self._tasks = [asyncio.create_task(link.run()) for link in self._links]

    @property
    def last(self) -> Snapshot:
        """What was published last, perhaps by an earlier controller."""
        return self._last

    def publish(self, content: Snapshot) -> int:
        """Publish `content` (its revision is ignored) unless it is what was published last. The revision it has."""
        content = msgspec.structs.replace(content, gateways=len(self._links))
        if self._last is EMPTY or msgspec.structs.replace(content, revision=self._last.revision) != self._last:
            self._last = msgspec.structs.replace(content, revision=self._last.revision + 1)
        for link in self._links:
            link.push(self._last)
        self.retry()
        return self._last.revision

    def retry(self) -> None:
        """Write what could not be written."""
        if self._written is not self._last:
            self._write()

    def acknowledged(self, revision: int) -> bool:
        """Whether every gateway has taken this revision or a later one. One that is away has not."""
        return all(link.applied >= revision for link in self._links)

    async def gateway_statistics(self) -> dict[str, dict[str, Any] | None]:
        """Of each gateway what it counts; None for one that does not answer."""
        found = await asyncio.gather(*(link.statistics() for link in self._links))
        return {link.name: each for link, each in zip(self._links, found, strict=True)}

    async def gateway_loads(self) -> dict[str, dict[str, Any]] | None:
        """Of each gateway what its backends were asked for since the last time. None while one is silent: replicas that
        serve its callers must not be taken for too many.
        """
        found = await asyncio.gather(*(link.load() for link in self._links))
        loads = {link.name: each for link, each in zip(self._links, found, strict=True) if each is not None}
        return loads if len(loads) == len(self._links) else None

    async def close(self) -> None:
        """Leave the gateways. They go on with what they have."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def statistics(self) -> PublisherStatistics:
        """A frozen snapshot."""
        return PublisherStatistics(self._last.revision, {link.name: link.applied for link in self._links})

    def _write(self) -> None:
        """Aside, then renamed: a reader sees the old or the new one. A full disk costs only a gateway's quick start."""
        aside = self._path.with_suffix(".tmp")
        try:
            aside.write_bytes(msgspec.json.encode(self._last))
            aside.replace(self._path)
        except OSError as error:
            self._problems.begin("snapshot.json", f"cannot write {self._path}: {error.strerror}")
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            return
        self._written = self._last
        self._problems.end("snapshot.json")
