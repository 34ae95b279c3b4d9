"""The gateway's end of a link, for one who measures: calls or batches out, their times in. Must not know what is
measured, nor how the replica was started.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from muleteer.base.errors import StartupFailedError
from muleteer.base.limits import FRAME_OVERHEAD_BYTES
from muleteer.spec.settings import BackendSettings
from muleteer.wire.connection import Connection, Role
from muleteer.wire.frames import Flag, Frame, FrameType, join_payload, split_payload

_READ_BYTES = 256 * 1024
_ANSWER_GRACE_S = 0.5  # the replica itself answers what expired before it ran


class Unit(NamedTuple):
    """What is sent at once: one body is a call, several are a batch. `what`: how an error names it."""

    bodies: tuple[bytes, ...]
    what: str


class Answered(NamedTuple):
    """One unit. `began_s`: monotonic; `seconds`: from sending it to its last answer, what a slot is held for."""

    began_s: float
    seconds: float
    bodies: tuple[bytes, ...]


class _Open:
    """A unit without its last answer."""

    __slots__ = ("answers", "began_s", "left", "unit")

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.answers: list[bytes] = [b""] * len(unit.bodies)
        self.left = len(unit.bodies)
        self.began_s = time.monotonic()


class Link:
    """Owns the socket, from `open` on.

    Args:
        path: of the replica's socket.
        settings: its timeout is each call's deadline, its max_body bounds what is read.
    """

    def __init__(self, path: str, settings: BackendSettings) -> None:
        self._path = path
        self._timeout_s = settings.timeout
        self._connection = Connection(Role.GATEWAY, payload_max=settings.max_body + FRAME_OVERHEAD_BYTES)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._calls = 0
        self._open: dict[int, tuple[_Open, int]] = {}
        self._units = 0
        self.ready: dict[str, Any] = {}
        """The payload of READY."""

    def open(self) -> None:
        """Connect, and wait until the replica said READY. Raises OSError, EOFError."""
        self._socket.settimeout(self._timeout_s)
        self._socket.connect(self._path)
        hello = msgspec.json.encode({"protocol": 1, "gateway": "trial"})
        self._socket.sendall(self._connection.send(FrameType.HELLO, payload=hello))
        while not self.ready:
            for frame in self._read():
                self.ready = msgspec.json.decode(frame.payload)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    @property
    def in_flight(self) -> int:
        """Units without an answer."""
        return self._units

    def overdue(self, now: float) -> Unit | None:
        """The oldest unit, if it should have been answered by now."""
        oldest = next(iter(self._open.values()), None)
        if oldest is None or now - oldest[0].began_s <= self._timeout_s + _ANSWER_GRACE_S:
            return None
        return oldest[0].unit

    def send(self, unit: Unit) -> None:
        """Send it whole. Raises OSError."""
        opened, budget = _Open(unit), int(self._timeout_s * 1000)
        data = []
        for index, body in enumerate(unit.bodies):
            self._calls += 1
            self._open[self._calls] = opened, index
            payload = join_payload(msgspec.json.encode({"id": f"trial-{self._calls}"}), body)
            flags = Flag.MORE if index + 1 < len(unit.bodies) else Flag.NONE
            data.append(
                self._connection.send(FrameType.CALL, id=self._calls, budget=budget, flags=flags, payload=payload)
            )
        self._units += 1
        self._socket.sendall(b"".join(data))

    def receive(self) -> list[Answered]:
        """Read once; the units that are answered now. Raises OSError, EOFError, StartupFailedError if a call failed."""
        done = []
        for frame in self._read():
            opened, index = self._open.pop(frame.id)
            if frame.type is FrameType.ERROR:
                raise _failed(opened.unit, frame)
            opened.answers[index] = split_payload(frame.payload)[1]
            opened.left -= 1
            if not opened.left:
                self._units -= 1
                done.append(Answered(opened.began_s, time.monotonic() - opened.began_s, tuple(opened.answers)))
        return done

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _read(self) -> Sequence[Frame]:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise EOFError("the replica died")
        return self._connection.receive(data)


def _failed(unit: Unit, frame: Frame) -> StartupFailedError:
    error = msgspec.json.decode(frame.payload)
    traceback = error.get("traceback", "")
    return StartupFailedError(f"{unit.what} failed: {error.get('error', '')}\n{traceback}".rstrip())
