"""A gateway without HTTP in front of scripted replicas: real sockets, real frames, no processes.

Most tests are in the time of an `UnhurriedLoop`, so what they say about deadlines holds on any machine. Those in which no
time matters run on uvloop, as the gateway does.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import uvloop

from muleteer.base.errors import RequestError
from muleteer.gateway.application import Application
from muleteer.gateway.exchange import Exchange, Head, Response
from muleteer.gateway.http.respond import render_error
from muleteer.spec.snapshot import BackendRoute, EndpointRoute, ReplicaAddress, Snapshot
from muleteer.testing.scripted_replica import ScriptedReplica
from tests.gateway.unhurried import LoopClock, UnhurriedLoop

PAYLOAD_MAX = 1024 * 1024
PATIENCE_S = 40.0
"""Only ends a test that has failed."""


class Request:
    """One request as the HTTP side would make it. Fails the test if it is answered twice."""

    numbers = itertools.count(1)

    def __init__(
        self,
        application: Application,
        body: bytes,
        *,
        path: str,
        client: str,
        headers: dict[str, str],
        length: int | None,
    ):
        self.response: Response | None = None
        self.answered_s = 0.0
        self._now = asyncio.get_running_loop().time
        self.answered = asyncio.Event()
        self.exchange: Exchange | None = None
        self.body = body
        self.head = Head(
            method="POST",
            path=path,
            query=b"",
            headers=headers,
            content_length=len(body) if length is None else length,
            request_id=f"r-{next(self.numbers)}",
            client=client,
            received_s=self._now(),
            respond=self._respond,
        )
        try:
            self.exchange = application.begin(self.head)
        except RequestError as error:
            self._respond(render_error(error, self.head.request_id))

    def _respond(self, response: Response) -> None:
        assert self.response is None, "answered twice"
        self.response = response
        self.answered_s = self._now()
        self.answered.set()

    def run(self) -> "Request":
        if self.exchange is not None:
            self.exchange.run(self.body)
        return self

    @property
    def status(self) -> int:
        assert self.response is not None
        return self.response.status

    @property
    def code(self) -> str:
        assert self.response is not None
        return msgspec.json.decode(self.response.body)["code"]

    @property
    def execution(self) -> str:
        assert self.response is not None
        return msgspec.json.decode(self.response.body)["execution"]

    @property
    def attempts(self) -> int:
        assert self.response is not None
        lines = dict(line.split(": ") for line in self.response.headers.decode().splitlines())
        return int(lines["muleteer-attempts"])

    async def outcome(self, timeout_s: float = PATIENCE_S) -> "Request":
        await asyncio.wait_for(self.answered.wait(), timeout_s)
        return self


class Rig:
    """Backend `model` behind `/predict`, with the scripted replicas `model-1` … in `replicas`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.aborts: list[tuple[str, int, str]] = []
        self.replicas: list[ScriptedReplica] = []
        self.revision = 0
        self.route = BackendRoute(name="model")
        self.max_body = 1024 * 1024
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.now = asyncio.get_running_loop().time
        self.application = Application(name="gateway-t", payload_max=PAYLOAD_MAX, abort=self._abort, clock=LoopClock())
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.application.close()
            await self._stack.aclose()

    def _abort(self, replica: str, pid: int, reason: str) -> None:
        self.aborts.append((replica, pid, reason))

    async def replica(self, **options: Any) -> ScriptedReplica:
        number = len(self.replicas) + 1
        name = f"model-{number}"
        replica = ScriptedReplica(self.directory / f"{number}.sock", **{"replica": name, **options})
        self.replicas.append(await self._stack.enter_async_context(replica))
        return replica

    def publish(self, replicas: list[ScriptedReplica] | None = None, **changes: Any) -> None:
        members = self.replicas if replicas is None else replicas
        addresses = tuple(ReplicaAddress(f"model-{self.replicas.index(r) + 1}", r.address) for r in members)
        self.route = msgspec.structs.replace(self.route, replicas=addresses, **changes)
        self.revision += 1
        endpoint = EndpointRoute(
            name="e", route="/predict", traffic={"model": 1.0}, timeout_s=self.route.timeout_s, max_body=self.max_body
        )
        self.application.apply(Snapshot(self.revision, (endpoint,), (self.route,)))

    async def ready(self, links: int | None = None) -> None:
        wanted = len(self.replicas) if links is None else links
        await self.until(lambda: self.backend.links_ready == wanted)

    async def start(
        self, replicas: int, *, script: Any = None, route: dict[str, Any] | None = None, **options: Any
    ) -> None:
        for _ in range(replicas):
            await self.replica(**({} if script is None else {"script": script}), **options)
        self.publish(**(route or {}))
        await self.ready()

    async def until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        give_up_s = self.now() + timeout_s
        while not condition():
            assert self.now() < give_up_s, "the event did not come"
            await asyncio.sleep(0.002)

    async def quiet(self) -> None:
        """Every counter is back at 0."""
        await self.until(lambda: self.application.quiet)
        for backend in self.application.statistics().backends.values():
            assert (backend.open_calls, backend.retrying, backend.queue.depth) == (0, 0, 0)
            assert (backend.queue.bytes, backend.queue.reading) == (0, 0)
            assert all(replica.in_flight == 0 for replica in backend.replicas.values())
        assert self.application.statistics().waiting_bytes == 0

    @property
    def backend(self) -> Any:
        return self.application.statistics().backends["model"]

    def open(
        self,
        body: bytes = b'"x"',
        *,
        timeout_ms: int | None = None,
        priority: str | None = None,
        client: str = "c",
        path: str = "/predict",
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Request:
        fields = dict(headers or {})
        if timeout_ms is not None:
            fields["x-request-timeout-ms"] = str(timeout_ms)
        if priority is not None:
            fields["x-priority"] = priority
        return Request(self.application, body, path=path, client=client, headers=fields, length=length)

    def send(self, body: bytes = b'"x"', **options: Any) -> Request:
        return self.open(body, **options).run()


def _runs(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., None]:
    def run(test: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            with tempfile.TemporaryDirectory(prefix="mt-") as directory:  # short: a socket path holds 107 bytes
                async with Rig(Path(directory)) as rig:
                    await asyncio.wait_for(test(rig), 2 * PATIENCE_S)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    return run


@pytest.fixture
def rig():
    """`rig(test)` runs the coroutine function `test(rig)` with a fresh Rig. Time passes only while nothing happens."""
    return _runs(UnhurriedLoop)


@pytest.fixture
def uvloop_rig():
    """`rig` on uvloop, as in production: where deadlines, and how long anything takes, play no part."""
    return _runs(uvloop.new_event_loop)
