"""What the parts of this package expect of those above them, so that imports point one way. Holds no code."""

from __future__ import annotations

from typing import Protocol

from muleteer.base.errors import RequestError
from muleteer.gateway.exchange import Application
from muleteer.gateway.http.bounds import HttpBounds
from muleteer.gateway.http.outlet import Outlet
from muleteer.gateway.http.tally import Tally


class Connection(Protocol):
    """What the server expects of a connection; see HttpProtocol."""

    read_by: float
    outlet: Outlet

    def fail(self, error: RequestError) -> None:
        """Refuse what is no request, or not yet one; nothing more is read."""
        ...

    def drain(self) -> None:
        """Close now if idle; else the answer to the last request will say so."""
        ...

    def abort(self) -> None:
        """Drop everything at once."""
        ...

    def due(self, now: float) -> None:
        """A deadline has passed, or may have."""
        ...


class Server(Protocol):
    """What a connection expects of its server; see HttpServer."""

    application: Application
    bounds: HttpBounds
    tally: Tally
    draining: bool
    date_line: bytes

    def opened(self, connection: Connection) -> None:
        """It is there: the server may refuse it."""
        ...

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        ...

    def next_request_id(self) -> str:
        """An id of our own."""
        ...
