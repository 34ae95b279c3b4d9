"""What `muleteer status` shows, from the statistics of controller and gateways. Must not know how it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from muleteer.control.account import ReplicaAccount
from muleteer.control.backend import failed_start, in_words
from muleteer.control.controller import ControllerStatistics
from muleteer.control.fleet import BackendStatistics, ReplicaStatistics, failed_for_good
from muleteer.control.rollout_view import RolloutView
from muleteer.control.sizing_view import SizingView
from muleteer.control.sums import services, summed
from muleteer.control.windows import Reading, read
from muleteer.spec.settings import BackendSpec, Declared, EndpointSpec
from muleteer.supervise.process import ProcessStatus
from muleteer.telemetry.versions import VersionStatistics

BackendState = Literal["unknown", "idle", "asleep", "loading", "ready", "degraded", "reloading", "failed"]

_UNOBSERVED = "what runs is not known yet; shown is what the gateways see"


class _Queue(msgspec.Struct, frozen=True):
    depth: int = 0
    bound: int = 0


class _Link(msgspec.Struct, frozen=True):
    in_flight: int = 0
    state: str = ""


class _Backend(msgspec.Struct, frozen=True):
    queue: _Queue = _Queue()
    replicas: dict[str, _Link] = {}
    service: dict[str, Any] = {}
    calls: dict[str, Any] = {}


class GatewayView(msgspec.Struct, frozen=True):
    """The part of a gateway's statistics that status shows; the rest of it is let pass."""

    backends: dict[str, _Backend] = {}
    http: dict[str, Any] = {}


class Server(msgspec.Struct, frozen=True):
    """The server as a whole. `address`: where requests go, e.g. `http://127.0.0.1:8000`; `admin_address`: the
    admin API on TCP, if it is there.
    """

    pid: int
    uptime_s: float | None
    address: str | None
    admin_address: str | None = None


def backend_state(backend: BackendStatistics) -> BackendState:
    """One word: `unknown` nobody has told yet what runs · `idle` nobody is wanted · `asleep` nobody is, until a call
    comes · `loading` nobody serves yet · `failed` nobody will, until retried, or until there is more room ·
    `reloading` a newer generation comes · `degraded` fewer serve than were declared, or than are wanted and have no
    room · `ready`, more on their way for the load included. A generation that does not start while an older one serves
    is no state of its own: the reason tells.
    """
    if not backend.observed:
        return "unknown"
    staying = [replica for replica in backend.replicas if not replica.leaving]
    ready = sum(replica.status.state == "ready" for replica in staying)
    if not backend.wanted and not staying:
        return "asleep" if backend.bounds is not None and backend.bounds.max else "idle"
    if ready == 0:
        return "loading" if failed_for_good(backend) is None else "failed"
    older = any(replica.status.generation != backend.generation for replica in staying)
    trouble = failed_start(replica.status for replica in staying) is not None
    if older and not trouble:
        return "reloading"
    coming = backend.bounds is not None and not (trouble or backend.limited)
    return "degraded" if ready < (backend.bounds.min if coming and backend.bounds else backend.wanted) else "ready"


def linked(backend: BackendStatistics, gateways: list[GatewayView]) -> bool:
    """Whether every gateway that answers has a ready link to every ready replica: before that, a first request would
    be told `loading`.
    """
    ready = [replica.status.id for replica in backend.replicas if replica.status.state == "ready"]
    links = [view.backends.get(backend.name, _Backend()).replicas for view in gateways]
    return all(id in each and each[id].state == "ready" for each in links for id in ready)


def backend_reason(backend: BackendStatistics) -> str | None:
    """Why not all is well: the words of a start that failed, or of a budget that holds no more; None if neither is."""
    if not backend.observed:
        return _UNOBSERVED
    last_exit = failed_start(replica.status for replica in backend.replicas if not replica.leaving)
    return in_words(last_exit) if last_exit is not None else backend.unfit or backend.limited or None


def build(
    server: Server,
    declared: Declared,
    controller: ControllerStatistics,
    gateways: Mapping[str, dict[str, Any] | None],
    processes: Mapping[str, ProcessStatus],
    *,
    revision: int = 0,
    rollouts: Mapping[str, RolloutView] | None = None,
) -> dict[str, Any]:
    """The answer of GET /v1/status, ready for JSON.

    Args:
        server: the process tree as a whole.
        declared: now.
        controller: what it knows.
        gateways: what each one counts, None where it did not answer.
        processes: rows of the supervisor that are no replicas.
        revision: of what is declared.
        rollouts: the last of each endpoint that has one.
    """
    counted = read({name: told for name, told in gateways.items() if told is not None})
    views = {name: gateway_view(told) for name, told in gateways.items() if told is not None}
    specs = {backend.name: backend for backend in declared.backends}
    sizings = controller.sizings
    account = controller.account
    rows = account.replicas if account is not None else {}
    backends = [
        _backend(backend, specs[backend.name], [*views.values()], sizings.get(backend.name), rows)
        for backend in controller.backends
    ]
    return {
        "pid": server.pid,
        "engine": controller.engine_name,
        "address": server.address,
        "admin_address": server.admin_address,
        "uptime_s": None if server.uptime_s is None else round(server.uptime_s, 3),
        "revision": revision,
        "settled": controller.settled and all(backend["settled"] for backend in backends),
        "endpoints": [_endpoint(endpoint, counted, rollouts or {}) for endpoint in declared.endpoints],
        "backends": backends,
        "http": summed(view.http for view in views.values()) or None,
        "gateways": {
            name: {
                "answers": name in views,
                "revision": revision,
                "url": controller.publisher.urls.get(name, server.address),
            }
            for name, revision in controller.publisher.applied.items()
        },
        "processes": [_process(row) for row in processes.values()],
        "snapshot": controller.publisher.revision,
        "capacity": msgspec.to_builtins(controller.capacity),
        "budget": msgspec.to_builtins(account.budget) if account is not None else None,
        "used": msgspec.to_builtins(account.used) if account is not None else None,
        "problems": controller.problems,
    }


def _endpoint(endpoint: EndpointSpec, counted: Reading | None, rollouts: Mapping[str, RolloutView]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(endpoint)
    reading = counted or Reading({}, ())
    versions = {*endpoint.traffic, *reading.backends(endpoint.name)}
    found["versions"] = {name: _version(reading.version(endpoint.name, name)) for name in sorted(versions)}
    if endpoint.shadow is not None:
        found["shadow"] |= msgspec.to_builtins(reading.shadow(endpoint.name, endpoint.shadow.backend))
    rollout = rollouts.get(endpoint.name)
    found["rollout"] = msgspec.to_builtins(rollout) if rollout is not None else None
    return found


def _version(version: VersionStatistics) -> dict[str, Any]:
    return {
        "outcomes": version.outcomes,
        "p50_s": version.latency.quantile(0.5),
        "p99_s": version.latency.quantile(0.99),
    }


def gateway_view(counted: dict[str, Any]) -> GatewayView:
    """A gateway of another version may count other things: what cannot be read is left out, not an error."""
    try:
        return msgspec.convert(counted, GatewayView)
    except msgspec.ValidationError:
        return GatewayView()


def _backend(
    backend: BackendStatistics,
    spec: BackendSpec,
    gateways: list[GatewayView],
    sizing: SizingView | None,
    rows: Mapping[str, ReplicaAccount],
) -> dict[str, Any]:
    views = [view.backends[backend.name] for view in gateways if backend.name in view.backends]
    return {
        "name": backend.name,
        "state": backend_state(backend),
        "reason": backend_reason(backend),
        "target": spec.target,
        "generation": backend.generation,
        "fingerprint": backend.fingerprint,
        "wanted": backend.wanted,
        "bounds": msgspec.to_builtins(backend.bounds),
        "sizing": _sizing(sizing),
        "settled": backend.settled and linked(backend, gateways),
        "replicas": [
            _replica(replica, views) | msgspec.to_builtins(rows.get(replica.status.id, ReplicaAccount()))
            for replica in backend.replicas
        ]
        if backend.observed
        else _linked_rows(views),
        "queue": {
            "depth": sum(view.queue.depth for view in views),
            "bound": sum(view.queue.bound for view in views),
        },
        "service": services(view.service for view in views),
        "calls": summed(view.calls for view in views),
    }


def _sizing(view: SizingView | None) -> dict[str, Any] | None:
    """In short; `explain` has it all."""
    if view is None:
        return None
    return {
        "replicas": view.replicas,
        "reason": view.advice or view.reason,
        "limited_by": view.limited_by,
        "target_s": view.target_s,
        "rate": round(view.rate, 3),
        "start_s": view.start_s,
    }


def _replica(replica: ReplicaStatistics, views: list[_Backend]) -> dict[str, Any]:
    status = replica.status
    return {
        "id": status.id,
        "pid": status.pid,
        "state": "stopping" if replica.leaving else status.state,
        "in_flight": sum(view.replicas[status.id].in_flight for view in views if status.id in view.replicas),
        "restarts": status.restarts,
        "last_exit": msgspec.to_builtins(status.last_exit),
        "state_s": round(replica.state_s, 3),
        "rss_bytes": replica.rss_bytes,
        "generation": status.generation,
        "address": status.address,
        "node": status.node,
    }


def _linked_rows(views: list[_Backend]) -> list[dict[str, Any]]:
    """Rows like those of `_replica`, from nothing but links: what they do not tell is None."""
    links: dict[str, list[_Link]] = {}
    for view in views:
        for id, link in view.replicas.items():
            links.setdefault(id, []).append(link)
    blank = dict.fromkeys(("pid", "restarts", "last_exit", "state_s", "rss_bytes", "generation", "address", "node"))
    return [
        {
            **blank,
            **msgspec.to_builtins(ReplicaAccount()),
            "id": id,
            "state": "ready" if any(link.state == "ready" for link in each) else "unknown",
            "in_flight": sum(link.in_flight for link in each),
        }
        for id, each in links.items()
    ]


def _process(row: ProcessStatus) -> dict[str, Any]:
    return {
        "id": row.id,
        "pid": row.pid,
        "state": row.state,
        "restarts": row.restarts,
        "last_exit": msgspec.to_builtins(row.last_exit),
    }
