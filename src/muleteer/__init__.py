"""muleteer: takes a plain Python class and serves it in production.

`start` and `connect` give a client of a server (docs/client.md). They are imported when they are first used: every
process of a server imports this module, too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muleteer.base.errors import MuleteerError
    from muleteer.client.aio import AsyncClient
    from muleteer.client.client import Client
    from muleteer.client.errors import (
        AdminRefused,
        AdminUnreachable,
        CallFailed,
        CannotShip,
        ServerNotStarted,
        StartFailed,
    )
    from muleteer.client.start import connect, start

__version__ = "0.1.0"

__all__ = [
    "AdminRefused",
    "AdminUnreachable",
    "AsyncClient",
    "CallFailed",
    "CannotShip",
    "Client",
    "MuleteerError",
    "ServerNotStarted",
    "StartFailed",
    "__version__",
    "connect",
    "start",
]

_HOME = {
    "AsyncClient": "client.aio",
    "Client": "client.client",
    "MuleteerError": "base.errors",
    "connect": "client.start",
    "start": "client.start",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'muleteer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"muleteer.{_HOME.get(name, 'client.errors')}"), name)
