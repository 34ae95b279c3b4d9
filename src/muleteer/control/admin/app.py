"""The admin API as a web application: from a request to an operation, from its outcome to JSON. Must not know what the
operations do.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from muleteer.base.errors import ConflictError, MuleteerError, SpecError, StateError
from muleteer.base.limits import ADMIN_BODY_BYTES_MAX, ADMIN_BODY_S
from muleteer.control.admin import backends, endpoints, explanations, rollouts, whole
from muleteer.control.admin.openapi import ErrorAnswer, document
from muleteer.control.admin.operation import Ask, BadRequestError, Control, Operation
from muleteer.control.change import ChangeError
from muleteer.control.store import NoRevisionError
from muleteer.spec.names import check_name
from muleteer.spec.shape import ShapeError

OPERATIONS = (
    *whole.OPERATIONS,
    *backends.OPERATIONS,
    *endpoints.OPERATIONS,
    *rollouts.OPERATIONS,
    *explanations.OPERATIONS,
)
_WHO_CHARS_MAX = 128
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


def build_app(control: Control) -> Starlette:
    """The application. Every answer is JSON; an error is an `ErrorAnswer`."""
    described = msgspec.json.encode(document(OPERATIONS))

    async def openapi(_request: Request) -> Response:
        return Response(described, media_type="application/json")

    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    routes = [Route(path, _endpoint(control, methods), methods=list(methods)) for path, methods in by_path.items()]
    return Starlette(
        routes=[*routes, Route("/v1/openapi.json", openapi, methods=["GET"])],
        exception_handlers={HTTPException: _failed, MuleteerError: _failed, Exception: _failed},
    )


def _endpoint(control: Control, methods: dict[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        found = operation.call(control, await _ask(operation, request))
        if inspect.isawaitable(found):
            found = await found
        return _json(200, found)

    return answer


async def _ask(operation: Operation, request: Request) -> Ask:
    name = request.path_params.get("name", "")
    if name:
        try:
            check_name(name, "name")
        except SpecError as error:
            raise HTTPException(400, str(error)) from None
    number = request.path_params.get("revision", "0")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise NoRevisionError(f"there is no revision {number[:40]!r}")
    body = await _body(operation, request) if operation.body is not None else None
    return Ask(name, int(number), body, _who(request), dict(request.query_params))


async def _body(operation: Operation, request: Request) -> Any:
    """The request's JSON as the type that the operation takes. Raises HTTPException."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"the body must be application/json, not {kind[:80]!r}")
    data = bytearray()
    try:
        async with asyncio.timeout(ADMIN_BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > ADMIN_BODY_BYTES_MAX:
                    raise HTTPException(413, f"the body is over {ADMIN_BODY_BYTES_MAX} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {ADMIN_BODY_S:g} s") from None
    try:
        return msgspec.json.decode(bytes(data) or b"{}", type=operation.body)
    except msgspec.ValidationError as error:
        raise ShapeError([str(error)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


def _who(request: Request) -> str:
    """Who asks, in their own words; for the history only."""
    who = request.headers.get("x-muleteer-who", "")
    return who if who.isprintable() and 0 < len(who) <= _WHO_CHARS_MAX else "api"


async def _failed(_request: Request, error: Exception) -> Response:
    """The boundary of the admin API: the traceback of what is unknown goes to the log, by the web framework."""
    status, answer = _error(error)
    headers = error.headers if isinstance(error, HTTPException) else None
    return _json(status, answer, headers)


def _error(error: Exception) -> tuple[int, ErrorAnswer]:
    match error:
        case ChangeError():
            return error.status, ErrorAnswer(str(error), error.code)
        case ShapeError():
            return 400, ErrorAnswer(error.problems[0], "invalid", error.problems)
        case BadRequestError():
            return 400, ErrorAnswer(str(error), "bad_request")
        case NoRevisionError():
            return 404, ErrorAnswer(str(error), "not_found")
        case ConflictError():
            return 409, ErrorAnswer(str(error), "conflict")
        case StateError():
            return 507, ErrorAnswer(str(error), "state_unwritable")
        case MuleteerError():
            return 400, ErrorAnswer(str(error), "invalid", [str(error)])
        case HTTPException():
            code = _HTTP_CODES.get(error.status_code, "bad_request")
            return error.status_code, ErrorAnswer(error.detail, code)
        case ClientDisconnect():
            return 400, ErrorAnswer("the client went away", "bad_request")
        case _:
            return 500, ErrorAnswer(f"{type(error).__name__}: {error}", "internal")


def _json(status: int, value: Any, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")
