"""What the gateway tells about itself: frozen snapshots for status and metrics. Must not know who reads them."""

from __future__ import annotations

import msgspec


class QueueStatistics(msgspec.Struct, frozen=True):
    """`bound`: how many calls with the backend's timeout may wait now. `reading`: admitted, body still arriving."""

    depth: int
    bound: int
    bytes: int
    reading: int


class ReplicaStatistics(msgspec.Struct, frozen=True):
    """One replica as its link sees it: `connecting`, `loading`, `ready`, `draining`, `hung` or `lost`."""

    state: str
    pid: int | None
    in_flight: int


class ServiceStatistics(msgspec.Struct, frozen=True):
    """How long a call holds a slot, in seconds; and how much of it the user's method took on average."""

    samples: int
    mean_s: float
    p99_s: float
    model_mean_s: float


class CallCounts(msgspec.Struct):
    """Since the start. `answered` with 200; `failed`: settled with an error; `refused`: never admitted (by code)."""

    admitted: int = 0
    dispatched: int = 0
    re_executed: int = 0
    bounced: int = 0
    quarantined: int = 0
    cancelled: int = 0
    answered: int = 0
    late_replies: int = 0
    failed: dict[str, int] = {}
    refused: dict[str, int] = {}


class BackendStatistics(msgspec.Struct, frozen=True):
    """One backend in this gateway. `open_calls`: admitted and without an outcome."""

    queue: QueueStatistics
    replicas: dict[str, ReplicaStatistics]
    slots: int
    credit: int
    links_ready: int
    open_calls: int
    retrying: int
    poisonous: int
    service: ServiceStatistics
    calls: CallCounts


class GatewayStatistics(msgspec.Struct, frozen=True):
    """Everything but HTTP, which has statistics of its own."""

    name: str
    revision: int
    draining: bool
    waiting_bytes: int
    backends: dict[str, BackendStatistics]
