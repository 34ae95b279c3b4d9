"""`muleteer stop`: tells the supervisor to stop and waits until it has."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from muleteer.base.errors import NoAnswerError, NotRunningError, UsageError
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import say
from muleteer.spec.run_dir import find_run_dir
from muleteer.supervise.rundir import LockInfo, read_lock

_POLL_S = 0.02
_NOTED_S = 0.2


def run(arguments: Sequence[str]) -> int:
    """Stop the server in the run directory; returns when its lock is free."""
    parser = Parser("stop", "Stop the server: requests in flight are finished, then every process ends.")
    parser.add_argument("--now", action="store_true", help="do not wait for requests in flight")
    parser.add_argument("--wait", metavar="SECONDS", type=float, default=60.0, help="give up waiting (default: 60)")
    add_run_dir(parser)
    found = parser.parse(arguments)
    run_dir = Path(find_run_dir(found.run_dir, os.environ))
    holder = read_lock(run_dir)
    if holder is None:
        raise NotRunningError(f"no muleteer runs in {run_dir}")
    if not holder.pid:
        raise UsageError(f"{run_dir} is locked, but its lock does not say by whom")
    began = time.monotonic()
    _send(holder, signal.SIGTERM)
    if found.now and not _gone(run_dir, holder, _NOTED_S):
        _send(holder, signal.SIGINT)  # another signal than the first, or the kernel could make one of the two
    say(f"stopping muleteer, pid {holder.pid} …")
    if not _gone(run_dir, holder, found.wait):
        raise NoAnswerError(
            f"pid {holder.pid} has not stopped after {found.wait:g} s; muleteer stop --now kills what is left"
        )
    say(f"stopped after {time.monotonic() - began:.1f} s")
    return 0


def _send(holder: LockInfo, number: signal.Signals) -> None:
    try:
        os.kill(holder.pid, number)
    except ProcessLookupError:
        pass  # it went by itself; the lock tells
    except PermissionError:
        raise UsageError(f"pid {holder.pid} belongs to another user") from None


def _gone(run_dir: Path, holder: LockInfo, wait_s: float) -> bool:
    """Whether the lock is free, or another's, within `wait_s` seconds."""
    give_up = time.monotonic() + wait_s
    while True:
        now = read_lock(run_dir)
        if now is None or (now.pid and now.pid != holder.pid):
            return True
        if time.monotonic() > give_up:
            return False
        time.sleep(_POLL_S)
