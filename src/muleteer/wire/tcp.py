"""TCP between processes on several nodes: sends at once, and notices silence. Must not know what is said on it."""

from __future__ import annotations

import socket

from muleteer.base.limits import LINK_SILENCE_S


def tune(channel: socket.socket) -> None:
    """Send at once, and let the kernel end a connection whose other end, or the way to it, has gone without a word.

    Nothing for Unix sockets: their other end cannot.
    """
    if channel.family == socket.AF_UNIX:
        return
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int(LINK_SILENCE_S))
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LINK_SILENCE_S * 1000))
