"""Every error that muleteer names, with the outcome it stands for.

MuleteerError
├── RequestError                the terminal outcome of one request: code, HTTP status, execution, retryable
│   ├── ClientError             4xx: mend the request (429: come back later)
│   ├── ModelError              500: the user's model raised, or returned what cannot be encoded
│   ├── NotSpoken               501, 505: a protocol feature that we do not speak
│   ├── ReplicaError            502: the replica died or broke protocol
│   ├── Refused                 503: not started, always safe to send again; carries Retry-After
│   └── DeadlineError           504: the deadline passed
├── WireError                   a frame broke a rule: the link is dead
├── StartError                  a replica cannot become ready (import error, constructor raised, warm-up failed)
└── UsageError                  the person at the command line must change something; carries the exit status
    ├── SpecError               a declared setting is wrong: names file, key and line where known
    ├── TargetError             a TARGET does not name a model
    ├── PortInUseError          somebody else listens there
    ├── AlreadyRunningError     the run directory is locked by a live supervisor
    ├── NotRunningError         there is no live supervisor in the run directory
    ├── OwnProcessError         a process of ours does not start
    ├── StartupFailedError      the server came up, but a model cannot be served
    ├── StateError              the stored state cannot be read or changed; nothing was half done
    │   └── ConflictError       it was changed by another in between
    └── UsageErrors             several of these at once

A class of the RequestError tree is one `code`. `CODES` lists them all, so a test can prove that the mapping is total
and documented.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

Execution = Literal["not_started", "unknown", "completed"]


class MuleteerError(Exception):
    """The root. `str(error)` is one sentence for a person."""


class RequestError(MuleteerError):
    """The terminal outcome of one request that is not a 200.

    Args:
        message: one sentence; goes to the client as `error`.
        retry_after_s: seconds for the `Retry-After` header, where the class sends one.
    """

    code: ClassVar[str] = ""
    status: ClassVar[int] = 500
    execution: ClassVar[Execution] = "not_started"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class ClientError(RequestError):
    """The client's mistake, said precisely; the model was not run."""

    code = "bad_request"
    status = 400


class BadJson(ClientError):
    """The body is not the JSON we accept; the message holds the position."""

    code = "bad_json"


class BadArguments(ClientError):
    """Missing, unknown or mistyped arguments of the model's method; the message names them."""

    code = "bad_arguments"


class BadEncoding(ClientError):
    """A compressed body is corrupt or truncated."""

    code = "bad_encoding"


class NotFound(ClientError):
    """No endpoint has this route."""

    code, status = "not_found", 404


class MethodNotAllowed(ClientError):
    """The route exists, but not for this method. `allow`: the methods it has, for the header of that name."""

    code, status = "method_not_allowed", 405

    def __init__(self, message: str, *, allow: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allow = tuple(allow)


class RequestTimeout(ClientError):
    """Headers or body did not arrive in time."""

    code, status, retryable = "request_timeout", 408, True


class LengthRequired(ClientError):
    """A body without a length."""

    code, status = "length_required", 411


class BodyTooLarge(ClientError):
    """Over `max_body`, as sent or after decompression."""

    code, status = "body_too_large", 413


class UriTooLong(ClientError):
    """The request target is over the limit."""

    code, status = "uri_too_long", 414


class UnsupportedMediaType(ClientError):
    """A Content-Type or Content-Encoding that we do not read."""

    code, status = "unsupported_media_type", 415


class ExpectationFailed(ClientError):
    """An Expect other than 100-continue."""

    code, status = "expectation_failed", 417


class HeadersTooLarge(ClientError):
    """One field, all fields, or their number is over the limit."""

    code, status = "headers_too_large", 431


class QuotaExceeded(ClientError):
    """This client holds its share of slots and queue while others wait."""

    code, status, retryable = "quota", 429, True


class ModelError(RequestError):
    """The model raised; the same input will fail again."""

    code, status, execution = "model_error", 500, "completed"


class BadModelOutput(ModelError):
    """The model returned what cannot be encoded (NaN, unknown types)."""

    code = "bad_model_output"


class InternalError(RequestError):
    """A fault of muleteer itself, caught at a named boundary."""

    code, status, execution = "internal", 500, "unknown"


class NotSpoken(RequestError):
    """A method or transfer coding that we do not implement."""

    code, status = "not_implemented", 501


class VersionNotSpoken(NotSpoken):
    """An HTTP version other than 1.0 and 1.1."""

    code, status = "http_version", 505


class ReplicaError(RequestError):
    """The replica died and re-execution was not allowed, or failed too."""

    code, status, retryable = "replica_died", 502, True
    execution: ClassVar[Execution] = "unknown"


class ReplicaProtocolError(ReplicaError):
    """The replica broke the wire protocol."""

    code = "replica_protocol"


class Poison(ReplicaError):
    """This body was in flight on two replicas when they died; it is not tried a third time."""

    code, retryable = "poison", False
    execution: ClassVar[Execution] = "not_started"


class Refused(RequestError):
    """Not admitted; nothing was run, sending again is always safe."""

    code, status, retryable = "queue_full", 503, True


class PredictedLate(Refused):
    """The answer would come after the deadline."""

    code = "predicted_late"


class Loading(Refused):
    """No replica is ready yet."""

    code = "loading"


class Draining(Refused):
    """The server is shutting down."""

    code = "draining"


class CrashLoop(Refused):
    """The backend has FAILED: its replicas do not become ready."""

    code = "crash_loop"


class OutOfMemory(Refused):
    """The request does not fit the memory budget."""

    code = "memory"


class TooManyConnections(Refused):
    """The connection limit is reached."""

    code = "connections"


class DeadlineError(RequestError):
    """The deadline passed while the model ran; whether it finished is unknown."""

    code, status, retryable = "deadline", 504, True
    execution: ClassVar[Execution] = "unknown"


class ExpiredInQueue(DeadlineError):
    """The deadline passed, or could no longer be met, before a replica was free; the model was not run."""

    code = "expired_in_queue"
    execution: ClassVar[Execution] = "not_started"


class WireError(MuleteerError):
    """A frame broke a rule. The stream is out of step: never read on, close the link."""


class StartError(MuleteerError):
    """A replica cannot become ready. `reason` is a machine word (`import_error`, `constructor_raised`, …)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UsageError(MuleteerError):
    """The person at the command line must change something. `str(error)` is the one line they see."""

    exit_status: ClassVar[int] = 2


class NoAnswerError(UsageError):
    """A process of ours runs, but does not do in time what it was asked."""

    exit_status = 1


class OwnProcessError(UsageError):
    """A process of ours, without which nothing is served, does not start; nothing is left running."""

    exit_status = 1


class SpecError(UsageError):
    """A declared setting is wrong."""


class TargetError(UsageError):
    """A TARGET does not name a model."""


class PortInUseError(UsageError):
    """Somebody else listens on the address."""

    exit_status = 3


class AlreadyRunningError(UsageError):
    """A live supervisor holds the run directory."""

    exit_status = 4


class NotRunningError(UsageError):
    """No live supervisor holds the run directory."""

    exit_status = 5


class StartupFailedError(UsageError):
    """The server came up but a model cannot be served; nothing is left running."""

    exit_status = 6


class StateError(UsageError):
    """The stored state cannot be read or changed; what runs is not affected, and nothing was half done."""

    exit_status = 7


class ConflictError(StateError):
    """The declared state is no longer the one that the change was made for."""

    exit_status = 8


class UsageErrors(UsageError):
    """Everything that is wrong with one command line, so that it can be mended in one go."""

    def __init__(self, errors: Sequence[UsageError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)


def _walk(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    if kind.code:
        yield kind
    for child in kind.__subclasses__():
        yield from _walk(child)


CODES: dict[str, type[RequestError]] = {kind.code: kind for kind in _walk(RequestError)}
"""Every `code` a client can see, with its class."""
