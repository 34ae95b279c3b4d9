"""The supervisor's end of one control channel. Never blocks; must not know what the messages mean."""

from __future__ import annotations

import socket
from typing import Any

from muleteer.base.errors import WireError
from muleteer.base.limits import CONTROL_LINE_BYTES_MAX, CONTROL_UNREAD_BYTES_MAX
from muleteer.wire.lines import LineDecoder, encode_line

_READ_BYTES = 64 * 1024
_REST_READS_MAX = 256  # far more than a socket holds; a grandchild may have the other end and write for ever


class ChannelFull(Exception):
    """The peer leaves too much unread."""


class Channel:
    """One end of a socketpair, in JSON lines. Owns the socket.

    Attributes:
        open: False once the peer has closed or reset it; reads and writes then do nothing.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._decoder = LineDecoder(CONTROL_LINE_BYTES_MAX)
        self._unsent = bytearray()
        self.open = True

    def fileno(self) -> int:
        """For the selector."""
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return len(self._unsent)

    def receive(self) -> list[dict[str, Any]]:
        """The messages that one read completes. Raises WireError if the peer broke the line protocol."""
        return self._decoder.feed(self._read() or b"")

    def receive_rest(self) -> list[dict[str, Any]]:
        """What a dead peer has left: all messages up to the first bad one."""
        messages: list[dict[str, Any]] = []
        for _ in range(_REST_READS_MAX):
            data = self._read()
            if data is None or not self.open:
                break
            try:
                messages += self._decoder.feed(data)
            except WireError:
                break
        return messages

    def send(self, message: Any) -> None:
        """Queue one message and write what the peer takes. Raises ChannelFull if it left too much unread before."""
        if not self.open:
            return
        if len(self._unsent) > CONTROL_UNREAD_BYTES_MAX:
            raise ChannelFull(f"left {len(self._unsent)} bytes of its control channel unread")
        self._unsent += encode_line(message)
        self.flush()

    def flush(self) -> None:
        """Write what the peer takes now."""
        while self._unsent and self.open:
            try:
                sent = self._socket.send(self._unsent, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # the reading side sees the end as EOF, and decides there
                self._unsent.clear()
                return
            del self._unsent[:sent]

    def _read(self) -> bytes | None:
        """One read; None if there is nothing now. At the end of the stream the channel is no longer open."""
        if not self.open:
            return None
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # reset: the peer is gone
            data = b""
        if not data:
            self.open = False
        return data

    def close(self) -> None:
        """Close our end: the child, if alive, takes it as the order to leave."""
        self.open = False
        self._unsent.clear()
        self._socket.close()
