"""Asking a template for a child: the other way to begin a life, beside `child.spawn`. Must not know when, nor why.

The template forks twice and the process in the middle ends, so that the new one is an orphan, and ours: we are the
subreaper. The one in the middle first tells its number (`born`, on the new process's own control channel) and ends only
when we said that it is noted (`known`). Until then the new process is not our child, so none is reaped that nobody
knew. What follows needs no exception: it has its own session, control channel, output and sockets, and dies with us.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import msgspec

from muleteer.base.clock import Clock
from muleteer.supervise.channel import Channel
from muleteer.supervise.child import Child, open_ends
from muleteer.supervise.output import Output
from muleteer.supervise.process import ProcessSpec


class ForkRequest(msgspec.Struct, frozen=True):
    """One datagram to a template. With it come descriptors: control channel, output, then one for each of `sockets`."""

    argv: tuple[str, ...]
    env: dict[str, str]
    sockets: tuple[str, ...]


def ask_for_child(
    template: socket.socket,
    spec: ProcessSpec,
    sockets: Mapping[str, socket.socket],
    clock: Clock,
    make_output: Callable[[int], Output],
) -> Child:
    """A child without a number: `born` will bring it. Closed without that word, its channel says that there is none.

    Raises OSError with one of `STARVED` where the template is gone or leaves too many requests unread.
    """
    with ExitStack() as handed, ExitStack() as kept:
        ours, theirs, output_read, output_write = open_ends(handed, kept)
        request = msgspec.json.encode(ForkRequest(spec.argv, spec.env, tuple(sockets)))
        numbers = [theirs.fileno(), output_write, *(listener.fileno() for listener in sockets.values())]
        try:
            socket.send_fds(template, [request], numbers, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            raise OSError(errno.EAGAIN, f"its template takes no request: {error.strerror}") from error
        kept.pop_all()
    return Child(None, Channel(ours), make_output(output_read), clock.now())
