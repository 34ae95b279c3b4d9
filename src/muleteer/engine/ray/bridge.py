"""The process between controller and cluster: holds the connection to Ray and one `Placed` for each replica. It may
hang, be killed, or be aborted by Ray's own library: the controller does not notice but for a problem in status, and
its successor adopts what runs. Must not know why a replica is wanted.

Lines to a controller: `replicas` (all, once Ray was asked), then `replica` for each change, `cluster` for what there
is, `problem`, `gateways`. Lines from it: `open` (first; whose replicas, and whether each node is to have a gateway),
`start`, `stop`, `retry`, `abort`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.errors import WireError
from muleteer.base.limits import RAY_CALL_S, RAY_LOOK_S, RAY_RETRY_S
from muleteer.engine.line_stream import LineStream
from muleteer.engine.port import ReplicaRequest, ReplicaStatus
from muleteer.engine.ray.cluster import Cluster, Hung, RayError
from muleteer.engine.ray.gateway_host import GatewayWish
from muleteer.engine.ray.nodes import PREFIX, NodeGateways
from muleteer.engine.ray.place import View
from muleteer.engine.ray.placed import Placed
from muleteer.spec.secret import derive
from muleteer.telemetry.log import log

_JOINING_S = 3.0
"""More than joining usually takes; then it is said."""
_FIRST_WORD_S = 3.0
"""Of a controller, to a bridge that is ended as soon as it began."""


class Bridge:
    """Serves one controller at a time; the newest counts.

    Args:
        listener: where controllers dial.
        cluster: not yet connected.
        machine: see `Placed`.
        on_joined: called when Ray's library is in this process: it takes over signals.
        notice: says one line to the person in the foreground.
    """

    def __init__(
        self,
        listener: socket.socket,
        cluster: Cluster,
        *,
        machine: str,
        clock: Clock,
        on_joined: Callable[[], None],
        notice: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._cluster = cluster
        self._machine = machine
        self._clock = clock
        self._on_joined = on_joined
        self._notice = notice
        self._ending = False
        self._controller: LineStream | None = None
        self._instance = ""
        self._key = b""
        self._opened = asyncio.Event()
        self._adopted = asyncio.Event()
        self._problem = ""
        self._troubled = asyncio.Event()  # while something has failed
        self._view = View()
        self._table: dict[str, Placed] = {}
        self._told: dict[str, tuple[float, ReplicaStatus]] = {}
        self._grace_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wish: GatewayWish | None = None
        self._gateways: NodeGateways | None = None

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(self._new_controller, sock=self._listener)
        try:
            await self._join()
            await self._opened.wait()
            await self._adopt()
            await self._look_for_ever()
        finally:
            server.close()

    async def stop_all(self) -> None:
        """The server ends: so do its replicas, also those that `run`, which goes on meanwhile, has yet to find. None is
        started any more.
        """
        self._ending = True
        await self._find_in_time()
        if self._gateways is not None:
            await self._gateways.stop()
        await asyncio.gather(*(placed.stop(self._grace_s.get(id, 0.0)) for id, placed in list(self._table.items())))

    async def _find_in_time(self) -> None:
        """What an earlier life of this server left on the cluster can only be ended once it was found."""
        with suppress(TimeoutError):  # what the controller wants was perhaps not read yet
            await asyncio.wait_for(self._opened.wait(), _FIRST_WORD_S)
        if self._adopted.is_set() or not self._instance:
            return
        known, troubled = (asyncio.ensure_future(event.wait()) for event in (self._adopted, self._troubled))
        await asyncio.wait({known, troubled}, timeout=RAY_CALL_S, return_when=asyncio.FIRST_COMPLETED)
        for each in (known, troubled):
            each.cancel()
        if not self._adopted.is_set():
            why = self._problem or f"the Ray cluster at {self._cluster.address} has not answered"
            self._notice(
                f"{why}; replicas that an earlier life of this server left there are adopted by its next start, or end "
                f"themselves after {self._cluster.orphan_s:g} s"
            )

    def abort(self, id: str, pid: int, reason: str) -> None:
        """Have the process of that replica killed with a stack dump, if it still is that pid."""
        placed = self._table.get(id)
        if placed is not None:
            self._do(placed.abort(pid, reason))

    # Ray

    async def _join(self) -> None:
        where = f"the Ray cluster at {self._cluster.address}"
        late = asyncio.get_running_loop().call_later(_JOINING_S, self._tell_problem, f"still joining {where}")
        try:
            await self._try_to_join(where)
        finally:
            late.cancel()

    async def _try_to_join(self, where: str) -> None:
        while True:
            try:
                await self._cluster.connect()
                self._view = await self._cluster.view()
            except Hung as error:
                self._say_problem(f"cannot join {where}: {error}")
                raise
            except RayError as error:
                self._say_problem(f"cannot join {where}: {error}")
                await asyncio.sleep(RAY_RETRY_S)
            else:
                self._on_joined()
                self._say_problem("")
                return

    async def _adopt(self) -> None:
        """Every actor of ours that answers in time is a replica; one that does not is ended."""
        while True:
            try:
                found = await self._cluster.find(self._instance)
                break
            except RayError as error:
                self._say_problem(f"cannot list the actors of the Ray cluster at {self._cluster.address}: {error}")
                await asyncio.sleep(RAY_RETRY_S)
        gateways = {id: found.pop(id) for id in list(found) if id.startswith(PREFIX)}
        if self._wish is not None:
            self._keep_gateways(self._wish)
        else:
            for handle in gateways.values():  # of an earlier life of the server, which wanted them
                self._do(self._end(handle))
        placed = [self._add(id, handle=handle) for id, handle in found.items()]
        await asyncio.gather(*(self._known_or_ended(each) for each in placed))
        self._adopted.set()
        self._say_problem("")
        self._introduce()

    async def _end(self, handle: Any) -> None:
        with suppress(RayError):  # it is asked for again by the next life
            await self._cluster.kill(handle)

    async def _known_or_ended(self, placed: Placed) -> None:
        try:
            await asyncio.wait_for(placed.known.wait(), RAY_CALL_S)
        except TimeoutError:
            log("an actor that does not answer is ended", replica=placed.id)
            await placed.stop(0.0)

    async def _look_for_ever(self) -> None:
        while True:
            begun_s = self._clock.now()
            try:
                self._view = await self._cluster.view()
                self._say_problem("")
            except Hung as error:
                self._say_problem(f"lost the Ray cluster at {self._cluster.address}, replicas that live go on: {error}")
                raise
            except RayError as error:
                self._say_problem(f"the head of the Ray cluster does not answer, replicas that live go on: {error}")
            else:
                for placed in list(self._table.values()):
                    placed.look(begun_s)
            self._say_cluster()
            await asyncio.sleep(RAY_LOOK_S)

    # replicas

    def _add(self, id: str, *, request: ReplicaRequest | None = None, handle: Any = None) -> Placed:
        placed = Placed(
            id,
            derive(self._key, id),
            self._instance,
            cluster=self._cluster,
            view=lambda: self._view,
            machine=self._machine,
            tell=self._tell,
            clock=self._clock,
            behind=lambda: self._behind(placed),
            request=request,
            handle=handle,
        )
        self._table[id] = placed
        self._do(self._run(placed))
        return placed

    def _behind(self, placed: Placed) -> int:
        """How many that want the same of the cluster stand behind it in the table, and have not begun."""
        asks, seen, count = placed.asks, False, 0
        for each in self._table.values():
            count += seen and each.asks == asks
            seen = seen or each is placed
        return count

    async def _run(self, placed: Placed) -> None:
        await placed.run()
        self._table.pop(placed.id, None)
        self._told.pop(placed.id, None)

    def _tell(self, status: ReplicaStatus) -> None:
        _, before = self._told.get(status.id, (0.0, None))
        self._told[status.id] = (self._clock.now(), status)
        news = news_of(before, status)
        if news is not None and not self._ending:
            self._notice(news)
        if self._adopted.is_set():
            self._send({"type": "replica", "replica": msgspec.to_builtins(status)})

    # the controller

    def _new_controller(self) -> LineStream:
        lines: LineStream = LineStream(
            lambda message: self._receive(lines, message), lambda: self._controller_gone(lines)
        )
        return lines

    def _controller_gone(self, lines: LineStream) -> None:
        if lines is self._controller:
            self._controller = None

    def _receive(self, lines: LineStream, message: dict[str, Any]) -> None:
        if message["type"] == "open":
            self._open(lines, message)
        elif lines is not self._controller or not self._adopted.is_set():
            raise WireError(f"{message['type']} before the replicas were told")
        elif message["type"] == "start":
            self._start(msgspec.convert(message["request"], ReplicaRequest))
        else:
            placed = self._table.get(message["id"])
            if placed is None:
                return
            actions: dict[str, Callable[[], Any]] = {
                "stop": lambda: placed.stop(message["grace_s"]),
                "retry": placed.retry,
                "abort": lambda: placed.abort(message["pid"], message["reason"]),
            }
            self._do(actions[message["type"]]())

    def _open(self, lines: LineStream, message: dict[str, Any]) -> None:
        if self._instance not in ("", message["instance"]):
            raise WireError("this bridge keeps the replicas of another server")
        self._instance, self._key = message["instance"], bytes.fromhex(message["key"])
        wish = message.get("gateways")
        self._wish = None if wish is None else msgspec.convert(wish, GatewayWish)
        self._controller = lines
        if self._adopted.is_set():
            self._introduce()
        if self._problem:  # after the replicas, which tell a controller that all is well
            self._send({"type": "problem", "text": self._problem})
        self._opened.set()

    def _introduce(self) -> None:
        """All that there is, as of now."""
        now = self._clock.now()
        rows = [
            msgspec.structs.replace(status, since_s=status.since_s + now - at)
            for at, status in self._told.values()
            if status.state != "gone"
        ]
        self._say_cluster()
        self._say_gateways()
        self._send({"type": "replicas", "replicas": msgspec.to_builtins(rows)})

    def _keep_gateways(self, wish: GatewayWish) -> None:
        self._gateways = NodeGateways(
            self._cluster, instance=self._instance, key=self._key, wish=wish, tell=self._say_gateways
        )
        self._do(self._follow_nodes(self._gateways))

    async def _follow_nodes(self, gateways: NodeGateways) -> None:
        while not self._ending:
            with suppress(RayError):  # who looks at the nodes says what is wrong
                await gateways.follow(self._view)
            await asyncio.sleep(RAY_LOOK_S)

    def _say_gateways(self) -> None:
        if self._gateways is not None and not self._ending:
            self._send({"type": "gateways", "rows": msgspec.to_builtins(self._gateways.rows)})

    def _start(self, request: ReplicaRequest) -> None:
        self._grace_s[request.id] = request.grace_s
        if request.id not in self._table and not self._ending:
            self._add(request.id, request=request)

    def _say_problem(self, text: str) -> None:
        (self._troubled.set if text else self._troubled.clear)()
        self._tell_problem(text)

    def _tell_problem(self, text: str) -> None:
        """What is only late has not failed: who waits for the outcome goes on waiting."""
        if text != self._problem:
            self._problem = text
            log("problem", text=text) if text else log("problem over")
            if text:
                self._notice(text)
            self._send({"type": "problem", "text": text})

    def _say_cluster(self) -> None:
        capacity = self._view.capacity()
        nodes = [node.address for node in self._view.living]
        self._send({"type": "cluster", "capacity": msgspec.to_builtins(capacity), "nodes": nodes})

    def _send(self, message: dict[str, Any]) -> None:
        if self._controller is not None:
            self._controller.send(message)

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()  # a fault of ours ends this process, and its successor adopts what runs


def news_of(before: ReplicaStatus | None, status: ReplicaStatus) -> str | None:
    """One line on a change that a person wants to hear of."""
    if before is not None and (before.state, before.last_exit) == (status.state, status.last_exit):
        return None
    if before is not None and before.state == status.state == "ready":
        return None  # only why it was away is better known now
    if status.state == "ready":
        return f"{status.id} ready on node {status.node}"
    if status.state in ("backoff", "failed") and status.last_exit is not None:
        why = status.last_exit.message or status.last_exit.reason
        return f"{status.id} {'FAILED: ' if status.state == 'failed' else ''}{why}"
    return None
