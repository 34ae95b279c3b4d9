"""What a gateway must show to a replica that listens on a network. Must not know sockets."""

from __future__ import annotations

import hashlib
import hmac

SECRET_VARIABLE = "MULETEER_SECRET"  # noqa: S105 - its name, not a secret
"""In the environment of a replica, which takes it out; its command line could be read by everybody on the machine."""


def derive(key: bytes, replica: str) -> str:
    """The secret of one replica. Whoever has the server's key finds it again, so it need not be stored or asked for."""
    return hmac.new(key, replica.encode(), hashlib.sha256).hexdigest()


def instance_of(key: bytes) -> str:
    """A name for the server that has this key, which tells nothing about the key."""
    return hmac.new(key, b"instance", hashlib.sha256).hexdigest()[:12]
