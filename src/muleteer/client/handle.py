"""Calls of an endpoint from Python: `handle.remote(text="…")` → an Answer to wait for or to await. Must not know the
admin API. It is an ordinary HTTP client of the gateway: queueing, deadlines and re-execution are the server's.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import select
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self
from urllib.parse import urlsplit

from muleteer.client.errors import CallFailed

CALLS_AT_ONCE = 32
"""Threads of one handle; further calls wait here."""
_GRACE_S = 5.0
"""What an answer may take beyond the deadline that the server keeps."""
_TIMEOUT_S_MAX = 3600.0


class Answer:
    """The answer to come, of one call."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self, timeout: float | None = None) -> Any:
        """What the model returned. Raises CallFailed; TimeoutError after `timeout` seconds, the call goes on."""
        return self._future.result(timeout)

    def done(self) -> bool:
        """Whether `result()` would return or raise at once."""
        return self._future.done()

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self._future).__await__()


class Handle:
    """One endpoint, to be called. Threads and connections are made with the first call; `close()` ends them.

    Args:
        url: of the endpoint.
        method: of HTTP.
        timeout_s: deadline of each call, queueing included; None: the server's.
        headers: sent with each call, e.g. the session of an endpoint with affinity.
        callers: of another handle, to share.
    """

    def __init__(
        self,
        url: str,
        method: str,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        callers: _Callers | None = None,
    ) -> None:
        self._url = url
        self._method = method
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})
        self._callers = callers or _Callers(url)

    def options(self, *, timeout: float | None = None, headers: Mapping[str, str] | None = None) -> Handle:
        """The same endpoint with another deadline (seconds) or more headers, over the same threads and connections."""
        merged = {**self._headers, **(headers or {})}
        timeout_s = self._timeout_s if timeout is None else timeout
        return Handle(self._url, self._method, timeout_s=timeout_s, headers=merged, callers=self._callers)

    def remote(self, *argument: Any, **arguments: Any) -> Answer:
        """Call the model with keyword arguments, or with one JSON value as it is. Returns at once."""
        if len(argument) > 1 or (argument and arguments):
            raise TypeError("remote() takes keyword arguments, or one value as it is")
        body = json.dumps(argument[0] if argument else arguments, allow_nan=False).encode()
        return Answer(self._callers.submit(lambda: self._call(body)))

    def close(self) -> None:
        """Wait for open calls and close the connections."""
        self._callers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _call(self, body: bytes) -> Any:
        headers = {**self._headers, "content-type": "application/json"}
        if self._timeout_s is not None:
            headers["x-request-timeout-ms"] = str(max(1, round(self._timeout_s * 1000)))
        patience_s = (_TIMEOUT_S_MAX if self._timeout_s is None else self._timeout_s) + _GRACE_S
        try:
            status, text = self._callers.exchange(self._method, body, headers, patience_s)
        except (OSError, http.client.HTTPException) as error:  # not sent again: it may have been run
            raise CallFailed(
                f"{self._url} does not answer: {error or type(error).__name__}", code="unreachable", retryable=True
            ) from None
        if status == http.client.OK:
            return json.loads(text)
        raise _failed(status, text)


class _Callers:
    """Threads, each with a connection of its own that it keeps."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._connections: set[http.client.HTTPConnection] = set()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run `call` in one of the threads."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="muleteer-handle")
            return self._pool.submit(call)

    def exchange(self, method: str, body: bytes, headers: Mapping[str, str], patience_s: float) -> tuple[int, bytes]:
        """Status and body of one request over this thread's connection. Raises OSError, HTTPException."""
        connection = getattr(self._local, "connection", None)
        if connection is not None and _has_ended(connection):
            self._drop(connection)
            connection = None
        if connection is None:
            connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=patience_s)
            with self._lock:
                self._connections.add(connection)
            self._local.connection = connection
        else:
            connection.sock.settimeout(patience_s)
        try:
            connection.request(method, self._url.path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._drop(connection)
            raise

    def close(self) -> None:
        """Wait for open calls, end the threads, close the connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        with self._lock:
            while self._connections:
                self._connections.pop().close()
            self._local = threading.local()

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None
        with self._lock:
            self._connections.discard(connection)


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the server closed it while it was idle: then there is something to read, and it is the end."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _failed(status: int, text: bytes) -> CallFailed:
    try:
        body = json.loads(text)
        return CallFailed(
            str(body["error"]),
            code=str(body["code"]),
            status=status,
            execution=str(body["execution"]),
            retryable=bool(body["retryable"]),
            request_id=str(body["request_id"]),
        )
    except (ValueError, KeyError, TypeError):
        return CallFailed(f"answered {status} without saying why", code="unknown", status=status)
