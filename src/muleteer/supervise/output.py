"""What a child prints: its last 4 KiB, its log file, its lines. Must not know who looks at them.

A log is a convenience: every failure to write one is swallowed here, and writing is tried again with the next chunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from muleteer.base.limits import LOG_FILE_BYTES_MAX, LOG_TAIL_BYTES, OUTPUT_LINE_BYTES_MAX, OUTPUT_READ_BYTES

_REST_READS_MAX = 64  # 1 MiB: more than a pipe holds; a surviving grandchild may write for ever


class LogFile:
    """Appends to `path`, moves it to `path.1` when it is full. Never raises.

    Args:
        path: the file.
        bytes_max: size at which it is moved away; the older file is lost.
    """

    def __init__(self, path: Path, bytes_max: int = LOG_FILE_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._fd: int | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append `data`, as far as the disk allows."""
        try:
            if self._fd is None:
                self._open()
            if self._size and self._size + len(data) > self._bytes_max:
                self._rotate()
            if self._fd is not None:
                self._size += os.write(self._fd, data)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with suppress(OSError):  # a delayed write error of a network disk
                os.close(fd)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))  # an OSError leaves the file closed and full
        self._open()


class Output:
    """The reading end of one child's stdout and stderr, for one life. Owns the descriptor.

    Args:
        fd: reading end of the pipe; set to non-blocking.
        log: where the bytes go; shared by all lives of a process.
        on_line: called with each line, decoded, without its end.
    """

    def __init__(self, fd: int, log: LogFile, on_line: Callable[[str], None]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._log = log
        self._on_line = on_line
        self._tail = bytearray()
        self._partial = bytearray()

    def fileno(self) -> int:
        """For the selector."""
        return self._fd

    @property
    def tail(self) -> str:
        """The last 4 KiB of this life, decoded."""
        return bytes(self._tail).decode("utf-8", "replace")

    def read(self) -> int:
        """Take one bounded chunk. Returns its length; 0 if there is nothing now; -1 at the end of the pipe."""
        try:
            data = os.read(self._fd, OUTPUT_READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            return -1
        if not data:
            return -1
        self._log.write(data)
        self._tail += data
        del self._tail[:-LOG_TAIL_BYTES]
        self._split(data)
        return len(data)

    def read_rest(self) -> None:
        """What a dead child has left in the pipe, and its last line if it has no end."""
        for _ in range(_REST_READS_MAX):
            if self.read() <= 0:
                break
        if self._partial:
            self._emit(bytes(self._partial))
            self._partial.clear()

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)

    def _split(self, data: bytes) -> None:
        self._partial += data
        *lines, rest = bytes(self._partial).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(rest) > OUTPUT_LINE_BYTES_MAX:
            self._emit(rest)
            rest = b""
        self._partial[:] = rest

    def _emit(self, line: bytes) -> None:
        self._on_line(line[:OUTPUT_LINE_BYTES_MAX].removesuffix(b"\r").decode("utf-8", "replace"))
