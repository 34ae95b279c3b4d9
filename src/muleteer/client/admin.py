"""Reads the admin API on its Unix socket. Must not know what the answers mean, nor whether a server should be there."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from muleteer.base.errors import MuleteerError

TIMEOUT_S = 5.0


class AdminUnreachable(MuleteerError):
    """Nobody answers on the admin socket: there is no server, or its controller is being restarted."""


class AdminRefused(MuleteerError):
    """The admin API answered with an error; the message is its own."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("muleteer", timeout=timeout_s)  # the name goes into the Host header
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(socket_path: Path, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON that the admin API answers to GET `path`. Raises AdminUnreachable, AdminRefused."""
    connection = _UnixConnection(socket_path, timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise AdminUnreachable(f"{socket_path} does not answer: {error}") from None
    finally:
        connection.close()
    try:
        value = json.loads(body)
    except ValueError:
        raise AdminRefused(f"the admin API answered {status} to {path} without JSON") from None
    if status != http.client.OK:
        raise AdminRefused(str(value.get("error", value) if isinstance(value, dict) else value))
    return value
