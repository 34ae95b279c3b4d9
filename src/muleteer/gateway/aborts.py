"""Replicas to be killed, where no supervisor of ours is beside this gateway: told to whoever watches, kept while nobody
does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

Say = Callable[[dict[str, Any]], None]
_KEPT = 100


class Aborts:
    """Called with replica, pid and reason."""

    def __init__(self) -> None:
        self._watchers: list[Say] = []
        self._unsaid: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def __call__(self, replica: str, pid: int, reason: str) -> None:
        """Have it killed, unless that pid is gone already."""
        message = {"type": "abort", "process": replica, "pid": pid, "reason": reason}
        if not self._watchers:
            self._unsaid.append(message)
        for say in self._watchers:
            say(message)

    def watch(self, say: Say) -> None:
        """Say what nobody has heard, and from now on what comes."""
        self._watchers.append(say)
        while self._unsaid:
            say(self._unsaid.popleft())

    def unwatch(self, say: Say) -> None:
        """No more; one that does not watch is ignored."""
        if say in self._watchers:
            self._watchers.remove(say)
