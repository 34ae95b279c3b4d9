"""All of the controller process but the supervisor: a real store, the real admin API on real sockets, a gateway's real
control socket, and an engine in memory.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from muleteer.base.clock import MonotonicClock
from muleteer.control.admin.security import Gate, tcp_gate
from muleteer.control.admin.server import AdminServer, Listener
from muleteer.control.commands import Commands
from muleteer.control.controller import Controller
from muleteer.control.declaration import Declaration
from muleteer.control.explain import Explanation, explain_named
from muleteer.control.problems import Problems
from muleteer.control.rolling import Rolling
from muleteer.control.status import Server, build
from muleteer.spec.settings import Declared, ServerSettings
from muleteer.spec.start import Start
from muleteer.testing.engine import FakeEngine, FakeWorld
from tests.control.gateway_peer import GatewayPeer
from tests.control.http_peer import Answer, ask

TOKEN = "correct-horse-battery"
MODEL = "class M:\n    def predict(self, x): return x\n"


class HeldClock(MonotonicClock):
    """Real time, which does not pass for the controller while it is held, however long the test takes."""

    def __init__(self) -> None:
        self._held_s: float | None = None
        self._skipped_s = 0.0

    def now(self) -> float:
        return self._held_s if self._held_s is not None else super().now() - self._skipped_s

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held_s = self.now()
        try:
            yield
        finally:
            self._skipped_s = super().now() - self._held_s
            self._held_s = None


class Rig:
    """Also the `Control` that the admin API asks."""

    def __init__(self, run_dir: str, engine: Callable[[FakeWorld], FakeEngine] = FakeEngine) -> None:
        self.run_dir = run_dir
        self.engine = engine
        self.dir = Path(run_dir)
        (self.dir / "m.py").write_text(MODEL)
        self.world = FakeWorld()
        self.clock = HeldClock()
        self.gateway = GatewayPeer(f"{run_dir}/gateway-0.sock")
        self.notices: list[str] = []
        self.failures: list[BaseException] = []
        self.shutdowns = 0
        self.broken = False
        self.start = Start(start_id=uuid.uuid4().hex, declared=Declared(server=ServerSettings(run_dir=run_dir)))
        self.able: Callable[[str], bool | str] = self._able

    async def open(self) -> None:
        """A controller begins its life; again after `kill`."""
        self.declaration = Declaration(self.start, self.run_dir, Problems())
        self.declaration.open()
        self.controller = Controller(
            self.declaration.declared,
            self.engine(self.world),
            run_dir=self.run_dir,
            gateways=("gateway-0",),
            notice=self.notices.append,
            clock=self.clock,
            problems=self.declaration.problems,
            server=self.declaration.server,
            cookie_key=self.declaration.cookie_key,
            awake=lambda: self.rolling.versions_wanted(),
        )
        self.rolling = Rolling(
            self.declaration,
            statistics=self.gateway_statistics,
            able=lambda name: self.able(name),
            follow=self.controller.declare,
            notice=self.notices.append,
            clock=MonotonicClock(),
        )
        self.commands = Commands(self.declaration, self.rolling, self.controller.declare)
        published = asyncio.Event()
        self._task = asyncio.create_task(self.controller.run(published.set))
        unix, tcp = socket.socket(socket.AF_UNIX), socket.socket()
        self.admin = f"{self.run_dir}/admin.sock"
        with suppress(FileNotFoundError):
            os.unlink(self.admin)  # noqa: PTH108
        unix.bind(self.admin)
        tcp.bind(("127.0.0.1", 0))
        for listening in (unix, tcp):
            listening.listen()
        self.tcp = tcp.getsockname()
        listeners = [Listener(unix, Gate()), Listener(tcp, tcp_gate("muleteer.example", self.tcp[1], TOKEN))]
        self._server = AdminServer(listeners, self, self.failures.append)
        self._server.open()
        await published.wait()

    async def close(self) -> None:
        await self._server.close()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.declaration.close()
        assert self.failures == []

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return await asyncio.to_thread(ask, self.admin, method, path, body, **more)

    async def ask_tcp(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return await asyncio.to_thread(ask, tuple(self.tcp), method, path, body, **more)

    async def done(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The body of an answer that must be 200."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status == 200, answer
        return answer.body

    async def until(self, holds: Callable[[], Any], timeout_s: float = 40.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():
                assert not self._task.done(), self._task
                await asyncio.sleep(0.005)

    async def settled(self) -> dict[str, Any]:
        await self.until(lambda: self.controller.statistics().settled)
        return await self.status()

    async def gateway_statistics(self) -> dict[str, dict[str, Any] | None]:
        """A gateway that lives is asked until it answers: it is in this process, and seems silent when that stood still."""
        while None in (found := await self.controller.publisher.gateway_statistics()).values():
            if self.gateway.closed:
                break
            await asyncio.sleep(0.005)
        return found

    # what the admin API asks

    async def status(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("the table is upside down")
        gateways = await self.gateway_statistics()
        return build(
            Server(1, 2.0, None),
            self.controller.declared,
            self.controller.statistics(),
            gateways,
            {},
            revision=self.declaration.revision,
            rollouts={view.endpoint: view for view in self.rolling.views()},
        )

    async def explain(self, name: str) -> Explanation | None:
        gateways = await self.gateway_statistics()
        return explain_named(name, self.controller.declared, self.controller.statistics(), gateways)

    def problems(self) -> dict[str, str]:
        return self.declaration.problems.statistics()

    def retry(self, name: str) -> list[str] | None:
        return self.controller.retry(name)

    def shutdown(self) -> None:
        self.shutdowns += 1

    def _able(self, name: str) -> bool | str:
        found = self.controller.backend_statistics(name)
        return any(row.status.state == "ready" for row in found.replicas) if found is not None else f"{name} is gone"


@asynccontextmanager
async def running(engine: Callable[[FakeWorld], FakeEngine] = FakeEngine) -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="mul") as run_dir:
        rig = Rig(run_dir, engine)
        await rig.gateway.open()
        await rig.open()
        try:
            yield rig
        finally:
            await rig.close()
            await rig.gateway.close()


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    run.__name__ = test.__name__
    run.__signature__ = __import__("inspect").signature(test)
    return run
