"""Asks /readyz until the gateway says yes, without ever blocking: it runs inside the supervisor's turn. Must not know
what is waited for.

A replica that is ready for the supervisor is linked by the gateway a moment later; a curl line must work in between, so
`ready` is said only when a request would be served.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

PAUSE_S = 0.01
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: muleteer\r\nConnection: close\r\n\r\n"
_YES = b"HTTP/1.1 200"
_PATIENCE = 100
"""Looks at one connection before it is given up: a second."""


class Probe:
    """One series of questions.

    Args:
        address: what to connect to.
        later: runs a call after some seconds.
        on_yes: called once.
    """

    def __init__(
        self,
        family: socket.AddressFamily,
        address: tuple[str, int],
        later: Callable[[float, Callable[[], None]], object],
        on_yes: Callable[[], None],
    ) -> None:
        self._family = family
        self._address = address
        self._later = later
        self._on_yes = on_yes
        self._socket: socket.socket | None = None
        self._asked = False
        self._looks = 0

    def start(self) -> None:
        """Ask now, and again until it is a yes."""
        if self._look():
            self._on_yes()
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
        try:
            if not self._asked:
                self._socket.send(_REQUEST)
                self._asked = True
                return False
            answer = self._socket.recv(len(_YES))
        except (BlockingIOError, InterruptedError):
            self._looks += 1
            if self._looks > _PATIENCE:
                self.close()
            return False
        except OSError:
            self.close()
            return False
        self.close()
        return answer == _YES

    def _connect(self) -> None:
        self._socket = socket.socket(self._family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._asked, self._looks = False, 0
        with suppress(OSError):  # BlockingIOError: under way; any other shows at the next look
            self._socket.connect(self._address)
