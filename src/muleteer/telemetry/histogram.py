"""Latencies in logarithmic buckets: small, mergeable, subtractable. Must not know whose latencies they are.

Bucket i holds the values in (g^i, g^(i+1)] microseconds with g = 1.05, so a value given as its bucket's midpoint is
off by at most (g - 1)/(g + 1) = 2.4 % (the mapping of DDSketch: Masson, Rim, Lee, VLDB 2019). Two snapshots of one
histogram subtract to what was recorded between them.
"""

from __future__ import annotations

import math

import msgspec

GAMMA = 1.05
RELATIVE_ERROR = (GAMMA - 1) / (GAMMA + 1)
_PER_LOG = 1 / math.log(GAMMA)
_LAST = math.ceil(math.log(86_400e6) * _PER_LOG)  # a day; whatever is longer counts as that


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many values fell into each bucket; an immutable snapshot without empty buckets."""

    counts: dict[int, int] = {}

    def total(self) -> int:
        """Number of values."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """Seconds under which `share` (0..1) of the values lie, within RELATIVE_ERROR; None of no values."""
        bucket = self._bucket_of(share)
        return None if bucket is None else GAMMA**bucket * 2 * GAMMA / (1 + GAMMA) * 1e-6

    def quantile_at_most(self, share: float) -> float | None:
        """Seconds that the quantile does not exceed: the upper edge of its bucket."""
        bucket = self._bucket_of(share)
        return None if bucket is None else upper_edge(bucket)

    def count_above(self, seconds: float) -> int:
        """Values that are certainly above `seconds`: those in buckets wholly above it."""
        slack = seconds * (1 - 1e-9)  # an edge that was multiplied out is still that edge
        return sum(count for bucket, count in self.counts.items() if GAMMA**bucket * 1e-6 >= slack)

    def merge(self, other: Distribution) -> Distribution:
        """Both together."""
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Distribution(counts)

    def minus(self, earlier: Distribution) -> Distribution:
        """What was recorded since `earlier`, a snapshot of the same histogram. Raises ValueError if it is not one."""
        counts = dict(self.counts)
        for bucket, count in earlier.counts.items():
            left = counts.pop(bucket, 0) - count
            if left < 0:
                raise ValueError("not an earlier snapshot of the same histogram")
            if left:
                counts[bucket] = left
        return Distribution(counts)

    def _bucket_of(self, share: float) -> int | None:
        rank = max(1, math.ceil(share * self.total() - 1e-9))
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return bucket
        return None


def upper_edge(bucket: int) -> float:
    """Seconds: the largest value of a bucket."""
    return float(GAMMA ** (bucket + 1) * 1e-6)


class Histogram:
    """Grows by one `record` at a time: under a microsecond, 2 KiB for a typical spread."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def record(self, seconds: float) -> None:
        """Count one value; under 1 µs counts as 1 µs."""
        micros = seconds * 1e6
        bucket = 0 if micros <= GAMMA else min(math.ceil(math.log(micros) * _PER_LOG) - 1, _LAST)
        counts = self._counts
        counts[bucket] = counts.get(bucket, 0) + 1

    def statistics(self) -> Distribution:
        """A snapshot."""
        return Distribution(dict(self._counts))
