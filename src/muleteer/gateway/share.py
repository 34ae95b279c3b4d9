"""How many of a backend's slots one of several gateways may reckon with. Pure; must not know links or clocks."""

from __future__ import annotations

import math

from muleteer.base.limits import SHARE_FADE_S


class Share:
    """What the others take is what replicas tell, averaged over time: SHARE_FADE_S ago weighs a third of now. Replicas
    let gateways take turns, so whoever wants it gets an equal part, however busy the others are.
    """

    __slots__ = ("_mean", "_since_s", "taken")

    def __init__(self) -> None:
        self.taken = 0
        """Slots that the calls of other gateways take now."""
        self._mean = 0.0
        self._since_s = 0.0

    def moved(self, more: int, now: float) -> None:
        """Others take so many more slots than before."""
        self._mean = self._at(now)
        self._since_s = now
        self.taken += more

    def slots(self, total: int, gateways: int, now: float) -> float:
        """Of `total`."""
        return total if gateways == 1 else max(total / gateways, total - self._at(now))

    def _at(self, now: float) -> float:
        return self.taken + (self._mean - self.taken) * math.exp((self._since_s - now) / SHARE_FADE_S)
