"""Reaps who has died, kept processes and orphans alike. Must not know what follows an end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from muleteer.base.clock import Clock
from muleteer.supervise.kept import KeptProcess
from muleteer.supervise.oom import OomWitness


def reap(kept_of: Callable[[int], KeptProcess | None], oom: OomWitness, clock: Clock) -> Iterator[KeptProcess | None]:
    """Every child that is dead now, one after the other: what it was kept as, or None. Its end is settled by then."""
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if dead is None:
            return
        kept = kept_of(dead.si_pid)
        if kept is not None:
            kept.before_reaping()
        os.waitpid(dead.si_pid, 0)
        starved = oom.saw_kill(clock.now())
        if kept is not None:
            exited = dead.si_code == os.CLD_EXITED
            kept.after_reaping(dead.si_status if exited else None, None if exited else dead.si_status, oom=starved)
        yield kept
