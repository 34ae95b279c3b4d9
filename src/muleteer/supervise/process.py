"""What the supervisor is asked to keep alive, and what it tells about it. These travel as control lines."""

from __future__ import annotations

from typing import Literal

import msgspec


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The process that another is forked from, so that both share memory. The supervisor keeps it alive as long as one
    names it that is not to stop; of all that name the same `id` the first says how it is started.

    Attributes:
        id: as of any process.
        argv: program and arguments.
    """

    id: str
    argv: tuple[str, ...]


class ProcessSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One process to keep alive under a name.

    Attributes:
        id: unique, stable over restarts; also the name of its log.
        argv: program and arguments.
        env: added to the supervisor's environment.
        sockets: name → address of listening sockets handed down as open descriptors. `unix:/path` is created by the
            supervisor with mode 0600 and lives as long as the id, so a peer may connect while the process is dead and
            is accepted by the next one; any other value names a socket the supervisor was given at its start (`http`).
        labels: free text that the supervisor gives back unread (`backend`, `generation`).
        ready_timeout_s: from start to `ready`; then it is killed and the start counts as failed.
        grace_s: from SIGTERM to SIGKILL when stopping.
        starts_max: failed starts in a row until FAILED; None keeps trying (gateway, controller).
        nice: its priority against others, 0 to 19, of which 0 has the most time when cores are short.
        oom_score: how much sooner than the supervisor the kernel takes it when memory runs out, 0 to 1000.
        stop_rank: on shutdown lower ranks stop first, and are gone before the next rank is told.
        cwd: where it starts; None: where the supervisor did.
        template: it is forked from that process and gets `argv` from it as a message, instead of being executed.
        forks: it is a template itself, and gets a socket `fork` on which it is asked for children.
        takes_aborts: it knows processes elsewhere: an `abort` for an id that the supervisor does not know goes to it.
    """

    id: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    sockets: dict[str, str] = {}
    labels: dict[str, str] = {}
    ready_timeout_s: float = 300.0
    grace_s: float = 25.0
    starts_max: int | None = None
    nice: int = 0
    oom_score: int = 0
    stop_rank: int = 0
    cwd: str | None = None
    template: Template | None = None
    forks: bool = False
    takes_aborts: bool = False


class LastExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process last ended.

    Attributes:
        reason: machine word: `exited`, `killed`, `oom_killed`, `hung`, `ready_timeout`, `stopped`, `protocol` (it broke
            the control protocol), `spawn_failed` (no such program, or no room for its sockets), `not_forked` (its
            template ended before it could, or had no memory for it; that is not counted), or the reason the
            process itself gave before it exited (`import_error`, `constructor_raised`, `warm_up_failed`, …).
        code: exit status, or None if ended by a signal.
        signal: e.g. `SIGKILL`, or None.
        message: one sentence for a person, if the process gave one.
        log_tail: the last 4 KiB it wrote in that life.
        was_ready: whether it had become ready.
    """

    reason: str
    code: int | None = None
    signal: str | None = None
    message: str = ""
    log_tail: str = ""
    was_ready: bool = False


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `since_s`: seconds in this state; `info`: what the process said with `ready`."""

    id: str
    state: Literal["starting", "ready", "stopping", "backoff", "failed", "stopped"]
    pid: int | None
    restarts: int
    since_s: float
    labels: dict[str, str]
    info: dict[str, object] = {}
    last_exit: LastExit | None = None
