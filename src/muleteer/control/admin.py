"""The admin API: HTTP on a Unix socket that only its owner may open. Must not know how anything is done: it asks.

Starlette and uvicorn cost 300 ms and 20 MB, so they are imported when the first client knocks, and in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from muleteer.base.errors import SpecError
from muleteer.spec.names import check_name

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
    from uvicorn import Server


class Control(Protocol):
    """What the admin API asks."""

    async def status(self) -> dict[str, Any]:
        """The answer of GET /v1/status."""
        ...

    def problems(self) -> dict[str, str]:
        """What the controller cannot do now."""
        ...

    def retry(self, name: str) -> list[str] | None:
        """Start failed replicas afresh; their ids, or None if there is no such backend."""
        ...


class RefuseOrigin:
    """No page is served from this socket, so a request with an Origin comes from a foreign one, whatever its method."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await _error(403, "foreign_origin", "requests of web pages are refused")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _error(status: int, code: str, message: str) -> JSONResponse:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": message, "code": code}, status_code=status)


def build_app(control: Control) -> Starlette:
    """The application. Every answer is JSON; an error is `{"error", "code"}`."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def status(_request: Request) -> JSONResponse:
        return JSONResponse(await control.status())

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"ok": True, "problems": control.problems()})

    async def retry(request: Request) -> JSONResponse:
        try:
            name = check_name(request.path_params["name"], "backend name")
        except SpecError as error:
            return _error(400, "bad_name", str(error))
        retried = control.retry(name)
        if retried is None:
            return _error(404, "not_found", f"there is no backend {name!r}")
        return JSONResponse({"retried": retried})

    async def refused(_request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            return _error(error.status_code, "not_found" if error.status_code == 404 else "bad_request", error.detail)
        return _error(500, "internal", f"{type(error).__name__}: {error}")  # and its traceback goes to the log

    return Starlette(
        routes=[
            Route("/v1/status", status, methods=["GET"]),
            Route("/v1/health", health, methods=["GET"]),
            Route("/v1/backends/{name}/retry", retry, methods=["POST"]),
        ],
        middleware=[Middleware(RefuseOrigin)],
        exception_handlers={HTTPException: refused, Exception: refused},
    )


def _build_server(control: Control) -> Server:
    import uvicorn

    class QuietServer(uvicorn.Server):
        """Leaves the signals to us."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        build_app(control),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return QuietServer(config)


class AdminServer:
    """Serves the admin API on a listening socket. Clients wait in its backlog while the server is being imported."""

    def __init__(self, listening: socket.socket, control: Control, on_failure: Callable[[BaseException], None]) -> None:
        self._listening = listening
        self._control = control
        self._on_failure = on_failure
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Wait for the first client."""
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._knock)

    async def close(self) -> None:
        """Answer what is open, for at most a second, and close the socket."""
        asyncio.get_running_loop().remove_reader(self._listening)
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        elif self._task is not None:
            self._task.cancel()
        self._listening.close()

    def _knock(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listening)
        self._task = asyncio.create_task(self._serve())
        self._task.add_done_callback(self._ended)

    async def _serve(self) -> None:
        self._server = await asyncio.to_thread(_build_server, self._control)
        serving: Awaitable[None] = self._server.serve(sockets=[self._listening])
        await serving

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)
