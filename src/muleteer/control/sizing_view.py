"""Why a backend has as many replicas, as long a queue and as large batches as it has: for people. Must not know how it
was decided.
"""

from __future__ import annotations

import msgspec

from muleteer.control.scaling import Room
from muleteer.control.share import Grant
from muleteer.control.sizing import Workload


class BatchView(msgspec.Struct, frozen=True):
    """Of a model that takes batches. `size_max` calls may be sent together; `limited_by`, a machine word, says what
    allows no more, `reason` in words.
    """

    size_max: int
    limited_by: str
    reason: str
    wait_s: float = 0.0


class SizingView(msgspec.Struct, frozen=True, kw_only=True):
    """The last decision about one backend.

    Attributes:
        replicas, reason, limited_by, one_more: see `scaling.Sizing`; of a backend with a fixed number, that number.
        wanted: replicas to have now: `replicas` within what the budget grants.
        min, max: as declared.
        elastic: whether sizing decides (min < max). Otherwise `replicas` is declared, and what it would take is in
            `advice`, if there is a target.
        target_s: the p99 that is aimed at; None if there is none to aim at.
        target_reason: whether it was declared, or what it follows from.
        rate: calls/s now.
        workload: as measured; of fewer than SAMPLES_MIN `samples` as guessed; None where not even that is possible.
        room: what the budget leaves.
        grant: what the budget gives; None where it was not asked.
        queue_bound, queue_reason: how many calls may wait, and why.
        batch: None if the model takes calls one by one.
        start_s: seconds from a demand to the first call, as measured or expected; None if unknown.
        memory_bytes: of one replica, of those that ran last where none does; 0 if none was measured.
        idle_s, idle_reason: how long the last replica is kept idle, where `min` is 0.
    """

    backend: str
    replicas: int
    reason: str
    limited_by: str
    one_more: str
    wanted: int
    min: int
    max: int
    elastic: bool = False
    advice: str = ""
    target_s: float | None = None
    target_reason: str = ""
    rate: float = 0.0
    workload: Workload | None = None
    samples: int = 0
    room: Room = Room()
    grant: Grant | None = None
    queue_bound: int = 0
    queue_reason: str = ""
    batch: BatchView | None = None
    start_s: float | None = None
    memory_bytes: int = 0
    idle_s: float | None = None
    idle_reason: str = ""
