"""Which run directory a command means. Apart from `load`, so that `status` and `stop` need not import msgspec (50 ms).
Must not know what lies in the directory, but for the longest socket path in it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from muleteer.base.errors import SpecError
from muleteer.spec.names import is_utf8

ENV = "MULETEER_RUN_DIR"
SOCKET_PATH_BYTES_MAX = 107
"""`sun_path` of Linux, less its final NUL."""
_LONGEST_SOCKET = "/sockets/999999.sock"


def default_run_dir(environ: Mapping[str, str]) -> str:
    """`$XDG_RUNTIME_DIR/muleteer`, else `/tmp/muleteer-UID`."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return f"{runtime}/muleteer"
    return f"/tmp/muleteer-{os.getuid()}"  # noqa: S108  made 0700, refused if another owns it


def default_state_dir(environ: Mapping[str, str], run_dir: str) -> str:
    """`$XDG_STATE_HOME/muleteer/NAME`, else `~/.local/state/muleteer/NAME`; NAME tells run directories apart."""
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local" / "state")
    plain = re.sub(r"[^A-Za-z0-9]+", "-", run_dir).strip("-")[-60:]
    return f"{home}/muleteer/{plain}-{hashlib.blake2b(os.fsencode(run_dir), digest_size=4).hexdigest()}"


def complete_run_dir(given: str) -> str:
    """`given` as an absolute path. Raises SpecError where the sockets in it would have paths too long to bind."""
    try:
        path = str(Path(given).expanduser().resolve())
    except (RuntimeError, OSError) as error:  # no such user, a loop of links
        raise SpecError(f"run directory {given}: {error}") from None
    if not is_utf8(path):
        raise SpecError(f"run directory {path} is not UTF-8; choose --run-dir")
    over = len(os.fsencode(path + _LONGEST_SOCKET)) - SOCKET_PATH_BYTES_MAX
    if over > 0:
        raise SpecError(f"run directory {path} is {over} bytes too long for the sockets in it; choose --run-dir")
    return path


def find_run_dir(flag: str | None, environ: Mapping[str, str]) -> str:
    """The flag, else the environment, else the default; absolute. Raises SpecError."""
    return complete_run_dir(flag or environ.get(ENV) or default_run_dir(environ))
