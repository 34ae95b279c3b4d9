"""Asks /readyz until requests are served, without ever blocking: it runs inside the supervisor's turn. Must not know
what is waited for.

A replica that is ready for the supervisor is linked by the gateway a moment later; a curl line must work in between, so
`ready` is said only when a request would be answered. A backend that was given up does not hold up the others, where
that is not to fail the start.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Collection
from contextlib import suppress

PAUSE_S = 0.01
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: muleteer\r\nConnection: close\r\n\r\n"
_LOOKS_MAX = 100
"""Looks at one connection before it is given up: a second."""
NO_ROOM = frozenset({"memory"})
GIVEN_UP = NO_ROOM | {"crash_loop"}


def is_serving(answer: bytes, unmanned: Collection[str] = (), given_up: Collection[str] = GIVEN_UP) -> bool:
    """Whether a whole HTTP answer of /readyz says 200, or 503 with nothing missing but what was given up (for a reason
    in `given_up`), or has no replicas because it wants none (`unmanned`).
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200"):
        return True
    try:
        reasons = json.loads(body)["reasons"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(reasons) and all(reason in given_up or name in unmanned for name, reason in reasons.items())


class Probe:
    """One series of questions.

    Args:
        address: what to connect to.
        later: runs a call after some seconds.
        on_serving: called once.
        unmanned: backends that will not be ready, because they want no replica.
        given_up: reasons for which a backend is not waited for.
    """

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[str, int],
        later: Callable[[float, Callable[[], None]], object],
        on_serving: Callable[[], None],
        *,
        unmanned: Collection[str] = (),
        given_up: Collection[str] = GIVEN_UP,
    ) -> None:
        self._family = family
        self._address = address
        self._later = later
        self._on_serving = on_serving
        self._unmanned = unmanned
        self._given_up = given_up
        self._socket: socket.socket | None = None
        self._answer = b""
        self._asked = False
        self._looks = 0

    def start(self) -> None:
        """Ask now, and again until requests are served."""
        if self._look():
            self._on_serving()
        else:
            self._later(PAUSE_S, self.start)

    def close(self) -> None:
        """Let go of an open question."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _look(self) -> bool:
        if self._socket is None:
            self._connect()
            return False
        self._looks += 1
        try:
            if not self._asked:
                self._socket.send(_REQUEST)
                self._asked = True
            while data := self._socket.recv(4096):
                self._answer += data
        except BlockingIOError:  # not connected or not answered yet
            if self._looks > _LOOKS_MAX:
                self.close()
            return False
        except OSError:
            self.close()
            return False
        self.close()
        return is_serving(self._answer, self._unmanned, self._given_up)

    def _connect(self) -> None:
        self._socket = socket.socket(self._family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._answer, self._asked, self._looks = b"", False, 0
        with suppress(OSError):  # BlockingIOError: under way; any other shows at the next look
            self._socket.connect(self._address)
