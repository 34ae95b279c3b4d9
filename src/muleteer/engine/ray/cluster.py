"""All that is said to Ray. Each call runs in a thread and has a deadline, so a Ray that hangs holds nobody up; what it
raises becomes one of four words. Must not know what a replica's rows mean.

While the head is away every call that asks it hangs until it is back, and keeps its thread; those to actors do not. So
these have threads of their own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from muleteer import __version__
from muleteer.base.errors import MuleteerError, UsageError
from muleteer.base.limits import LOG_FILE_BYTES_MAX, RAY_CALL_S, RAY_CONNECT_S, RAY_ORPHAN_S
from muleteer.engine.port import ReplicaRequest
from muleteer.engine.ray import actor
from muleteer.engine.ray.lane import Lane
from muleteer.engine.ray.place import Node, View, Waiting, actor_options
from muleteer.spec.ray_options import ray_options
from muleteer.wire.tls import client_context, tls_wanted

NAMESPACE = "muleteer"
_THREADS = 16
_UNPLACED = frozenset({"DEPENDENCIES_UNREADY", "PENDING_CREATION"})
_LOGS = {"RAY_ROTATION_MAX_BYTES": str(LOG_FILE_BYTES_MAX), "RAY_ROTATION_BACKUP_COUNT": "1"}
"""As on one machine, one older file is kept: what actors print would fill the disk of their node."""
_LISTS_OF_PACKAGES = frozenset({"pip", "uv", "conda"})
"""Where a text names a file."""
_HEADLESS_S = 7 * 24 * 3600
_SENTENCE_CHARS_MAX = 2000
_Found = TypeVar("_Found")


class RayError(MuleteerError):
    """Something about Ray is not as it should be; the text says what."""


class Unreachable(RayError):
    """Ray does not answer, or not in time. It may later."""


class Hung(RayError):
    """Ray's library hangs, or has lost its connection for good. Only another process can try again."""


class Refused(RayError):
    """Ray will not do this, however often it is asked."""


class Unavailable(RayError):
    """This actor does not answer now; Ray may be starting it anew."""


class Dead(RayError):
    """This actor is gone for good."""


class Cluster:
    """One connection to a cluster. `connect()` first; it may be tried again.

    Args:
        address: as `ray.init` takes it; None: `RAY_ADDRESS`, else a cluster that runs on this machine.
        private: folders that are never uploaded, wherever they lie.
        orphan_s: actors end when no server has watched them for so long.
    """

    def __init__(self, address: str | None, private: Sequence[str] = (), *, orphan_s: float = RAY_ORPHAN_S) -> None:
        self.address = address if address is not None else "auto"
        self.orphan_s = orphan_s
        self._private = private
        self._head = Lane("ray-head", _THREADS)
        self._actors = Lane("ray-actors", _THREADS)

    async def connect(self) -> None:
        """Join it. Raises Unreachable, or Hung: Ray's library is in the middle of it and cannot be asked again."""
        if tls_wanted():
            try:
                client_context()  # gateways need it, and Ray's library would end this process for want of a file
            except UsageError as error:
                raise Unreachable(str(error)) from None
        try:
            await self._head.call(partial(_guarded, partial(_init, self.address)), RAY_CONNECT_S)
        except TimeoutError:
            raise Hung(f"no answer within {RAY_CONNECT_S:g} s: is it there, and does RAY_AUTH_TOKEN fit?") from None

    async def view(self) -> View:
        """Nodes, and what is free. Raises Unreachable; or Hung: the connection ended, and there will be no other."""
        return await self._call(_view)

    async def find(self, instance: str) -> dict[str, Any]:
        """The actors of this server that have a place, by replica id; those that never had one keep nothing, cannot say
        what they were meant to keep, and are ended. Raises Unreachable.
        """
        return await self._call(partial(_find, instance))

    async def create(self, request: ReplicaRequest, secret: str, instance: str) -> Any:
        """The actor that keeps `request`, placed or not; one of its name that exists is it. Raises Refused,
        Unreachable.
        """
        return await self._call(
            partial(_create, request, secret, instance, self._private, self.orphan_s), RAY_CONNECT_S
        )

    async def here(self) -> str | None:
        """The node that we run on; None through ray://. Raises Unreachable."""
        return await self._call(_here)

    async def create_on(self, node: str, name: str, config: dict[str, Any]) -> Any:
        """The actor of this name on that node and no other, with a host of its own (see `actor.Keeper`); one that
        exists is it. Raises Refused, Unreachable.
        """
        return await self._call(partial(_create_on, node, name, {**config, "orphan_s": self.orphan_s}), RAY_CONNECT_S)

    async def kill(self, handle: Any) -> None:
        """End it for good, placed or not. Raises Unreachable."""
        await self._call(partial(_kill, handle))

    async def watch(self, handle: Any, life: str, seen: int) -> asyncio.Future[str]:
        """The answer to come of `Keeper.watch`; without a deadline, as the actor may be waiting for a place. The future
        raises Unavailable or Dead. Raises Unreachable.
        """
        answer = await self._call(lambda: handle.watch.remote(life, seen).future(), lane=self._actors)
        return asyncio.ensure_future(_settled(answer))

    async def order(self, handle: Any, order: dict[str, Any]) -> None:
        """Tell the host of this actor. Raises Unavailable, Dead, Unreachable."""
        line = msgspec.json.encode(order).decode()
        answer = await self._call(lambda: handle.order.remote(line).future(), lane=self._actors)
        try:
            await asyncio.wait_for(_settled(answer), RAY_CALL_S)
        except TimeoutError:
            raise Unavailable(f"its actor did not answer within {RAY_CALL_S:g} s") from None

    async def _call(
        self, ask: Callable[[], _Found], deadline_s: float = RAY_CALL_S, *, lane: Lane | None = None
    ) -> _Found:
        try:
            return await (lane or self._head).call(partial(_guarded, ask), deadline_s)
        except TimeoutError:
            raise Unreachable(f"Ray at {self.address} did not answer within {deadline_s:g} s") from None


def _guarded(ask: Callable[[], _Found]) -> _Found:
    """Ray raises whatever its many parts raise: all of it becomes a word and a sentence."""
    try:
        return ask()
    except RayError:
        raise
    except (ValueError, TypeError) as error:
        raise Refused(sentence(error)) from error
    except Exception as error:
        if isinstance(error.__cause__, ValueError):  # what is too large to be uploaded, for example
            raise Refused(sentence(error)) from error
        raise (Hung if _ended(error) else Unreachable)(sentence(error)) from error


def _ended(error: Exception) -> bool:
    """Whether a connection through ray:// is over for good: its other end knows nothing of it any more."""
    code = getattr(error, "code", None)  # of gRPC, which Ray brings along
    return isinstance(error, ConnectionError) or (callable(code) and getattr(code(), "name", "") == "NOT_FOUND")


async def _settled(answer: Any) -> str:
    from ray import exceptions

    try:
        found: str = await asyncio.wrap_future(answer)
    except (exceptions.ActorUnavailableError, ConnectionError) as error:
        raise Unavailable(sentence(error)) from None
    except (exceptions.RayActorError, exceptions.RuntimeEnvSetupError, exceptions.ActorUnschedulableError) as error:
        raise Dead(sentence(error)) from None
    except exceptions.RayError as error:
        raise Unavailable(sentence(error)) from None
    return found


def sentence(error: BaseException) -> str:
    """What Ray says, without its stacks and names of its own; at least the name of the error. If it is long the middle
    is left out: the cause is at the end.
    """
    text = " ".join(_without_stacks(str(error).splitlines())) or type(error).__name__
    if len(text) <= _SENTENCE_CHARS_MAX:
        return text
    end = _SENTENCE_CHARS_MAX * 3 // 4
    return f"{text[: _SENTENCE_CHARS_MAX - end - 3]} … {text[-end:]}"


def _without_stacks(lines: Iterable[str]) -> Iterator[str]:
    in_stack = False
    for line in lines:
        in_stack = in_stack and line.startswith(" ")
        said, stack, _ = line.partition("Traceback (most recent call last)")
        said = "" if in_stack else said.strip()
        if said and not said.startswith(("class_name:", "actor_id:", "namespace:")):
            yield said
        in_stack = in_stack or bool(stack)


def _init(address: str) -> None:
    # Ray's library ends a process whose head is silent for a minute; ours has other things to do
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_HEADLESS_S))
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # or who asks after the connection ended gets a cluster of its own
    if address.startswith("ray://"):
        # the proxy never answers a request to keep an upload until somebody uses it; that is in a moment
        os.environ["RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S"] = "0"
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise Unreachable(f"{sentence(error)}: {_why_not(address)}") from error
    # the class travels as it stands: on a node without muleteer it must be able to say so
    ray.cloudpickle.register_pickle_by_value(sys.modules[actor.__name__])  # type: ignore[no-untyped-call]


def _why_not(address: str) -> str:
    """Ray says the same of a head that is not there and of one that does not let us in."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
    except (OSError, ValueError):
        return "nothing listens there"
    return (
        "something listens there and does not let us in: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) "
        "must be those of the cluster"
    )


def _through_client() -> bool:
    import ray

    return bool(ray.util.client.ray.is_connected())  # type: ignore[no-untyped-call]


def _asked_inside(question: Callable[[], _Found]) -> _Found:
    """The answer to what only a process on a node can ask: this one, or a task on some node that reserves nothing."""
    import ray

    if not _through_client():
        return question()
    found: _Found = ray.get(_task(question).remote(), timeout=RAY_CALL_S)
    return found


@cache
def _task(question: Callable[[], Any]) -> Any:
    """Made once: each new one would stay in the memory of the other side."""
    import ray

    return ray.remote(num_cpus=0)(question)


def _view() -> View:
    import ray

    rows = ray.nodes()  # type: ignore[no-untyped-call]
    free = _asked_inside(actor.free_by_node)
    waiting = tuple(Waiting(asked, count) for asked, count in _asked_inside(actor.without_place))
    nodes = tuple(
        Node(
            id=str(row["NodeID"]),
            address=str(row["NodeManagerAddress"]),
            alive=bool(row["Alive"]),
            resources=dict(row.get("Resources") or {}),
            free=dict(free.get(row["NodeID"], {})),
            reason=str(row.get("DeathReasonMessage") or ""),
        )
        for row in rows
    )
    return View(nodes, waiting)


def _find(instance: str) -> dict[str, Any]:
    import ray

    unplaced = {name for name, state in _asked_inside(actor.states_of_actors).items() if state in _UNPLACED}
    found = {}
    for row in ray.util.list_named_actors(all_namespaces=True):
        of, _, id = str(row["name"]).partition("/")
        if row["namespace"] != NAMESPACE or of != instance:
            continue
        try:
            handle = ray.get_actor(row["name"], namespace=NAMESPACE)
        except ValueError:
            continue  # it ended meanwhile
        if row["name"] in unplaced:
            ray.kill(handle, no_restart=True)
        else:
            found[id] = handle
    return found


def _create(request: ReplicaRequest, secret: str, instance: str, private: Sequence[str], orphan_s: float) -> Any:
    import ray

    runtime_env, shipped = _runtime_env(request, private)
    config = {
        "version": __version__,
        "request": msgspec.to_builtins(request),
        "secret": secret,
        "shipped": shipped,
        "orphan_s": orphan_s,
    }
    options = actor_options(request.settings)
    remote = ray.remote(actor.Keeper)
    return remote.options(
        name=f"{instance}/{request.id}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        max_concurrency=8,  # watchers of a bridge, of its successor, and an order besides
        runtime_env=runtime_env,
        **options,
    ).remote(msgspec.json.encode(config).decode())


def _runtime_env(request: ReplicaRequest, private: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """What Ray is to prepare on the node, folders uploaded under a hash of their content; and whether the model's
    folder is the working directory there. It is, unless `working_dir` is null: then every node has it already. Paths
    that are not absolute start in the model's folder.
    """
    from ray._private.runtime_env.py_modules import upload_py_modules_if_needed
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    asked = {"working_dir": request.base_dir, **ray_options(request.settings.ray).runtime_env}
    folder = asked.pop("working_dir")
    for name in _LISTS_OF_PACKAGES & asked.keys():
        if Path(request.base_dir, str(asked[name])).is_file():
            asked[name] = _beside(request.base_dir, asked[name])
    if "py_modules" in asked:
        asked["py_modules"] = [_beside(request.base_dir, each) for each in asked["py_modules"]]
    if folder is not None:
        asked["working_dir"] = _beside(request.base_dir, folder)
        local = Path(request.base_dir, folder)
        inside = [Path(each).relative_to(local) for each in private if Path(each).is_relative_to(local)]
        asked["excludes"] = [*asked.get("excludes", ()), *(f"/{each}" for each in inside)]
    scratch = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - Ray puts a zip of a random name there
    if "working_dir" in asked:
        asked = upload_working_dir_if_needed(asked, include_gitignore=True, scratch_dir=scratch)
    if "py_modules" in asked:
        asked = upload_py_modules_if_needed(asked, include_gitignore=True, scratch_dir=scratch)
    asked["env_vars"] = _LOGS | asked.get("env_vars", {})
    return asked, "working_dir" in asked


def _beside(folder: str, named: Any) -> Any:
    """The path of what is there in that folder; anything else as it is: Ray knows other words in its place."""
    path = Path(folder, named) if isinstance(named, str) else None
    return str(path) if path is not None and path.exists() else named


def _here() -> str | None:
    import ray

    if _through_client():
        return None
    return str(ray.get_runtime_context().get_node_id())


def _create_on(node: str, name: str, config: dict[str, Any]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(actor.Keeper)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        max_concurrency=8,
        num_cpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote(msgspec.json.encode({"version": __version__, **config}).decode())


def _kill(handle: Any) -> None:
    import ray

    ray.kill(handle, no_restart=True)
