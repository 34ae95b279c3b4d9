"""Starting one child process and ending its whole group. Must not know why, nor what comes after.

The child gets its own session, /dev/null as stdin, one pipe for stdout and stderr, its control channel, the listening
sockets named for it, and nothing else. It dies with us: PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

import msgspec

from muleteer.base.clock import Clock
from muleteer.supervise.channel import Channel
from muleteer.supervise.output import Output
from muleteer.supervise.priority import give_way, oom_score
from muleteer.supervise.process import LastExit, ProcessSpec

FDS_VARIABLE = "MULETEER_FDS"
STARVED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT})
"""Errors of a start that say nothing about the program: the machine has no more of something."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec nothing may be


class Child:
    """One life of a process. Owns the channel and the output.

    Attributes:
        pid: valid until it is reaped; its group has the same number. None: it is being forked by a template.
        forks: where to ask it for children, if it is a template.
        started_s: monotonic seconds.
        ready_s: monotonic seconds when it said `ready`, else None.
        said: `(reason, message)` of its own `failed`.
        doomed: `(reason, message)` if we are killing it.
    """

    def __init__(
        self, pid: int | None, channel: Channel, output: Output, started_s: float, forks: socket.socket | None = None
    ) -> None:
        self.pid = pid
        self.forks = forks
        self.channel = channel
        self.output = output
        self.started_s = started_s
        self.ready_s: float | None = None
        self.said: tuple[str, str] | None = None
        self.doomed: tuple[str, str] | None = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send to the process alone, and wake it if it is stopped (SIGSTOP), so that it can obey."""
        if self.pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to its whole group. Only before it is reaped: the number belongs to it until then."""
        if self.pid is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # a setuid grandchild is not ours to end
            os.killpg(self.pid, signal.SIGKILL)

    def last_exit(self, code: int | None, number: int | None, *, stopped: bool, oom: bool) -> LastExit:
        """Why it ended: our own order first, then its own word, then what the kernel says."""
        reason, message = "exited" if number is None else "killed", ""
        if stopped:
            reason = "stopped"
        elif self.said is not None:
            reason, message = self.said
        elif self.doomed is not None:
            reason, message = self.doomed
        elif oom and number == signal.SIGKILL:
            reason, message = "oom_killed", "the kernel killed it because memory ran out"
        return LastExit(
            reason=reason,
            code=code,
            signal=None if number is None else _signal_name(number),
            message=message,
            log_tail=self.output.tail,
            was_ready=self.ready_s is not None,
        )

    def close(self) -> None:
        """Close our ends."""
        self.channel.close()
        self.output.close()
        if self.forks is not None:
            self.forks.close()


def spawn(
    spec: ProcessSpec, sockets: Mapping[str, socket.socket], clock: Clock, make_output: Callable[[int], Output]
) -> Child:
    """Start `spec`. `make_output` gets the reading end of its output pipe, and owns it. Raises OSError."""
    with ExitStack() as handed, ExitStack() as kept:
        ours, theirs, output_read, output_write = open_ends(handed, kept)
        given, forks = {"control": theirs, **sockets}, None
        if spec.forks:
            forks, given["fork"] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept.callback(forks.close)
            handed.callback(given["fork"].close)
        pid = _execute(spec, given, output_write)
        kept.pop_all()
    return Child(pid, Channel(ours), make_output(output_read), clock.now(), forks)


def open_ends(handed: ExitStack, kept: ExitStack) -> tuple[socket.socket, socket.socket, int, int]:
    """What every child has: control channel (ours, theirs) and output (to read, to write). `handed` closes what was
    given away, `kept` what is ours: to be emptied once there is a child. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    kept.callback(ours.close)
    handed.callback(theirs.close)
    output_read, output_write = os.pipe()
    kept.callback(os.close, output_read)
    handed.callback(os.close, output_write)
    return ours, theirs, output_read, output_write


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def become_subreaper() -> None:
    """Orphans of our children become ours, so that none is left behind. Fails on no kernel of the last ten years."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _execute(spec: ProcessSpec, sockets: Mapping[str, socket.socket], output_write: int) -> int:
    descriptors = {name: listener.fileno() for name, listener in sockets.items()}
    environment = {**os.environ, **spec.env, FDS_VARIABLE: msgspec.json.encode(descriptors).decode()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            cwd=spec.cwd,
            env=environment,
            pass_fds=tuple(descriptors.values()),
            start_new_session=True,
            preexec_fn=_between_fork_and_exec(os.getpid(), spec),  # noqa: PLW1509  this process has one thread
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    process.returncode = 0  # reaped by the supervisor's own waitid: Popen must neither wait nor warn
    return process.pid


def _between_fork_and_exec(parent: int, spec: ProcessSpec) -> Callable[[], None]:
    score = oom_score(spec.oom_score)

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        # Signals are blocked since before the fork: one that came now would run the parent's C handler and write its
        # number to the wake-up socket that we share until exec.
        signal.set_wakeup_fd(-1)
        give_way(spec.nice, score)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return prepare
