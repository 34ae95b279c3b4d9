"""The run directory: private to its user, locked by one live supervisor. Must not know what lies in it but sockets."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from muleteer.base.errors import AlreadyRunningError, UsageError
from muleteer.supervise.sockets import remove_socket

_TRIES = 10  # `read_lock` of somebody else holds the lock for a moment, and a new lock is empty for one
_TRY_PAUSE_S = 0.02


class LockInfo(msgspec.Struct, frozen=True):
    """Who holds a run directory. `started`: seconds since 1970; `port` is 0 until the socket is bound."""

    pid: int
    host: str
    port: int
    started: float


def read_lock(run_dir: Path) -> LockInfo | None:
    """The live supervisor of `run_dir`; None if there is none, whatever the file says."""
    try:
        fd = os.open(run_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for _ in range(_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return None
            info = _decode(os.pread(fd, 4096, 0))
            if info is not None:
                return info
            time.sleep(_TRY_PAUSE_S)  # between its lock and its first word
    finally:
        os.close(fd)
    return LockInfo(0, "", 0, 0.0)


class RunDirectory:
    """One run directory. `open()` makes it and takes the lock, `close()` leaves no socket behind.

    Attributes:
        path: absolute.
        sockets: directory of replica sockets.
        logs: directory of process logs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.sockets = self.path / "sockets"
        self.logs = self.path / "logs"
        self._lock: int | None = None
        self._started = 0.0

    def open(self, host: str = "", port: int = 0) -> None:
        """Make the directory if need be, lock it, remove stale sockets, and write who we are.

        Raises AlreadyRunningError that names the holder, UsageError where the directory cannot be used.
        """
        try:
            self._make()
            self._take()
            self._sweep()
            for directory in (self.sockets, self.logs):
                directory.mkdir(mode=0o700, exist_ok=True)
            self._started = time.time()
            self.publish(host, port)
        except OSError as error:
            self.close()
            raise UsageError(f"cannot use the run directory {self.path}: {error.strerror}") from None
        except UsageError:
            self.close()
            raise

    def publish(self, host: str, port: int) -> None:
        """Write where we listen into the lock. Raises OSError."""
        if self._lock is None:
            raise RuntimeError("the run directory is not open")
        text = msgspec.json.encode(LockInfo(os.getpid(), host, port, self._started))
        os.pwrite(self._lock, text + b"\n", 0)
        os.ftruncate(self._lock, len(text) + 1)

    def close(self) -> None:
        """Remove all sockets and free the lock. The lock file stays: removing it could cut a third one's lock."""
        if self._lock is None:
            return
        self._sweep()
        with suppress(OSError):  # a disk in trouble; the freed lock is what counts
            os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = None

    def _make(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        found = self.path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise UsageError(f"the run directory {self.path} is a symbolic link: name the directory itself")
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"the run directory {self.path} is not a directory")
        if found.st_uid != os.geteuid():
            raise UsageError(f"the run directory {self.path} belongs to user {found.st_uid}: choose another")
        if stat.S_IMODE(found.st_mode) & 0o077:
            names = set(os.listdir(self.path))  # noqa: PTH208
            if names and "lock" not in names:  # somebody's home, perhaps: not ours to close
                raise UsageError(
                    f"the run directory {self.path} holds other files and is open to others: "
                    "choose an empty one, or make it private (chmod 700)"
                )
            self.path.chmod(0o700)

    def _take(self) -> None:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_PAUSE_S)
            else:
                self._lock = lock
                return
        os.close(lock)
        raise AlreadyRunningError(_already(self.path, read_lock(self.path)))

    def _sweep(self) -> None:
        for directory in (self.path, self.sockets):
            try:
                names = os.listdir(directory)  # noqa: PTH208
            except OSError:
                continue  # not there yet, or taken away under us
            for name in names:
                remove_socket(str(directory / name))


def _already(path: Path, info: LockInfo | None) -> str:
    if info is None or not info.pid:
        return f"a muleteer is already running in {path}"
    where = f" on {info.host}:{info.port}" if info.port else ""
    return f"a muleteer is already running in {path}: pid {info.pid}{where} (stop it, or choose another --run-dir)"


def _decode(text: bytes) -> LockInfo | None:
    try:
        return msgspec.json.decode(text, type=LockInfo)
    except msgspec.DecodeError:
        return None
