"""How long backends take to start, as measured. Pure; must not know engines."""

from __future__ import annotations

from muleteer.engine.port import ReplicaStatus

_NEW_PART = 0.5
"""Of a start against those before: starts beside one another, or with cold disks, take longer."""


class StartUps:
    """Remembers by fingerprint: another code or other settings are measured anew."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[str, float]] = {}
        self._seconds: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def begun(self, replica: str, fingerprint: str, now: float) -> None:
        """It was asked for."""
        self._begun[replica] = fingerprint, now

    def observe(self, status: ReplicaStatus, now: float) -> None:
        """A replica's state. One that was not asked for by us, or is not ready at its first try, tells nothing."""
        if status.state == "starting" or (begun := self._begun.pop(status.id, None)) is None:
            return
        if status.state == "ready":
            key, seconds = begun[0], now - begun[1]
            before = self._seconds.get(key, seconds)
            self._seconds[key] = before + _NEW_PART * (seconds - before)

    def recall(self, backend: str, seconds: float) -> None:
        """What an earlier controller knew of a backend; believed until measured."""
        self._told[backend] = seconds

    def expected_s(self, backend: str, fingerprint: str) -> float | None:
        """Seconds from demand to ready; None where nobody knows."""
        return self._seconds.get(fingerprint, self._told.get(backend))
