"""Bodies that kill replicas. A bounded table of hashes, of one backend. Pure; must not know calls or links.

A death strikes every body that ran on the replica; the second strike is poison. Two rules keep innocent bodies out,
above all one that every client sends: a strike falls only on a call that was dispatched after the first one, so that
replicas killed together are one piece of evidence, not two; and an answer takes a lone strike back.
"""

from __future__ import annotations

from hashlib import blake2b

from muleteer.base.limits import QUARANTINE_ENTRIES_MAX, QUARANTINE_S


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


class _Strike:
    __slots__ = ("poison", "size", "struck_s")

    def __init__(self, size: int, struck_s: float) -> None:
        self.size = size
        self.struck_s = struck_s
        self.poison = False


class Quarantine:
    """Suspects and poison, oldest first. A body is hashed only where its length is that of a suspect.

    Attributes:
        strikes: the table by hash; empty almost always, which callers may check to save the call.
    """

    __slots__ = ("_entries_max", "_sizes", "strikes")

    def __init__(self, entries_max: int = QUARANTINE_ENTRIES_MAX) -> None:
        self.strikes: dict[bytes, _Strike] = {}
        self._sizes: dict[int, int] = {}
        self._entries_max = entries_max

    @property
    def poisonous(self) -> int:
        """Bodies under quarantine."""
        return sum(strike.poison for strike in self.strikes.values())

    def strike(self, body: bytes, dispatched_s: float, now: float) -> bool:
        """A replica died while it ran `body`, sent to it at `dispatched_s`. True if the body is poison now."""
        self._forget_old(now)
        digest = _digest(body)
        known = self.strikes.pop(digest, None)
        if known is None:
            known = _Strike(len(body), now)
            self._sizes[known.size] = self._sizes.get(known.size, 0) + 1
        elif dispatched_s >= known.struck_s:
            known.struck_s = now
            known.poison = True
        self.strikes[digest] = known  # at the end: the table is in the order of the last strike
        if len(self.strikes) > self._entries_max:
            self._forget(next(iter(self.strikes)))
        return known.poison

    def is_poison(self, body: bytes, now: float) -> bool:
        """Whether `body` must not be dispatched."""
        if len(body) not in self._sizes:
            return False
        self._forget_old(now)
        strike = self.strikes.get(_digest(body))
        return strike is not None and strike.poison

    def absolve(self, body: bytes) -> None:
        """`body` was answered: what it was struck for was not its doing."""
        if len(body) in self._sizes:
            digest = _digest(body)
            strike = self.strikes.get(digest)
            if strike is not None and not strike.poison:
                self._forget(digest)

    def _forget_old(self, now: float) -> None:
        while self.strikes:
            digest, strike = next(iter(self.strikes.items()))
            if now - strike.struck_s < QUARANTINE_S:
                return
            self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        size = self.strikes.pop(digest).size
        left = self._sizes[size] - 1
        if left:
            self._sizes[size] = left
        else:
            del self._sizes[size]
