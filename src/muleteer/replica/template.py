"""A process that has loaded the model and forks replicas, which share its memory. Must not know calls or links.

It has one thread when it forks, or refuses to: a lock that another thread holds would stay locked in the child for
ever. The child is an orphan before it runs user code, and so the supervisor's own (`supervise/fork.py` has the other
end): the process in the middle reports its number, waits until it is noted, says so to the child, and ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

import msgspec

from muleteer.base.errors import StartError
from muleteer.replica.config import ForkRequest, ReplicaConfig
from muleteer.replica.control import Control
from muleteer.telemetry.log import log
from muleteer.wire.lines import encode_line

_REQUEST_BYTES = 256 * 1024
_DESCRIPTORS_MAX = 16
_THREADS_END_S = 0.2
_PR_SET_PDEATHSIG = 1
_ORPHANED_S = 0.0002
_GO = b"g"


class Forked(msgspec.Struct, frozen=True):
    """What a new replica begins with."""

    config: ReplicaConfig
    sockets: dict[str, socket.socket]


class Template:
    """Args:
    requests: the inherited socket named `fork`.
    control: the template's own control channel.
    """

    def __init__(self, requests: socket.socket, control: Control) -> None:
        self._requests = requests
        self._control = control
        self._supervisor = os.getppid()
        self._middle = 0  # in a new process: the one that forked it
        self._libc = ctypes.CDLL(None, use_errno=True)

    def serve(self, info: dict[str, object]) -> Forked:
        """Fork what is asked for. Returns in the forked process only; this one leaves when the supervisor closes the
        socket. Raises StartError (not_shareable) if the model has threads.
        """
        names = other_threads()
        if names:
            raise StartError(
                "not_shareable",
                f"`share: preload` forks the loaded model, but threads run in it: {', '.join(names)}. Start them at "
                "the first call and not while it loads, or serve it with `share: none`",
            )
        gc.collect()
        gc.freeze()  # no collection writes into these objects: their pages stay shared
        self._control.ready(info)
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._requests, _REQUEST_BYTES, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            except OSError:
                os._exit(0)
            if not data:
                os._exit(0)
            if self._fork(descriptors[0]):
                return self._become(msgspec.json.decode(data, type=ForkRequest), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, control: int) -> bool:
        """Whether we are the new process, and the supervisor's child."""
        sys.stdout.flush()
        sys.stderr.flush()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                middle = os.fork()
            except OSError as error:  # no process, no memory: the closed channel says so to the supervisor
                log("cannot fork", error=str(error))
                return False
            if not middle:
                try:
                    self._fork_from_the_middle(control, ours, theirs)
                    self._wait_until_known(theirs)
                except OSError:  # whoever waits finds a closed channel
                    os._exit(1)
                return True
        os.waitpid(middle, 0)
        return False

    def _fork_from_the_middle(self, control: int, ours: socket.socket, theirs: socket.socket) -> None:
        """Returns in the new process, which leads a session of its own then."""
        self._middle = os.getpid()
        pid = os.fork()
        if not pid:
            ours.close()
            os.setsid()
            theirs.send(_GO)
            return
        theirs.close()
        channel = socket.socket(fileno=control)
        if ours.recv(1):
            channel.sendall(encode_line({"type": "born", "pid": pid}))
            if channel.recv(4096):
                ours.send(_GO)
        os._exit(0)

    def _wait_until_known(self, theirs: socket.socket) -> None:
        """Until the process in the middle has ended. Without its word nobody knows us, and we end as well."""
        if theirs.recv(1) != _GO:
            os._exit(1)
        while os.getppid() == self._middle:  # it has nothing left to do but to end
            time.sleep(_ORPHANED_S)
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._supervisor:  # it died before the line above
            os._exit(1)

    def _become(self, request: ForkRequest, descriptors: list[int]) -> Forked:
        control, output, *listeners = descriptors
        self._requests.close()
        self._control.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ.update(request.env)
        _reseed()
        numbers = {"control": control, **dict(zip(request.sockets, listeners, strict=True))}
        config = msgspec.json.decode(request.argv[-1], type=ReplicaConfig)
        return Forked(config, {name: socket.socket(fileno=number) for name, number in numbers.items()})


def other_threads() -> list[str]:
    """Names of the threads beside this one that a fork would leave behind.

    Libraries that are prepared for a fork (OpenBLAS) end theirs before each, and start them again when needed: so one
    is tried first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12 on a fork beside threads warns: that is what we look for
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    deadline = time.monotonic() + _THREADS_END_S
    while (found := _threads()) and time.monotonic() < deadline:
        time.sleep(0.005)  # a thread that was joined stands in /proc for a moment longer
    return found


def _threads() -> list[str]:
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    own = threading.get_native_id()
    names = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != own:
            with suppress(OSError):  # it has ended
                names.append(known.get(int(task.name)) or (task / "comm").read_text().strip())
    return sorted(names)


def _reseed() -> None:
    """Replicas that draw the same numbers would be one replica, as far as chance goes. Python's own `random` sees to it
    by itself.
    """
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
