"""What a backend was asked for and how long it took: of all that a gateway counts, the part that sizing reads. Must not
know who reads it.
"""

from __future__ import annotations

import msgspec

from muleteer.gateway.statistics import BatchStatistics


class Load(msgspec.Struct, frozen=True, gc=False):
    """One backend in one gateway, now.

    Attributes:
        arrivals: requests since the start of the gateway, refused ones included, copies not.
        queued: calls that wait.
        open_calls: those that wait, are read or run.
        slots: of ready replicas.
        bound: calls with the backend's timeout that may wait.
        served: calls and batches that held a slot, since the start of the gateway.
        mean_s, p99_s: how long they held it, recently; 0 before the first.
        model_mean_s: of that, in the user's method, as replicas say.
        services: the same as (seconds, how many), ascending, of the last SERVICE_WINDOW.
        answered: calls answered with 200, since the start of the gateway.
        busy: replicas that work on a call.
        warm_up_s: what the model's example took at the warm-up; None without one.
        batches: of a model that takes them; then `services` are those of batches.
    """

    arrivals: int
    queued: int
    open_calls: int
    slots: int
    bound: int
    served: int
    mean_s: float
    model_mean_s: float
    p99_s: float
    services: tuple[tuple[float, int], ...]
    answered: int
    busy: tuple[str, ...]
    warm_up_s: float | None = None
    batches: BatchStatistics | None = None
