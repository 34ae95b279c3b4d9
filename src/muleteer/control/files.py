"""Which source files changed since they were loaded. Must not know backends or replicas.

A change counts once a file looks the same in two looks in a row: editors write in steps, and half a file does not
load. A missing file is no change: many editors write aside and rename.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from muleteer.base.limits import FILES_WATCHED_MAX

Signature = tuple[int, int, int]
"""mtime in ns, size, inode: two edits within one tick of the file system's clock still differ."""


class FileWatch:
    """Remembers how each file looked."""

    def __init__(self) -> None:
        self._known: dict[str, Signature] = {}
        self._unsettled: dict[str, Signature] = {}

    def look(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The files that changed since they were first seen, or since they were last returned; sorted. Empty while
        any of them may still be written to. Looks at the first FILES_WATCHED_MAX paths.
        """
        changed = {}
        settled = True
        for path in islice(sorted(paths), FILES_WATCHED_MAX):
            signature = _signature(path)
            if signature is None:
                continue
            if self._known.setdefault(path, signature) == signature:
                self._unsettled.pop(path, None)
                continue
            settled = settled and self._unsettled.get(path) == signature
            self._unsettled[path] = signature
            changed[path] = signature
        if not settled:
            return ()
        self._known.update(changed)
        for path in changed:
            del self._unsettled[path]
        return tuple(changed)


def target_file(target: str, base_dir: str) -> str | None:
    """The source file of a TARGET, found without importing anything; None where there is none to see. It is what can
    be watched of a model that has never loaded.
    """
    place = target.rpartition(":")[0]
    if place.endswith(".py") or "/" in place:
        return str(Path(base_dir, place).resolve())
    path = Path(base_dir, *place.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return str(candidate.resolve())
    return None


def shown(paths: Iterable[str], base_dir: str) -> str:
    """`a.py, b.py`, relative to `base_dir` where they lie in it; of many, the first three."""
    base = Path(base_dir).resolve()
    names = [str(path.relative_to(base)) if path.is_relative_to(base) else str(path) for path in map(Path, paths)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _signature(path: str) -> Signature | None:
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
