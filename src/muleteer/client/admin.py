"""Speaks to the admin API, over its Unix socket or TCP. Must not know what the answers mean, nor whether a server is
expected there.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from muleteer.client.errors import AdminRefused, AdminUnreachable

TIMEOUT_S = 5.0
CHANGE_TIMEOUT_S = 60.0
"""A change waits for the disk, and for a controller that is being restarted."""
CONTROLLER_BACK_S = 5.0
"""A killed controller is promised to be back within this time."""
_POLL_S = 0.05


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("muleteer", timeout=timeout_s)  # the name goes into the Host header
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Admin:
    """One admin API. Nothing is kept open between two requests; safe for several threads.

    Args:
        place: the socket's path, or a URL `http://HOST:PORT`.
        token: for a URL.
        who: goes into the history.
    """

    def __init__(self, place: Path | str, *, token: str | None = None, who: str = "") -> None:
        self.place = place
        self._headers = {"x-muleteer-who": who or f"python:{user()}", "accept": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"

    def get(self, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
        """The JSON that it answers. Raises AdminUnreachable, AdminRefused."""
        return self._ask("GET", path, None, timeout_s)

    def get_patiently(self, path: str, *, patience_s: float = CONTROLLER_BACK_S) -> Any:
        """`get`, again and again while somebody listens but nobody answers: the controller is being restarted, and the
        supervisor holds its socket. Raises as `get`.
        """
        give_up = time.monotonic() + patience_s
        while True:
            try:
                return self.get(path)
            except AdminUnreachable:
                if time.monotonic() > give_up or not self.is_there():
                    raise
            time.sleep(_POLL_S)

    def send(self, method: str, path: str, body: Any = None, *, timeout_s: float = CHANGE_TIMEOUT_S) -> Any:
        """The JSON answer to a change; sent once. Raises AdminUnreachable, AdminRefused."""
        return self._ask(method, path, body, timeout_s)

    def is_there(self) -> bool:
        """Whether somebody listens. A controller that is being restarted is there: its socket waits for it."""
        connection = self._connection(TIMEOUT_S)
        try:
            connection.connect()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def _ask(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        connection = self._connection(timeout_s)
        sent = False
        headers = dict(self._headers)
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            connection.connect()
            sent = True
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            lost = sent and method != "GET"
            more = "; whether the change was made, the history tells" if lost else ""
            raise AdminUnreachable(f"{self.place} does not answer: {error or type(error).__name__}{more}") from None
        finally:
            connection.close()
        return _decoded(status, text, path)

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if isinstance(self.place, Path):
            return _UnixConnection(self.place, timeout_s)
        url = urlsplit(self.place)
        kinds: dict[str, type[http.client.HTTPConnection]] = {
            "http": http.client.HTTPConnection,
            "https": http.client.HTTPSConnection,
        }
        if url.scheme not in kinds or not url.hostname or url.path not in ("", "/"):
            raise AdminUnreachable(f"{self.place!r} is not the URL of an admin API: write http://HOST:PORT")
        return kinds[url.scheme](url.hostname, url.port, timeout=timeout_s)


def get(socket_path: Path, path: str, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON that the admin API answers to GET `path`. Raises AdminUnreachable, AdminRefused."""
    return Admin(socket_path).get(path, timeout_s=timeout_s)


def path_of(*parts: str) -> str:
    """`/v1/endpoints/NAME/traffic`; a name cannot leave its place."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def user() -> str:
    """Who runs this process, as far as the environment tells."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"


def _decoded(status: int, text: bytes, path: str) -> Any:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        raise AdminRefused(f"the admin API answered {status} to {path} without JSON", status=status) from None
    if 200 <= status < 300:
        return value
    if not isinstance(value, dict):
        raise AdminRefused(str(value), status=status)
    raise AdminRefused(
        str(value.get("error", value)),
        code=str(value.get("code", "")),
        status=status,
        problems=[str(problem) for problem in value.get("problems", ())],
    )
