"""Listening sockets, made before any child needs them. Must not know what is spoken on them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress

from muleteer.base.errors import PortInUseError, UsageError
from muleteer.base.limits import LISTEN_BACKLOG

UNIX_PATH_BYTES_MAX = 107
"""What the kernel's `sun_path` holds, less its end."""
_UNIX = "unix:"


class Listeners:
    """Those of one process over all its lives: who connects between two of them waits for the next.

    Args:
        addresses: by name; `unix:PATH`, or what `given` calls it.
        given: sockets of somebody else, which are lent and not closed.
    """

    def __init__(self, addresses: Mapping[str, str], given: Mapping[str, socket.socket]) -> None:
        self._addresses = addresses
        self._given = given
        self._own: dict[str, socket.socket] = {}

    def open(self) -> dict[str, socket.socket]:
        """All of them, by name; those that are open stay. Raises UsageError, OSError."""
        sockets = {}
        for name, address in self._addresses.items():
            if address.startswith(_UNIX):
                if name not in self._own:
                    self._own[name] = listen_unix(address.removeprefix(_UNIX))
                sockets[name] = self._own[name]
            elif address in self._given:
                sockets[name] = self._given[address]
            else:
                raise UsageError(f"the supervisor holds no socket {address!r}")
        return sockets

    def close(self) -> None:
        """There is no further life."""
        for name, listener in self._own.items():
            listener.close()
            remove_socket(self._addresses[name].removeprefix(_UNIX))
        self._own.clear()


def listen_unix(path: str) -> socket.socket:
    """A listening socket at `path`, mode 0600; a stale socket there is removed first.

    Raises UsageError where the path is too long or something else than a socket lies there, OSError for the rest.
    """
    length = len(os.fsencode(path))
    if length > UNIX_PATH_BYTES_MAX:
        raise UsageError(
            f"the socket path {path} has {length} bytes, the system allows {UNIX_PATH_BYTES_MAX}: "
            "choose a shorter run directory"
        )
    remove_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # bind makes the file with the socket's own mode: never open to others
        listener.bind(path)
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"{path} exists and is not a socket") from None
        raise
    return listener


def remove_socket(path: str) -> None:
    """Remove `path` if it is a socket. Never raises: what is gone is gone, what stays makes the next bind say so."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108


def listen_tcp_together(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets that listen on one port; the kernel spreads connections over them. As `listen_tcp`."""
    first = listen_tcp(host, port)  # by itself: another server that spreads would let us in
    if count == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found.append(listen_tcp(host, port, together=True))  # noqa: PERF401  those that there are must be closed
    except UsageError:
        for each in found:
            each.close()
        raise
    return found


def listen_tcp(host: str, port: int, *, together: bool = False) -> socket.socket:
    """A listening TCP socket. `host`: a name, an IPv4 or an IPv6 address (`::` takes both); port 0 picks a free one.
    `together`: with others of this user that say so.

    Raises PortInUseError that says who holds the port, UsageError where host or port cannot be used.
    """
    family, address = _resolve(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if together:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        listener.bind(address)
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise _told(error, host, port) from None
    return listener


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    bare = host.removeprefix("[").removesuffix("]")
    if not bare:
        raise UsageError("the host to listen on is empty: 127.0.0.1 is this machine only, 0.0.0.0 every address")
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} does not exist: 0 to 65535")
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise UsageError(f"cannot listen on host {host!r}: {why}") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # `localhost` means 127.0.0.1 to most clients
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]


def _told(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        from muleteer.supervise.holders import who_listens

        return PortInUseError(f"port {port} on {host} is in use by {who_listens(port)}: stop it or choose another port")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return UsageError(f"port {port} needs a privilege that this user has not: choose one from 1024 up")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{host} is not an address of this machine")
    return UsageError(f"cannot listen on {host} port {port}: {error.strerror}")
