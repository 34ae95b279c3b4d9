"""The routing snapshot: all that a gateway knows of the world. Published by the controller, immutable, complete.

A gateway without a controller goes on with the last one it got, which also lies in the run directory.
"""

from __future__ import annotations

import msgspec

from muleteer.base.limits import BATCH_MAX
from muleteer.spec.traffic import Affinity, Override, Shadow


class ReplicaAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one replica listens. The address of a local replica stays the same over its restarts.

    Attributes:
        id: e.g. `FancyModel-1`.
        address: `unix:/path`, `tcp:host:port` or `tls:host:port`.
        secret: what to show there; empty on this machine. Never shown to anybody else.
    """

    id: str
    address: str
    secret: str = ""


ASLEEP = "asleep"
"""`BackendRoute.unavailable` of a backend that may have no replica at all: a call starts one and waits for it."""
NONE_DECLARED = "none_declared"
"""The same of a backend of which 0 replicas are declared: no call starts one."""
UNPLACED = "unplaced"
"""The same of a backend for whose replicas no node of a cluster has room; a call says that they are still wanted."""


class BackendRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One backend as the gateway sees it.

    Attributes:
        concurrency: calls a replica works on at once.
        idempotent: whether a call whose replica died may be run again.
        timeout_s: a call that runs longer than this (or than its own deadline, if that is longer) is hung.
        expected_s: declared service time, used until enough calls were measured; None if not declared.
        unavailable: what calls meet while no link is ready: 503 `loading`, `crash_loop`, `memory`; `asleep`: they
            wake it and wait; `none_declared`: 503 `loading` that says so; `unplaced`: 503 `memory` that says so.
        start_s: expected seconds from such a demand to the first call; None if unknown.
        batch_max, batch_wait_s: most calls in a batch, and how long one that is not full may wait for more, where the
            model takes batches: its replicas say so.
        slo_s: 99 % of the answers should be there so soon after the request; None if not declared.
    """

    name: str
    concurrency: int = 1
    idempotent: bool = True
    timeout_s: float = 30.0
    expected_s: float | None = None
    unavailable: str = "loading"
    start_s: float | None = None
    batch_max: int = BATCH_MAX
    batch_wait_s: float = 0.0
    slo_s: float | None = None
    replicas: tuple[ReplicaAddress, ...] = ()


class EndpointRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One endpoint: a route and the share of its requests that each backend gets (weights ≥ 0, sum > 0)."""

    name: str
    route: str
    methods: tuple[str, ...] = ("POST",)
    timeout_s: float = 30.0
    max_body: int = 64 * 1024 * 1024
    traffic: dict[str, float]
    affinity: Affinity | None = None
    shadow: Shadow | None = None
    override: Override | None = None


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything, at one revision (grows with each publication; a gateway applies whatever comes last).

    Attributes:
        cookie_key: the key, in base64, with which gateways sign the cookies they issue; it outlives them all.
        gateways: so many use these replicas.
    """

    revision: int
    endpoints: tuple[EndpointRoute, ...] = ()
    backends: tuple[BackendRoute, ...] = ()
    cookie_key: str = ""
    gateways: int = 1


EMPTY = Snapshot(revision=0)
