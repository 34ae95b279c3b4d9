"""What the gateways are told: the routing snapshot, from declared and observed. Pure; must not know how it travels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from muleteer.engine.port import ReplicaStatus
from muleteer.spec.settings import BackendSpec, Declared, EndpointSpec
from muleteer.spec.snapshot import BackendRoute, EndpointRoute, ReplicaAddress, Snapshot

_ROUTED = frozenset({"starting", "ready", "backoff"})
"""A gateway dials early and goes on dialling: the address stays the same, and the link opens with the replica."""


def snapshot(declared: Declared, replicas: Iterable[ReplicaStatus], *, leaving: Iterable[str] = ()) -> Snapshot:
    """The snapshot at revision 0. Replicas in `leaving` (ids) are left out: they get no more calls."""
    gone = frozenset(leaving)
    of_backend: dict[str, list[ReplicaStatus]] = {backend.name: [] for backend in declared.backends}
    for replica in replicas:
        if replica.backend in of_backend and replica.id not in gone:
            of_backend[replica.backend].append(replica)
    backends = {backend.name: backend for backend in declared.backends}
    return Snapshot(
        revision=0,
        endpoints=tuple(_endpoint(endpoint, backends) for endpoint in declared.endpoints),
        backends=tuple(_backend(backend, of_backend[backend.name]) for backend in declared.backends),
    )


def _endpoint(endpoint: EndpointSpec, backends: Mapping[str, BackendSpec]) -> EndpointRoute:
    """With several backends: the longest timeout, and the body that fits all."""
    settings = [backends[name].settings for name in endpoint.traffic]
    return EndpointRoute(
        name=endpoint.name,
        route=endpoint.route,
        methods=endpoint.methods,
        timeout_s=max(each.timeout for each in settings),
        max_body=min(each.max_body for each in settings),
        traffic=endpoint.traffic,
    )


def _backend(backend: BackendSpec, replicas: list[ReplicaStatus]) -> BackendRoute:
    given_up = bool(replicas) and all(replica.state == "failed" for replica in replicas)
    return BackendRoute(
        name=backend.name,
        concurrency=backend.settings.concurrency,
        idempotent=backend.settings.idempotent,
        timeout_s=backend.settings.timeout,
        expected_s=backend.settings.expected,
        unavailable="crash_loop" if given_up else "loading",
        replicas=tuple(
            ReplicaAddress(replica.id, replica.address)
            for replica in replicas
            if replica.state in _ROUTED and replica.address
        ),
    )
