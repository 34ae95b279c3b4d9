"""The way out of one connection: bytes collected, written together, and watched. Must not know what they mean."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from math import inf
from time import monotonic
from typing import Final

OUT_BYTES_MAX: Final = 64 * 1024
"""Collected bytes that are written at once, although more may follow in the same turn of the loop."""


class Outlet:
    """Writes to `transport`.

    Attributes:
        stalled: the transport holds more than it wants to; begin nothing that makes more.
        write_by: monotonic seconds at which `is_stuck` is to be asked.
    """

    __slots__ = ("_bytes", "_parts", "_stall_s", "_transport", "_unsent", "stalled", "write_by")

    def __init__(self, transport: asyncio.Transport, stall_s: float) -> None:
        self._transport = transport
        self._stall_s = stall_s
        self._parts: list[bytes] = []
        self._bytes = 0
        self._unsent = 0
        self.stalled = False
        self.write_by = inf

    def put(self, data: bytes) -> None:
        """Collect some."""
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes > OUT_BYTES_MAX:
            self.write()

    def write(self) -> None:
        """Hand over what was collected."""
        parts = self._parts
        if not parts:
            return
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)
        self._parts = []
        self._bytes = 0

    def watch(self) -> None:
        """From now on the client must take something within the stall time."""
        self._unsent = self._unread()
        self.write_by = monotonic() + self._stall_s

    def is_stuck(self) -> bool:
        """Whether nothing was taken since the last `watch`; if something was, watch on."""
        if self._unread() == self._unsent:
            return True
        self.watch()
        return False

    def unwatch(self) -> None:
        """The client has caught up, or is gone."""
        self.write_by = inf

    def _unread(self) -> int:
        """Bytes that the client has not taken. The kernel holds up to some MiB of them and asks for more only when a
        good part is gone: a slow reader would look like none if ours alone were counted.
        """
        ours = self._transport.get_write_buffer_size()
        try:
            answer = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # the connection is gone, which is on its way to us
            return ours
        return ours + int.from_bytes(answer, sys.byteorder)
