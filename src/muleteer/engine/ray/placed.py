"""One replica on the cluster: its actor, and what is known of it. Follows the actor through all its lives, and starts
another where Ray has none any more. Must not know who wants it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.limits import FAILED_STARTS_MAX, RAY_CALL_S, RAY_PENDING_S, RAY_RETRY_S
from muleteer.engine.port import ReplicaRequest, ReplicaState, ReplicaStatus
from muleteer.engine.ray.actor import WATCH_S
from muleteer.engine.ray.cluster import Cluster, Dead, Refused, Unavailable, Unreachable
from muleteer.engine.ray.place import View, asked_of_ray, demand, why_unplaced
from muleteer.spec.ray_options import ray_options
from muleteer.supervise.policy import RestartPolicy
from muleteer.supervise.process import LastExit
from muleteer.supervise.states import Event

_AGAIN_S = 0.2
_STOP_MARGIN_S = 5.0
_FOLLOWS_FROM = {"actor_lost": {"unreachable"}, "node_lost": {"unreachable", "actor_lost"}}
"""While one does not answer the cause is told, and not what follows from it."""


class _Node(msgspec.Struct, frozen=True):
    id: str = ""
    address: str = ""
    reborn: bool = False


class _Told(msgspec.Struct, frozen=True):
    """What `Keeper.watch` returns."""

    life: str
    count: int
    rows: list[dict[str, Any]]
    node: _Node
    config: dict[str, Any] | None = None


class Placed:
    """Args:
        id: of the replica.
        secret: what a gateway must show it.
        instance: whose it is.
        cluster: connected.
        view: the cluster as last seen.
        machine: this machine; a pid means something here only if the replica's is the same.
        tell: called with every change; `gone` is the last.
        behind: how many that ask for the same were asked for after it, and have not begun.
        request: None for an actor that is adopted: it tells what it keeps.
        handle: its actor, if there is one.

    Attributes:
        status: as last told; None while nothing is known.
    """

    def __init__(
        self,
        id: str,
        secret: str,
        instance: str,
        *,
        cluster: Cluster,
        view: Callable[[], View],
        machine: str,
        tell: Callable[[ReplicaStatus], None],
        clock: Clock,
        behind: Callable[[], int] = lambda: 0,
        request: ReplicaRequest | None = None,
        handle: Any = None,
    ) -> None:
        self.id = id
        self.status: ReplicaStatus | None = None
        self.known = asyncio.Event()
        self._secret = secret
        self._instance = instance
        self._cluster = cluster
        self._view = view
        self._machine = machine
        self._tell = tell
        self._clock = clock
        self._behind = behind
        self._request = request
        self._handle = handle
        self._life = ""
        self._seen = 0
        self._node = _Node()
        self._restarts = 0  # before the present life of the actor
        self._policy = RestartPolicy(FAILED_STARTS_MAX, random.random)
        self._ready_s: float | None = None
        self._observed: ReplicaStatus | None = None  # the last row, whatever was made of it
        self._away = True  # the actor has no place, or does not answer
        self._lost_on = ""  # the node where it was when it ceased to answer, until it is known whether that was lost
        self._back_s = 0.0  # when its present life first answered
        self._stopping = False
        self._over = asyncio.Event()
        self._retried = asyncio.Event()
        if request is not None:
            self._change("starting")

    @property
    def asks(self) -> dict[str, float] | None:
        """What it wants of the cluster; None once it has answered from a place there, or while nothing is known."""
        return asked_of_ray(self._request.settings) if self._away and self._request is not None else None

    async def run(self) -> None:
        """Until it is gone."""
        while not self._stopping or self._handle is not None:
            try:
                if self._handle is None and self._request is not None:
                    self._handle = await self._cluster.create(self._request, self._secret, self._instance)
                why: Exception = await self._follow()
            except Unreachable as error:
                self._wait_for("unreachable", str(error))
                await asyncio.sleep(RAY_RETRY_S)
                continue
            except Refused as error:
                why = error
            self._handle = None
            if not self._stopping:
                await self._begin_again(why)
        self._over.set()
        self._change("gone")

    async def stop(self, grace_s: float) -> None:
        """Drain and end it; where it has no place yet, or cannot be reached any more, at once."""
        if self._stopping:
            return
        self._stopping = True
        self._retried.set()
        reachable = not self._away
        self._change("stopping")
        give_up_s = self._clock.now() + grace_s + _STOP_MARGIN_S
        draining = reachable and await self._order({"type": "stop"})
        while draining and not self._over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _AGAIN_S)
            draining = not self._away and self._clock.now() < give_up_s
        while not self._over.is_set():  # it may be about to be created
            if self._handle is not None:
                await self._end()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _AGAIN_S)

    def look(self, begun_s: float) -> None:
        """There is a view that was asked for at `begun_s`. Ray starts an actor anew as soon as it knows that the node
        was lost: it may be back before we have seen that, and then this is why all the same.
        """
        gone = self._node_lost(self._lost_on)
        last_exit = self.status.last_exit if self.status is not None else None
        if gone and last_exit is not None and last_exit.reason in _FOLLOWS_FROM["node_lost"] and not self._stopping:
            assert self.status is not None
            status = msgspec.structs.replace(
                self.status, last_exit=msgspec.structs.replace(last_exit, reason="node_lost", message=gone)
            )
            if self._observed is self.status:
                self._observed = status
            self._put(status)
        if gone or (not self._away and begun_s > self._back_s):
            self._lost_on = ""

    async def retry(self) -> None:
        """Start a failed one afresh; any other is left alone."""
        if self.status is None or self.status.state != "failed":
            return
        self._policy.forgive()
        self._retried.set()
        if self._handle is not None:
            await self._order({"type": "retry"})

    async def abort(self, pid: int, reason: str) -> None:
        """Kill its process with a stack dump, if it still is that pid."""
        await self._order({"type": "abort", "pid": pid, "reason": reason})

    # the life of an actor

    async def _follow(self) -> Exception:
        """Watch the actor until it is gone for good, and say why."""
        while True:
            try:
                told = await self._next()
            except Dead as error:
                return error
            except Unavailable as error:
                self._away = True
                self._lost(str(error))
                await asyncio.sleep(_AGAIN_S)
                continue
            self._take(told)
            if self.status is not None and self.status.state == "gone":
                self._stopping = True
                await self._end()
                return Dead("stopped")

    async def _next(self) -> _Told:
        answer = await self._cluster.watch(self._handle, self._life, self._seen)
        asked_s = self._clock.now()
        while not (await asyncio.wait({answer}, timeout=RAY_PENDING_S))[0]:
            if self._clock.now() - asked_s > WATCH_S + RAY_CALL_S:
                self._away = True
            self._unanswered()
        return msgspec.json.decode(answer.result(), type=_Told)

    def _take(self, told: _Told) -> None:
        self._away = False
        if told.config is not None and self._request is None:
            self._request = msgspec.convert(told.config["request"], ReplicaRequest)
        if told.life != self._life:
            if self._life and self.status is not None:
                self._restarts = self.status.restarts + 1
            elif told.node.reborn:
                self._restarts += 1
            self._life = told.life
            self._back_s = self._clock.now()
        self._seen = told.count
        self._node = told.node
        for row in told.rows:
            self._take_row(row)
        if not told.rows and self._observed is not None and self._observed is not self.status and not self._stopping:
            self._put(self._observed)  # it was away for a while
        self.known.set()

    def _take_row(self, row: dict[str, Any]) -> None:
        assert self._request is not None
        same = row.pop("machine", None) == self._machine
        request = self._request
        status = msgspec.convert(
            {
                "id": self.id,
                "backend": request.backend,
                "generation": request.generation,
                "fingerprint": request.fingerprint,
                "address": "",
                **row,
            },
            ReplicaStatus,
        )
        last_exit = status.last_exit
        if last_exit is not None:
            last_exit = msgspec.structs.replace(last_exit, message=self._placed(last_exit.message))
        elif self.status is not None and status.restarts == 0 and self._restarts:
            last_exit = self.status.last_exit
        if status.state == "ready":
            self._ready_s = self._clock.now()
        if self._stopping and status.state != "gone":
            return
        self._observed = msgspec.structs.replace(
            status,
            pid=status.pid if same else None,
            restarts=self._restarts + status.restarts,
            secret=self._secret,
            node=self._node.address,
            last_exit=last_exit,
        )
        self._put(self._observed)

    def _placed(self, message: str) -> str:
        return f"{message} (on node {self._node.address})" if message else ""

    def _unanswered(self) -> None:
        """It has not answered for a while: it has no place, or its node is in trouble."""
        if self._request is None or not self._away:
            return
        node = self._view().node(self._node.id)
        if node is not None and node.alive and self._observed is not None and self._observed.state == "ready":
            self._lost_on = node.id
            self._wait_for("unreachable", f"node {node.address} does not answer")
            return
        asked, view = self._request.settings, self._view()
        waits = view.waits(asked_of_ray(asked), self._behind())
        why = why_unplaced(demand(asked), ray_options(asked.ray).node, view, waits=waits)
        if why is not None:
            self._wait_for("unplaced", why)
        elif not waits and self._waits_for("unplaced"):
            self._change("starting")  # what it waited for is its own now

    def _lost(self, why: str) -> None:
        """The actor does not answer: its process died, or its node."""
        self._lost_on = self._node.id
        gone = self._node_lost(self._lost_on)
        if gone:
            self._wait_for("node_lost", gone)
        else:
            self._wait_for("actor_lost", self._placed(f"its Ray actor does not answer: {why}"))

    def _node_lost(self, id: str) -> str:
        """Words for the loss of that node; empty if it is there, for all that is known."""
        node = self._view().node(id)
        return f"node {node.address} left the cluster: {node.reason}" if node is not None and not node.alive else ""

    def _waits_for(self, reason: str) -> bool:
        last_exit = self.status.last_exit if self.status is not None and self.status.state == "backoff" else None
        return last_exit is not None and last_exit.reason == reason

    def _wait_for(self, reason: str, message: str) -> None:
        if self._stopping or self._request is None:
            return
        was_ready = self._ready_s is not None
        if self.status is not None and self.status.state == "backoff" and self.status.last_exit is not None:
            cause = self.status.last_exit.reason
            if reason in _FOLLOWS_FROM.get(cause, ()):
                return
            if cause == "node_lost" and reason == "unplaced":
                lost = self._node_lost(self._node.id) or "its node left the cluster"
                reason, message = cause, f"{lost}; now it {message}"
        self._change("backoff", LastExit(reason=reason, message=message, was_ready=was_ready))

    async def _begin_again(self, why: Exception) -> None:
        """After an actor that Ray will not start again: at once if it had worked, else with pauses, else not."""
        reason = "ray_refused" if isinstance(why, Refused) else "actor_died"
        ready_s, self._ready_s = self._ready_s, None
        verdict = (
            self._policy.died_ready(self._clock.now() - ready_s) if ready_s is not None else self._policy.start_failed()
        )
        last_exit = LastExit(reason=reason, message=str(why), was_ready=ready_s is not None)
        if isinstance(why, Refused) or verdict.event is Event.GIVE_UP:
            self._retried.clear()
            self._change("failed", last_exit)
            await self._retried.wait()
        elif verdict.event is Event.PAUSE:
            self._change("backoff", last_exit)
            self._retried.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._retried.wait(), verdict.pause_s)
        if self._stopping:
            return
        if self._life and self.status is not None:
            self._restarts = self.status.restarts + 1
            self._life, self._seen, self._observed = "", 0, None
        self._away = True
        self._change("starting", last_exit)

    async def _order(self, order: dict[str, Any]) -> bool:
        """Whether it was passed on; if not, whoever watches it sees what became of it."""
        if self._handle is None:
            return False
        try:
            await self._cluster.order(self._handle, order)
        except (Unavailable, Unreachable, Refused, Dead):
            return False
        return True

    async def _end(self) -> None:
        with suppress(Unreachable, Refused):
            await self._cluster.kill(self._handle)

    def _change(self, state: ReplicaState, last_exit: LastExit | None = None) -> None:
        before = self.status
        request = self._request
        if before is None:
            if request is None:
                return
            before = ReplicaStatus.first(request, secret=self._secret)
        status = msgspec.structs.replace(before, state=state, since_s=0.0)
        if state != "stopping":
            status = msgspec.structs.replace(status, pid=None)
        if last_exit is not None:
            status = msgspec.structs.replace(status, last_exit=last_exit)
        if status != self.status:
            self._put(status)

    def _put(self, status: ReplicaStatus) -> None:
        if self.status is not None and self.status.state == "gone":
            return
        self.status = status
        self._tell(status)
