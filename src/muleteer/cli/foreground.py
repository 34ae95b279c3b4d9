"""Lines for the person in the foreground, written without ever waiting for that person. Must not know what they say.

The writer is the supervisor, which must not stand still: a terminal on which somebody pressed Ctrl-S, or a pipe that
nobody reads, would otherwise end restarts and shutdown and, once their own pipes are full, hold up every replica.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from muleteer.base.limits import FOREGROUND_BYTES_MAX

Later = Callable[[float, Callable[[], None]], object]
"""Runs a call after some seconds."""

_AGAIN_S = 0.05
_LAST_WORDS_S = 0.5
_ASKED_BYTES_MAX = 512  # what a place that says it takes more takes without blocking, in all likelihood


class Foreground:
    """Writes lines to `stream`, and keeps those that it does not take now. An error silences it, but for a full disk.

    Without `lend_timer` what was kept goes out with the next line, or at `close`.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._encoding = stream.encoding
        self._fd = stream.fileno()
        self._own_fd = _open_again(self._fd)
        self._later: Later | None = None
        self._waiting = bytearray()
        self._left_out = 0
        self._timed = False
        self._gone = False

    def lend_timer(self, later: Later) -> None:
        """From now on it can come back to what it kept."""
        self._later = later

    def say(self, text: str) -> None:
        """One line, or several. Never blocks, never raises."""
        if len(self._waiting) > FOREGROUND_BYTES_MAX:
            self._left_out += 1
        else:
            self._waiting += f"{text}\n".encode(self._encoding, "backslashreplace")
        self._flush()

    def close(self) -> None:
        """Let go; what still waits has half a second to be read."""
        give_up = time.monotonic() + _LAST_WORDS_S
        while self._waiting and not self._gone and (left_s := give_up - time.monotonic()) > 0:
            self._is_writable(left_s)
            self._flush()
        self._gone, self._later = True, None
        if self._own_fd is not None:
            os.close(self._own_fd)
            self._own_fd = None

    def _flush(self) -> None:
        try:
            while self._waiting and not self._gone and (written := self._write()):
                del self._waiting[:written]
                if not self._waiting and self._left_out:
                    text = f"… {self._left_out} lines were not shown, as nobody read them; muleteer logs has them\n"
                    self._waiting += text.encode(self._encoding, "backslashreplace")
                    self._left_out = 0
        except OSError as error:  # the terminal is closed, or `| head` has seen enough
            self._gone = error.errno != errno.ENOSPC
            self._waiting.clear()
        if self._waiting and self._later is not None and not self._timed:
            self._timed = True
            self._later(_AGAIN_S, self._try_again)

    def _try_again(self) -> None:
        self._timed = False
        self._flush()

    def _write(self) -> int:
        """Write what is taken now; the number of bytes. Raises OSError."""
        if self._own_fd is None:
            return os.write(self._fd, self._waiting[:_ASKED_BYTES_MAX]) if self._is_writable(0) else 0
        with suppress(BlockingIOError):
            return os.write(self._own_fd, self._waiting)
        return 0

    def _is_writable(self, wait_s: float) -> bool:
        asked = select.poll()
        asked.register(self._fd, select.POLLOUT)
        return bool(asked.poll(wait_s * 1000))


def _open_again(fd: int) -> int | None:
    """The same terminal or pipe with flags of its own: O_NONBLOCK on `fd` itself would be there for the shell as well.
    None where that cannot be: a file, a socket, another user's terminal.
    """
    kind = os.fstat(fd).st_mode
    if not (stat.S_ISCHR(kind) or stat.S_ISFIFO(kind)):
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
