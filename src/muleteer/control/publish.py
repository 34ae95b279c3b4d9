"""Brings the snapshot to the gateways, and into the run directory for those that start later. Must not know what is
in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from muleteer.control.gateway_link import GatewayLink, OnAbort, OnDemand
from muleteer.control.problems import Problems
from muleteer.spec.snapshot import EMPTY, Snapshot


class PublisherStatistics(msgspec.Struct, frozen=True):
    """`applied`: gateway → the revision it took; 0 while it is away. `urls`: where those elsewhere answer."""

    revision: int
    applied: dict[str, int]
    urls: dict[str, str] = {}


class Elsewhere(msgspec.Struct, frozen=True):
    """A gateway on another machine. `control`: where it is steered, with `secret`; `url`: where it answers."""

    name: str
    control: str
    url: str
    secret: str = ""


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
        self._new_link = partial(GatewayLink, problems=problems, on_applied=on_applied, on_demand=on_demand)
        self._links = [self._new_link(name, f"unix:{run_dir}/{name}.sock") for name in gateways]
        self._urls: dict[str, str] = {}
        self._last = EMPTY
        self._written = EMPTY
        self._tasks: dict[str, asyncio.Task[None]] | None = None  # by gateway; None before `open`

    def open(self) -> None:
        """Go on from the last publication, if it can be read; start dialling the gateways."""
        with suppress(OSError, msgspec.MsgspecError):  # not there at the first start; unreadable: it is replaced soon
            self._last = self._written = msgspec.json.decode(self._path.read_bytes(), type=Snapshot)
        self._tasks = {link.name: asyncio.create_task(link.run()) for link in self._links}

    def follow(self, elsewhere: Sequence[Elsewhere], on_abort: OnAbort) -> bool:
        """From now on these are the gateways beyond this machine. Whether that changed who there is: then it must be
        published, as each reckons with the others.
        """
        wanted = {each.name: each for each in elsewhere}
        known = {link.name: link for link in self._links if link.name in self._urls}
        self._urls = {each.name: each.url for each in elsewhere}
        leaving = [link for name, link in known.items() if name not in wanted or wanted[name].control != link.address]
        for link in leaving:
            self._links.remove(link)
            del known[link.name]
            self._problems.end(f"snapshot of {link.name}")
            if self._tasks is not None:
                self._tasks.pop(link.name).cancel()
        new = [each for name, each in wanted.items() if name not in known]
        for each in new:
            link = self._new_link(each.name, each.control, on_abort=on_abort, secret=each.secret)
            self._links.append(link)
            if self._tasks is not None:
                self._tasks[link.name] = asyncio.create_task(link.run())
            if self._last is not EMPTY:
                link.push(self._last)
        return bool(leaving or new)

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
        links = list(self._links)  # others may come while these answer
        found = await asyncio.gather(*(link.statistics() for link in links))
        return {link.name: each for link, each in zip(links, found, strict=True)}

    async def gateway_loads(self) -> dict[str, dict[str, Any]] | None:
        """Of each gateway what its backends were asked for since the last time. None while one is silent: replicas that
        serve its callers must not be taken for too many.
        """
        links = list(self._links)
        found = await asyncio.gather(*(link.load() for link in links))
        loads = {link.name: each for link, each in zip(links, found, strict=True) if each is not None}
        return loads if len(loads) == len(links) else None

    async def close(self) -> None:
        """Leave the gateways. They go on with what they have."""
        tasks = list((self._tasks or {}).values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def statistics(self) -> PublisherStatistics:
        """A frozen snapshot."""
        applied = {link.name: link.applied for link in self._links}
        return PublisherStatistics(self._last.revision, applied, dict(self._urls))

    def _write(self) -> None:
        """Aside, then renamed: a reader sees the old or the new one. A full disk costs only a gateway's quick start."""
        aside = self._path.with_suffix(".tmp")
        try:
            aside.touch(mode=0o600)  # it holds secrets
            aside.write_bytes(msgspec.json.encode(self._last))
            aside.replace(self._path)
        except OSError as error:
            self._problems.begin("snapshot.json", f"cannot write {self._path}: {error.strerror}")
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            return
        self._written = self._last
        self._problems.end("snapshot.json")
