"""From one endpoint to one of its backends: what is fixed about every call that goes there. Must not know calls."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from muleteer.gateway.exchange import Head, Response
from muleteer.gateway.versions import Version


class Mirror(Protocol):
    """Who gets copies of calls."""

    backend: str

    def offer(self, head: Head, body: bytes, response: Response) -> None:
        """A call was answered: copy it or not. Returns at once."""
        ...


B = TypeVar("B")


class Way(Generic[B]):
    """One for all calls of a version.

    Attributes:
        backend: takes them.
        version: counts their outcomes.
        mirror: None if nobody gets copies.
    """

    __slots__ = ("backend", "mirror", "version")

    def __init__(self, backend: B, version: Version, mirror: Mirror | None = None) -> None:
        self.backend = backend
        self.version = version
        self.mirror = mirror
