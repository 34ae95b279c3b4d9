"""What is wrong right now, by name: logged once when it begins and once when it ends, and shown in status."""

from __future__ import annotations

from muleteer.telemetry.log import log


class Problems:
    """The named boundaries report here; nothing is logged four times a second."""

    def __init__(self) -> None:
        self._current: dict[str, str] = {}

    def begin(self, name: str, message: str) -> None:
        """`name` does not work, because of `message`."""
        if self._current.get(name) != message:
            self._current[name] = message
            log("problem", name=name, message=message)

    def end(self, name: str) -> None:
        """`name` works (again)."""
        if self._current.pop(name, None) is not None:
            log("problem over", name=name)

    def statistics(self) -> dict[str, str]:
        """Name → message of all that does not work."""
        return dict(self._current)
