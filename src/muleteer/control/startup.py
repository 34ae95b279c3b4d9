"""How long backends take to start, as measured, and as what starts now lets expect. Pure; must not know engines."""

from __future__ import annotations

from typing import NamedTuple

from muleteer.engine.port import ReplicaStatus

_NEW_PART = 0.5
"""Of a start against those before: starts beside one another, or with cold disks, take longer."""


class _Begun(NamedTuple):
    backend: str
    fingerprint: str
    at_s: float


class StartUps:
    """Remembers by fingerprint: another code or other settings are measured anew."""

    def __init__(self) -> None:
        self._begun: dict[str, _Begun] = {}
        self._seconds: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def begun(self, replica: str, backend: str, fingerprint: str, now: float) -> None:
        """It was asked for."""
        self._begun[replica] = _Begun(backend, fingerprint, now)

    def observe(self, status: ReplicaStatus, now: float) -> None:
        """A replica's state. One that was not asked for by us, or is not ready at its first try, tells nothing."""
        if status.state == "starting" or (begun := self._begun.pop(status.id, None)) is None:
            return
        if status.state == "ready":
            key, seconds = begun.fingerprint, now - begun.at_s
            before = self._seconds.get(key, seconds)
            self._seconds[key] = before + _NEW_PART * (seconds - before)

    def recall(self, backend: str, seconds: float) -> None:
        """What an earlier controller knew of a backend; believed until measured."""
        self._told[backend] = seconds

    def expected_s(self, backend: str, fingerprint: str) -> float | None:
        """Seconds from demand to ready; None where nobody knows."""
        return self._seconds.get(fingerprint, self._told.get(backend))

    def foreseen_s(self, backend: str, fingerprint: str, now: float) -> float | None:
        """The same of a start under way: one that takes longer than expected is taken to need as long again as it is
        late, since nothing more is known of it (the rule of Copernicus: J. R. Gott, Nature 363, 1993). Where nothing
        was expected it is late from the beginning. Of several the oldest.
        """
        expected_s = self.expected_s(backend, fingerprint)
        begun = [each.at_s for each in self._begun.values() if each.fingerprint == fingerprint]
        late_s = now - min(begun) - (expected_s or 0.0) if begun else 0.0
        return (expected_s or 0.0) + 2 * late_s if late_s > 0 else expected_s

    @property
    def under_way(self) -> set[str]:
        """Backends of which a replica starts."""
        return {each.backend for each in self._begun.values()}
