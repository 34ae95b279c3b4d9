"""TLS between gateways and replicas: where Ray encrypts, so do we, with its files. Must not know sockets.

`RAY_USE_TLS`, `RAY_TLS_SERVER_CERT`, `RAY_TLS_SERVER_KEY` and `RAY_TLS_CA_CERT` mean what they mean to Ray: both sides
show a certificate, and each must be of that authority. Names in certificates are not compared: who has any certificate
of this authority may run what he likes on the cluster, by Ray itself.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from muleteer.base.errors import UsageError

if TYPE_CHECKING:
    import ssl

_CERT, _KEY, _AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"


def tls_wanted() -> bool:
    """Whether `RAY_USE_TLS` says so."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


@cache
def server_context() -> ssl.SSLContext:
    """Of who is dialled; asks for a certificate. Raises UsageError, which names the variable and the file."""
    return _context(server=True)


@cache
def client_context() -> ssl.SSLContext:
    """Of who dials. Raises UsageError, which names the variable and the file."""
    return _context(server=False)


def _context(*, server: bool) -> ssl.SSLContext:
    import ssl  # most processes never need it

    certificate, key, authority = _file(_CERT), _file(_KEY), _file(_AUTHORITY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0  # links live long: nobody resumes a session
    try:
        context.load_cert_chain(certificate, key, password="")  # never ask on a terminal
    except ssl.SSLError as error:
        raise UsageError(f"{_CERT} {certificate} and {_KEY} {key} are of no use: {said(error)}") from None
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise UsageError(f"{_AUTHORITY} {authority} is of no use: {said(error)}") from None
    return context


def said(error: ssl.SSLError) -> str:
    """What it says, without where in OpenSSL's sources."""
    verdict = getattr(error, "verify_message", "")
    return str(verdict or (error.reason or str(error)).replace("_", " ").lower())


def _file(variable: str) -> str:
    path = os.environ.get(variable, "")
    if not path:
        raise UsageError(f"RAY_USE_TLS is set and {variable} is not: it names a file")
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise UsageError(f"{variable}: cannot read {path}: {error.strerror}") from None
    return path
