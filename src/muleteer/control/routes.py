"""What the gateways are told: the routing snapshot, from declared and observed. Must not know how it travels.

Of thousands of backends one changes at a time: only its route is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from muleteer.base.limits import BATCH_MAX
from muleteer.control.places import waits_for_place
from muleteer.engine.port import ReplicaStatus
from muleteer.spec.settings import BackendSpec, Declared, EndpointSpec
from muleteer.spec.snapshot import (
    ASLEEP,
    NONE_DECLARED,
    UNPLACED,
    BackendRoute,
    EndpointRoute,
    ReplicaAddress,
    Snapshot,
)

_ROUTED = frozenset({"starting", "ready", "backoff"})
"""A gateway dials early and goes on dialling: the address stays the same, and the link opens with the replica."""


class Routes:
    """The routes of all that is declared. `cookie_key`: see Snapshot."""

    def __init__(self, cookie_key: str = "") -> None:
        self._cookie_key = cookie_key
        self._endpoints: tuple[EndpointRoute, ...] = ()
        self._backends: dict[str, BackendRoute] = {}

    def declare(self, declared: Declared) -> None:
        """Another declaration: its endpoints, and its backends in their order. Backends keep the route they have."""
        specs = {backend.name: backend for backend in declared.backends}
        self._endpoints = tuple(_endpoint(endpoint, specs) for endpoint in declared.endpoints)
        self._backends = {name: self._backends.get(name) or BackendRoute(name=name) for name in specs}

    def observe(
        self,
        backend: BackendSpec,
        replicas: Iterable[ReplicaStatus],
        *,
        refused: bool = False,
        unplaced: bool = False,
        start_s: float | None = None,
    ) -> bool:
        """One backend as declared, with its replicas but for those that leave: they get no more calls. Whether that
        changes its route. `refused`: none can start; `unplaced`: none has a place; `start_s`: what a start is expected
        to take.
        """
        replicas = list(replicas)
        unavailable = _unavailable(backend, replicas, refused=refused, unplaced=unplaced)
        route = _backend(backend, replicas, unavailable, start_s)
        if self._backends.get(backend.name, route) == route:
            return False
        self._backends[backend.name] = route
        return True

    def snapshot(self) -> Snapshot:
        """The snapshot at revision 0."""
        return Snapshot(0, self._endpoints, tuple(self._backends.values()), self._cookie_key)


def _endpoint(endpoint: EndpointSpec, backends: Mapping[str, BackendSpec]) -> EndpointRoute:
    """With several backends: the longest timeout, and the body that fits all."""
    settings = [backends[name].settings for name in endpoint.traffic]
    timeout = endpoint.timeout
    return EndpointRoute(
        name=endpoint.name,
        route=endpoint.route,
        methods=endpoint.methods,
        timeout_s=timeout if timeout is not None else max(each.timeout for each in settings),
        max_body=min(each.max_body for each in settings),
        traffic=endpoint.traffic,
        affinity=endpoint.affinity,
        shadow=endpoint.shadow,
        override=endpoint.override,
    )


def _sleeps(backend: BackendSpec) -> bool:
    return backend.settings.elastic and not backend.settings.bounds.min


def _backend(
    backend: BackendSpec, replicas: list[ReplicaStatus], unavailable: str, start_s: float | None
) -> BackendRoute:
    return BackendRoute(
        name=backend.name,
        concurrency=backend.settings.concurrency,
        idempotent=backend.settings.idempotent,
        timeout_s=backend.settings.timeout,
        expected_s=backend.settings.expected,
        batch_max=backend.settings.batch_max or BATCH_MAX,
        batch_wait_s=backend.settings.batch_wait,
        slo_s=None if backend.settings.slo is None else backend.settings.slo.p99,
        unavailable=unavailable,
        start_s=start_s if _sleeps(backend) else None,
        replicas=tuple(
            ReplicaAddress(replica.id, replica.address, replica.secret)
            for replica in (replicas if unavailable != UNPLACED else ())  # a place that was lost is no address
            if replica.state in _ROUTED and replica.address
        ),
    )


def _unavailable(backend: BackendSpec, replicas: list[ReplicaStatus], *, refused: bool, unplaced: bool) -> str:
    if not backend.settings.bounds.max:
        return NONE_DECLARED
    if replicas and all(replica.state == "failed" for replica in replicas):
        return "crash_loop"
    if refused and not replicas:
        return "memory"
    if unplaced and replicas and all(waits_for_place(replica) for replica in replicas):  # as of now, too
        return UNPLACED
    return ASLEEP if _sleeps(backend) else "loading"
