"""A client of the admin API as a test needs it: raw enough to send what a real client would not."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 60.0) -> None:
        super().__init__("muleteer", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, status: int, body: Any, headers: dict[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    def __repr__(self) -> str:
        return f"{self.status} {self.body}"


def ask(
    where: str | tuple[str, int], method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str
) -> Answer:
    """One request on a connection of its own. Header names are given with underscores."""
    connection = UnixConnection(where) if isinstance(where, str) else http.client.HTTPConnection(*where, timeout=60)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        raw = json.dumps(body).encode()
    if raw is not None:
        fields.setdefault("content-type", "application/json")
    try:
        connection.request(method, path, raw, fields)
        answer = connection.getresponse()
        data = answer.read()
        return Answer(answer.status, json.loads(data) if data else None, {k.lower(): v for k, v in answer.getheaders()})
    finally:
        connection.close()
