"""Which link takes the next call or batch: the one that holds the fewest. Pure; must not know calls or sockets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

from muleteer.base.limits import SCATTER_MAX


class Loaded(Protocol):
    """What is read of a link."""

    @property
    def concurrency(self) -> int:
        """Its slots."""
        ...

    @property
    def load(self) -> int:
        """Calls or batches that it holds, those sent ahead included."""
        ...


L = TypeVar("L", bound=Loaded)


class Slots(Generic[L]):
    """The links in service, by load. Among equals the one that has waited longest goes first, so all stay warm.

    Attributes:
        total: C, the sum of the links' concurrency. Calls sent ahead on credit are no slots.
        credit: calls (or batches) per slot that a link may hold. 1 is late binding; more hides the round trip.
        eager: calls are sent ahead as they come, not only those that had to wait anyway.
        scattered: among equals draw lots, because other gateways choose among the same.
    """

    __slots__ = ("_levels", "_lowest", "_places", "credit", "eager", "scattered", "total")

    def __init__(self) -> None:
        self.total = 0
        self.credit = 1
        self.eager = False
        self.scattered = False
        self._levels: list[dict[L, None]] = [{}]
        self._lowest = 0  # no level under this one has a link
        self._places: dict[L, int] = {}  # the level of each link; -1: no room

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, link: object) -> bool:
        return link in self._places

    def __iter__(self) -> Iterator[L]:
        return iter(self._places)

    def has_room(self, link: L, *, beside: L) -> bool:
        """Whether it takes a call now that could go to `beside`, without waiting longer there."""
        load = self._places.get(link, -1)
        return load >= 0 and (self.eager or load < link.concurrency or load <= self._places[beside])

    @property
    def idle(self) -> int:
        """Slots without a call."""
        return sum(max(0, link.concurrency - link.load) for link in self._places)

    def add(self, link: L) -> None:
        """It takes calls from now on."""
        assert link not in self._places
        self.total += link.concurrency
        self._places[link] = -1
        self.moved(link)

    def remove(self, link: L) -> None:
        """It takes no more calls. Nothing happens to one that is not here."""
        place = self._places.pop(link, None)
        if place is not None:
            self.total -= link.concurrency
            if place >= 0:
                del self._levels[place][link]

    def other(self, fits: Callable[[L], bool], *, beside: L) -> L | None:
        """The least loaded one that fits and takes a call now that could go to `beside`; None: there is none."""
        found = (link for level in self._levels for link in level if fits(link))
        return next((link for link in found if self.has_room(link, beside=beside)), None)

    def moved(self, link: L) -> None:
        """Its load has changed. Nothing happens to one that is not here."""
        place = self._places.get(link)
        if place is None:
            return
        if place >= 0:
            del self._levels[place][link]
        load = link.load
        if load >= link.concurrency * self.credit:
            self._places[link] = -1
            return
        while load >= len(self._levels):
            self._levels.append({})
        self._levels[load][link] = None
        self._lowest = min(self._lowest, load)
        self._places[link] = load

    def extend(self, credit: int, *, eager: bool = False) -> None:
        """Change `credit` and `eager`."""
        self.eager = eager
        if credit != self.credit:
            self.credit = credit
            for link in list(self._places):
                self.moved(link)

    def next_for_new(self) -> L | None:
        """As `next`, for a call that has not waited: whichever slot is free first is better than one that is not."""
        link = self.next()
        if link is None or self.eager or link.load < link.concurrency:
            return link
        return None

    def next(self) -> L | None:
        """The link for the next call, or None if none has room."""
        levels = self._levels
        for load in range(self._lowest, len(levels)):
            if levels[load]:
                self._lowest = load
                equals = levels[load]
                if self.scattered and len(equals) > 1:
                    drawn = random.randrange(min(len(equals), SCATTER_MAX))  # noqa: S311  no secret
                    return next(islice(equals, drawn, None))
                return next(iter(equals))
        self._lowest = len(levels)
        return None
