"""What the gateway tells about itself: frozen snapshots for status and metrics. Must not know who reads them.

Thousands are made at once and hold no cycles: out of the collector's sight (`gc=False`) that takes a third of the time.
"""

from __future__ import annotations

import msgspec

from muleteer.gateway.batching import Limit
from muleteer.gateway.sessions import SessionStatistics
from muleteer.telemetry.histogram import Distribution
from muleteer.telemetry.versions import EndpointStatistics


class QueueStatistics(msgspec.Struct, frozen=True, gc=False):
    """`bound`: how many calls with the backend's timeout may wait now. `reading`: admitted, body still arriving."""

    depth: int
    bound: int
    bytes: int
    reading: int


class ReplicaStatistics(msgspec.Struct, frozen=True, gc=False):
    """One replica as its link sees it: `connecting`, `loading`, `ready`, `draining`, `hung` or `lost`."""

    state: str
    pid: int | None
    in_flight: int


class ServiceStatistics(msgspec.Struct, frozen=True, gc=False):
    """How long a call holds a slot, in seconds; and how much of it the user's method took on average."""

    samples: int
    mean_s: float
    p99_s: float
    model_mean_s: float


class BatchStatistics(msgspec.Struct, frozen=True, gc=False):
    """Batches of one backend, since the start, and what is known of them.

    Attributes:
        sent, calls: batches, and the calls in them.
        sizes: batches by how many calls were sent in them.
        waits: how long each of these calls had been here.
        limits: batches by what kept them from being larger (`batching.Limit`).
        base_s, item_s: a batch of n takes base + item · n seconds.
        size_max, limited_by, reason: the largest that would be sent now, and why no larger one; the reason in words.
    """

    sent: int
    calls: int
    sizes: dict[int, int]
    waits: Distribution
    limits: dict[Limit, int]
    base_s: float
    item_s: float
    size_max: int
    limited_by: Limit
    reason: str


class CallCounts(msgspec.Struct, gc=False):
    """Since the start. `answered` with 200; `failed`: settled with an error; `refused`: never admitted (by code);
    `displaced`: left for another backend, unrun, when this one was removed; `moved`: taken back from a replica that
    worked for another gateway, to one that idled.
    """

    admitted: int = 0
    dispatched: int = 0
    re_executed: int = 0
    bounced: int = 0
    quarantined: int = 0
    cancelled: int = 0
    displaced: int = 0
    moved: int = 0
    answered: int = 0
    late_replies: int = 0
    failed: dict[str, int] = {}
    refused: dict[str, int] = {}

    @property
    def arrivals(self) -> int:
        """Requests, refused ones included."""
        return self.admitted + sum(self.refused.values())

    def snapshot(self) -> CallCounts:
        """A copy of its own."""
        return msgspec.structs.replace(self, failed=dict(self.failed), refused=dict(self.refused))


class BackendStatistics(msgspec.Struct, frozen=True, gc=False):
    """One backend in this gateway. `open_calls`: admitted and without an outcome; `copies`: calls of shadows, which
    count nowhere else; `batches`: None where the model takes calls one by one.
    """

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
    copies: CallCounts
    batches: BatchStatistics | None = None


class GatewayStatistics(msgspec.Struct, frozen=True, gc=False):
    """Everything but HTTP, which has statistics of its own.

    Attributes:
        epoch: another one after every start: all counts began at 0 then.
        backends: those that have, or had, replicas or requests.
        endpoints: those that had requests. See telemetry.versions.
        reading: calls whose backend their body will tell.
    """

    name: str
    epoch: str
    revision: int
    draining: bool
    waiting_bytes: int
    reading: int
    sessions: SessionStatistics
    backends: dict[str, BackendStatistics]
    endpoints: dict[str, EndpointStatistics]
