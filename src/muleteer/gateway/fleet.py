"""The replicas of one backend as this gateway reaches them: dial, drain, find the hung. Must not know queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from muleteer.base.limits import HANG_GRACE_S
from muleteer.gateway.begun import SENT_AHEAD
from muleteer.gateway.call import Call
from muleteer.gateway.link import Link
from muleteer.gateway.statistics import ReplicaStatistics
from muleteer.spec.snapshot import BackendRoute, ReplicaAddress


class Dialing(Protocol):
    """What keeps a link to one address; `Dialer` in production."""

    address: ReplicaAddress
    link: Link | None

    def open(self) -> None:
        """Start."""
        ...

    def retire(self) -> None:
        """The address is routed no longer."""
        ...

    async def close(self) -> None:
        """Close now."""
        ...


class Fleet:
    """One dialer for each routed replica, and those whose replicas still answer what they have."""

    def __init__(self, new_dialer: Callable[[ReplicaAddress], Dialing]) -> None:
        self._new_dialer = new_dialer
        self._dialers: dict[str, Dialing] = {}
        self._leaving: list[Dialing] = []

    @property
    def dialers(self) -> list[Dialing]:
        """Those of routed replicas, and those that are still linked to one on its way out."""
        return [*(dialer for dialer in self._leaving if dialer.link is not None), *self._dialers.values()]

    @property
    def links(self) -> list[Link]:
        """All that are connected."""
        return [dialer.link for dialer in self.dialers if dialer.link is not None]

    @property
    def linked(self) -> bool:
        """Whether every routed replica has said that it is ready."""
        return all(dialer.link is not None and dialer.link.state == "ready" for dialer in self._dialers.values())

    def follow(self, route: BackendRoute) -> list[Link]:
        """Dial what is new and drain what vanished or moved. Returns the links that take no more calls."""
        wanted = {replica.id: replica for replica in route.replicas}
        gone = [dialer for id, dialer in self._dialers.items() if wanted.get(id) != dialer.address]
        for dialer in gone:
            del self._dialers[dialer.address.id]
        for id, address in wanted.items():
            if id not in self._dialers:
                dialer = self._dialers[id] = self._new_dialer(address)
                dialer.open()
        self._leaving = [dialer for dialer in self._leaving if dialer.link is not None] + gone
        links = [dialer.link for dialer in gone if dialer.link is not None]
        for dialer in gone:
            dialer.retire()
        return links

    def hung(self, timeout_s: float, now: float) -> list[tuple[Link, float]]:
        """Links with a call that runs longer than the backend's timeout and than its own deadline allowed, and for how
        long. Each is named once; it is condemned.
        """
        found = []
        for link in self.links:
            if link.condemned:
                continue
            for call in link.in_flight.values():
                running_s = 0.0 if call.started_s == SENT_AHEAD else now - call.started_s
                if running_s > max(timeout_s, call.deadline_s - call.dispatched_s) + HANG_GRACE_S:
                    link.condemned = True
                    found.append((link, running_s))
                    break
        return found

    def on_host(self, host: str) -> list[Link]:
        """Links to replicas on a host that has gone silent: they are condemned, each is named once."""
        found = [link for link in self.links if link.host == host and not link.condemned]
        for link in found:
            link.condemned = True
        return found

    def take_back(self, patience_s: float, now: float) -> list[Call]:
        """Calls that were sent ahead to replicas that are stuck in others, each one's newest first. Most likely nothing
        has run them.
        """
        return [call for link in self.links for call in link.take_back(patience_s, now)]

    def statistics(self) -> dict[str, ReplicaStatistics]:
        """By replica id."""
        shown = {}
        for dialer in self.dialers:
            link = dialer.link
            shown[dialer.address.id] = (
                ReplicaStatistics("connecting", None, 0)
                if link is None
                else ReplicaStatistics(link.state, link.pid or None, len(link.in_flight))
            )
        return shown
