"""One line per event on stderr, which the supervisor collects. Values are escaped: no client can forge a line."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=repr)


def log(event: str, **fields: Any) -> None:
    """Write `event` (a few plain words) and `fields` (escaped as JSON). Never raises: it must not fail a request."""
    parts = [time.strftime("%Y-%m-%dT%H:%M:%S"), event]
    parts += [f"{name}={_encoder.encode(value).decode()}" for name, value in fields.items()]
    try:
        sys.stderr.write(" ".join(parts) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # the pipe is gone or closed: the supervisor is ending us
        pass
