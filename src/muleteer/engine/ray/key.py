"""The key by which a server knows its actors again, also after it was stopped hard. Must not know Ray."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from muleteer.base.errors import UsageError

_BYTES = 32
_NAME = "ray.key"


def keep_key(folders: Sequence[Path]) -> bytes:
    """The key in the first of `folders` that has one; else a new one, kept in each of them that can be written.

    Raises:
        UsageError: it could be kept nowhere. Actors that nobody could ever find again are not started.
    """
    for folder in folders:
        with suppress(OSError):
            key = (folder / _NAME).read_bytes()
            if len(key) == _BYTES:
                return key
    key = secrets.token_bytes(_BYTES)
    kept = [folder for folder in folders if _write(folder, key)]
    if not kept:
        raise UsageError(f"cannot write {_NAME} to any of {', '.join(map(str, folders))}: engine ray needs it")
    return key


def _write(folder: Path, key: bytes) -> bool:
    aside = folder / f"{_NAME}.tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        aside.touch(mode=0o600)
        with aside.open("wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(folder / _NAME)
    except OSError:
        return False
    return True
