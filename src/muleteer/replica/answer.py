"""One call through the user's method: body in, the terminal frame's payload out. Must not know links or loops.

`answer` and `answer_async` are the boundary to the user's code: whatever it raises becomes an ERROR, and never ends the
replica. The model's example goes the same way before the first call: `example_body`, `answer`, `check_warm_up`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from muleteer.base.errors import BadModelOutput, ModelError, RequestError, StartError
from muleteer.base.limits import ANSWER_BYTES_MAX
from muleteer.replica.encode import encode
from muleteer.replica.load import Model
from muleteer.replica.strict_json import decode
from muleteer.replica.traces import own_traceback, say, write
from muleteer.telemetry.log import log
from muleteer.wire.frames import FrameType, join_payload

_now_ns = time.perf_counter_ns
_NO_METADATA = join_payload(b"", b"")
_US_MAX = 2**32 - 1  # the width of the frame's field: 71 minutes


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call. `id` is the wire's, `request_id` the client's; `expires_s` is a moment on the caller's clock. Calls
    with the same number `batch` came as one; who is to be run `once` is not run again where that fails.

    Without a `request_id` nobody asked: it is the warm-up, and whoever runs it reports what went wrong.
    """

    id: int
    request_id: str | None
    body: bytes
    expires_s: float
    batch: int = 0
    once: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The terminal frame of a call: REPLY or ERROR, its payload, and the time inside the user's method in µs."""

    kind: FrameType
    payload: bytes
    service_us: int = 0


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Payload of an ERROR frame. `code` is a machine word of docs/processes.md."""

    code: str
    error: str
    traceback: str | None = None


def refusal(code: str, sentence: str) -> Answer:
    """An ERROR for a call that was not run."""
    return Answer(FrameType.ERROR, _encode_failure(Failure(code, sentence)))


_encode_failure = msgspec.json.Encoder().encode
EXPIRED = refusal("expired_in_queue", "the deadline passed before the model was free")


def answer(model: Model, body: bytes, *, request_id: str | None, debug: bool) -> Answer:
    """Run a plain method. Never raises. A failure is logged under `request_id`, if there is one."""
    began = service_us = 0
    try:
        positional, keywords = model.signature.bind(decode(body))
        began = _now_ns()
        result = model.method(*positional, **keywords)
        service_us = elapsed_us(began)
        return reply(result, service_us)
    except BaseException as error:  # noqa: BLE001 - the user's code, also its SystemExit and KeyboardInterrupt
        return failure(error, service_us or elapsed_us(began), request_id, debug)


async def answer_async(model: Model, body: bytes, *, request_id: str | None, debug: bool) -> Answer:
    """Run a coroutine method. Raises nothing but the CancelledError of its own task."""
    began = service_us = 0
    try:
        positional, keywords = model.signature.bind(decode(body))
        began = _now_ns()
        result = await model.method(*positional, **keywords)
        service_us = elapsed_us(began)
        return reply(result, service_us)
    except BaseException as error:  # the user's code, also its SystemExit and CancelledError
        if is_cancelled(error):
            raise
        return failure(error, service_us or elapsed_us(began), request_id, debug)


def example_body(model: Model) -> bytes:
    """The model's example as a client would send it. Raises StartError."""
    try:
        return encode(model.example)
    except BadModelOutput as error:
        what = error.message.removeprefix("predict returned ")  # it was not predict
        raise StartError("warm_up_failed", f"`example` is not JSON: {what}") from error


def check_warm_up(result: Answer) -> None:
    """Raises StartError (warm_up_failed) if the answer to the example is an ERROR."""
    if result.kind is FrameType.ERROR:
        failure = msgspec.json.decode(result.payload, type=Failure)
        trace = f"\n{failure.traceback}" if failure.traceback else ""
        raise StartError("warm_up_failed", f"warming up with `example` failed: {failure.error}{trace}")


def reply(result: Any, service_us: int) -> Answer:
    """The REPLY for what the method returned. Raises BadModelOutput."""
    body = encode(result)
    if len(body) > ANSWER_BYTES_MAX:
        raise BadModelOutput(f"predict returned {len(body)} bytes of JSON, the limit is {ANSWER_BYTES_MAX}")
    return Answer(FrameType.REPLY, _NO_METADATA + body, service_us)


def is_cancelled(error: BaseException) -> bool:
    """Whether we asked for it; a CancelledError that the model raised of itself is an error like any other."""
    from asyncio import CancelledError, current_task

    task = current_task()
    return isinstance(error, CancelledError) and task is not None and task.cancelling() > 0


def elapsed_us(began: int) -> int:
    """Since `began`, of `time.perf_counter_ns`; 0 means never."""
    return min((_now_ns() - began) // 1000, _US_MAX) if began else 0


def failure(error: BaseException, service_us: int, request_id: str | None, debug: bool) -> Answer:
    """The ERROR for what was raised. What the model did is logged under `request_id`, if there is one."""
    if isinstance(error, RequestError) and not isinstance(error, ModelError):
        return refusal(error.code, error.message)
    trace: str | None = None
    if isinstance(error, BadModelOutput):
        code, sentence = error.code, error.message
        if request_id is not None:
            log("the model's output has no JSON form", request=request_id, error=sentence)
    else:
        code, sentence = ModelError.code, say(error)
        trace = own_traceback(error)
        if request_id is not None:
            log("the model raised", request=request_id, error=sentence)
            write(trace)
    payload = _encode_failure(Failure(code, sentence, trace if debug else None))
    return Answer(FrameType.ERROR, payload, service_us)
