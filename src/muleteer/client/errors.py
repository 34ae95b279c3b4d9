"""What can go wrong for a Python program that steers a server. Must not know how anything is sent.

MuleteerError
├── AdminUnreachable    nobody answers on the admin socket
├── AdminRefused        the admin API answered with an error: code, HTTP status
├── StartFailed         a backend does not become ready: its reason; what served before goes on serving
├── ServerNotStarted    `start()` could not start a server: what the command said
├── CannotShip          a class cannot be sent as source: the sentence names what stands in the way
└── CallFailed          a call through a handle was not answered with a 200: code, HTTP status, execution, retryable
"""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.base.errors import MuleteerError


class AdminUnreachable(MuleteerError):
    """Nobody answers on the admin socket: there is no server, or its controller is being restarted."""


class AdminRefused(MuleteerError):
    """The admin API answered with an error; the message is its own.

    Attributes:
        code: machine word, e.g. `exists`, `in_use`, `not_found`, `conflict`, `state_unwritable`.
        status: of HTTP.
        problems: one sentence each, where there are several.
    """

    def __init__(self, message: str, *, code: str = "", status: int = 0, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.problems = tuple(problems)


class StartFailed(MuleteerError):
    """`backend` was declared and does not become ready. It stays declared, and what served before goes on serving."""

    def __init__(self, message: str, backend: str) -> None:
        super().__init__(message)
        self.backend = backend


class ServerNotStarted(MuleteerError):
    """`start()` could not start a server. `exit_status`: of `muleteer serve`."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class CannotShip(MuleteerError, TypeError):
    """A class or function that no replica could import, and whose source alone would not be it."""


class CallFailed(MuleteerError):
    """A call was not answered with a 200.

    Attributes:
        code, execution, retryable: of the error body (docs/behaviour.md); `unreachable` if there was no answer.
        status: of HTTP; 0 if there was no answer.
        request_id: for the logs; empty if there was no answer.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 0,
        execution: str = "unknown",
        retryable: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.execution = execution
        self.retryable = retryable
        self.request_id = request_id
