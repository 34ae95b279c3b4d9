"""Where a call comes from, as far as its end must know: whom it counts for, whose session it is, who gets a copy."""

from __future__ import annotations

from typing import Protocol

from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.sessions import Session
from muleteer.gateway.versions import Version


class Mirror(Protocol):
    """Who gets copies of calls."""

    backend: str

    def offer(self, head: Head, body: bytes, response: Response) -> None:
        """A call was answered: copy it or not. Returns at once."""
        ...


class Origin:
    """One for all calls of a version, unless they have sessions.

    Attributes:
        version: counts the outcome.
        session: None without affinity.
        mirror: None if nobody gets copies.
    """

    __slots__ = ("mirror", "session", "version")

    def __init__(self, version: Version, session: Session | None = None, mirror: Mirror | None = None) -> None:
        self.version = version
        self.session = session
        self.mirror = mirror
