"""Links that come over a network: anybody may have opened one. Must not know sockets."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from typing import Generic, TypeVar

from muleteer.base.limits import HELLO_S_MAX, STRANGERS_MAX

_Link = TypeVar("_Link")


def is_right(shown: str, secret: str) -> bool:
    """Whether `shown` is the secret; takes as long for one wrong text as for another."""
    return hmac.compare_digest(shown.encode(), secret.encode())


class Strangers(Generic[_Link]):
    """Connections that have not shown the secret yet: few, and none for long.

    Args:
        is_stranger: whether a connection still is one; a closed one need not be.
    """

    def __init__(self, is_stranger: Callable[[_Link], bool]) -> None:
        self._is_stranger = is_stranger
        self._until_s: dict[_Link, float] = {}

    def let_in(self, link: _Link, now: float) -> bool:
        """Whether there is room for one more; then its time runs."""
        self._until_s = {each: until_s for each, until_s in self._until_s.items() if self._is_stranger(each)}
        if len(self._until_s) >= STRANGERS_MAX:
            return False
        self._until_s[link] = now + HELLO_S_MAX
        return True

    def late(self, now: float) -> list[_Link]:
        """Those whose time is over, once; they are to be closed."""
        if not self._until_s:
            return []
        found = [link for link, until_s in self._until_s.items() if until_s <= now or not self._is_stranger(link)]
        for link in found:
            del self._until_s[link]
        return [link for link in found if self._is_stranger(link)]

    def pause_ms(self, now: float) -> int | None:
        """Until the first is late; None if there is none."""
        return max(0, math.ceil((min(self._until_s.values()) - now) * 1000)) if self._until_s else None
