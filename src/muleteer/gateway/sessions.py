"""Sessions as answers tell of them: where they were, and whether they moved. Must not know how a place is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from muleteer.base.limits import SESSIONS_MAX
from muleteer.gateway.split import Choice, sticky

News = Literal["new", "kept", "moved"]
"""What an answer says of its session: the first that we remember, served where it was, served elsewhere."""

_LINES: Final[dict[News, bytes]] = {
    "new": b"muleteer-affinity: new\r\n",
    "kept": b"muleteer-affinity: kept\r\n",
    "moved": b"muleteer-affinity: moved\r\n",
}


class SessionStatistics(msgspec.Struct, frozen=True):
    """`remembered` now; `moved` in all."""

    remembered: int
    moved: int


class Sessions:
    """Remembers where the latest sessions of all endpoints were. Bounded: the one unseen for longest leaves."""

    __slots__ = ("_places", "moved")

    def __init__(self) -> None:
        self._places: dict[bytes, str] = {}
        self.moved = 0

    def arrive(self, endpoint: str, session: bytes, place: str) -> News:
        """The session is served at `place`: what that means for it."""
        key = blake2b(endpoint.encode() + b"\0" + session, digest_size=16).digest()
        before = self._places.pop(key, None)
        self._places[key] = place
        if len(self._places) > SESSIONS_MAX:
            del self._places[next(iter(self._places))]
        if before is None:
            return "new"
        if before == place:
            return "kept"
        self.moved += 1
        return "moved"

    def statistics(self) -> SessionStatistics:
        """Counts since the start."""
        return SessionStatistics(remembered=len(self._places), moved=self.moved)


class Life(Protocol):
    """One life of a replica."""

    replica: str
    pid: int


L = TypeVar("L", bound=Life)


class Session:
    """That of one request.

    Args:
        choice: it has a session.
        endpoint: whose session it is; the same key elsewhere is another one.
        replica: it keeps to one replica, too.
        sessions: the memory.
    """

    __slots__ = ("_choice", "_endpoint", "_sessions", "replica")

    def __init__(self, choice: Choice, endpoint: str, *, replica: bool, sessions: Sessions) -> None:
        self._choice = choice
        self._endpoint = endpoint
        self._sessions = sessions
        self.replica = replica

    def preferred(self, ready: Iterable[L]) -> L | None:
        """Its own replica among those that are ready."""
        assert self._choice.session is not None
        return sticky(self._choice.session, ready)

    def lines(self, life: Life | None) -> bytes:
        """The header lines of its answer, which came from `life`, or from no replica.

        A place is a backend, or one life of a replica: what a model remembered ends with its process.
        """
        choice = self._choice
        assert choice.session is not None
        cookie = choice.set_cookie or b""
        if not self.replica:
            place = choice.backend
        elif life is not None:
            place = f"{life.replica} {life.pid}"
        else:
            return cookie
        return cookie + _LINES[self._sessions.arrive(self._endpoint, choice.session, place)]
