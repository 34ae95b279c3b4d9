"""What `muleteer serve` leaves for the controller in the run directory, as `declared.json`. Types only."""

from __future__ import annotations

import msgspec

from muleteer.spec.settings import Declared, ServerSettings


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One start of the server.

    Attributes:
        start_id: unique; a controller that comes back within one start does not declare the same once more.
        who, what: for the history.
        declared: what was given; None: go on with the last revision.
        server: the settings this server runs with, its port as bound, its token included; None: those in `declared`.
    """

    start_id: str
    who: str = "serve"
    what: str = "serve"
    declared: Declared | None = None
    server: ServerSettings | None = None
