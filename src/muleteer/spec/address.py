"""Where a server is reached. Must not know sockets."""

from __future__ import annotations

from typing import Final

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that mean every address of this machine → the one by which it reaches itself."""


def url_of(host: str, port: int) -> str:
    """The URL by which this machine reaches what listens on `host`, without a route."""
    host = EVERYWHERE.get(host.strip("[]"), host.strip("[]"))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
