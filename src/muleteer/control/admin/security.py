"""Who may speak to the admin API at all, decided before anything else is read. Must not know what is asked.

On the Unix socket the file's mode decides who can connect; a web page cannot. On TCP it takes the token, and a Host
that is ours, against pages that have their own name resolve to this machine. Anywhere a request that a foreign page
caused is refused whatever its method: also a GET has a cost, and its answer may be read through a flaw elsewhere.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is refused."""

    status: int
    code: str
    error: str


class Gate:
    """What one listener lets in.

    Args:
        hosts: what may stand in Host, lower case; None: anything, nobody can be lured here.
        token: what must stand in Authorization; None: nothing.
    """

    def __init__(self, hosts: frozenset[str] | None = None, token: str | None = None) -> None:
        self._hosts = hosts
        self._token = token.encode() if token is not None else None

    def check(self, headers: list[tuple[bytes, bytes]]) -> Refusal | None:
        """Why a request with these headers (names in lower case) is refused; None if it is not."""
        origins = _all(headers, b"origin")
        if origins and (self._hosts is None or not all(_host_of(origin) in self._hosts for origin in origins)):
            return Refusal(403, "foreign_origin", "requests of web pages from elsewhere are refused")
        hosts = _all(headers, b"host")
        if self._hosts is not None and (len(hosts) != 1 or hosts[0].lower() not in self._hosts):
            return Refusal(403, "bad_host", "the Host of the request is not one of this server's")
        if self._token is not None:
            given = _all(headers, b"authorization")
            if len(given) != 1 or not self._is_token(given[0]):
                return Refusal(401, "unauthorized", "a bearer token is needed: Authorization: Bearer TOKEN")
        return None

    def _is_token(self, text: str) -> bool:
        scheme, _, token = text.partition(" ")
        assert self._token is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), self._token)


def tcp_gate(host: str, port: int, token: str) -> Gate:
    """The gate of a TCP listener that is known as `host`."""
    shown = f"[{host}]" if ":" in host else host
    return Gate(frozenset(f"{name.lower()}:{port}" for name in (shown, *_LOCAL)), token)


class Guarded:
    """An application behind a gate."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        refusal = self._gate.check(scope["headers"]) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
        content = {"error": refusal.error, "code": refusal.code}
        await JSONResponse(content, refusal.status, headers)(scope, receive, send)


def _all(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _host_of(origin: str) -> str:
    """`host:port` of an Origin; what is none (`null`, another scheme) is no host of ours."""
    scheme, mark, host = origin.lower().partition("://")
    return host if mark and scheme in ("http", "https") else ""
