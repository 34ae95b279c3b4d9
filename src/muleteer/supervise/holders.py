"""Who listens on a TCP port, as far as /proc tells this user. Must not know why anybody asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"
_COMMAND_CHARS_MAX = 80


def who_listens(port: int, proc: Path = Path("/proc")) -> str:
    """E.g. "pid 123 (nginx: master process)". "another process" where this user may not see it."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port, proc)}
    for directory in proc.iterdir():
        if directory.name.isdecimal() and _holds(directory, inodes):
            return f"pid {directory.name} ({_command(directory)})"
    return "another process"


def _listening(port: int, proc: Path) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _holds(directory: Path, inodes: set[str]) -> bool:
    try:
        return any(str(link.readlink()) in inodes for link in (directory / "fd").iterdir())
    except OSError:  # another user's, or gone meanwhile
        return False


def _command(directory: Path) -> str:
    try:
        words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "gone"
    words = "".join(char if char.isprintable() else "?" for char in words)
    return words if len(words) <= _COMMAND_CHARS_MAX else words[: _COMMAND_CHARS_MAX - 1] + "…"
