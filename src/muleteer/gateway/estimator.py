"""How long calls take: their mean and their p99, at constant cost per call. Pure; must not know queues or clocks."""

from __future__ import annotations

from array import array

from muleteer.base.limits import SERVICE_WINDOW

MEAN_CALLS = 100
"""The exponentially weighted mean forgets over about this many calls."""
_SUB_BITS = 4  # 16 buckets per power of two: an upper edge is at most 1/16 above the true value
_TOP_US = 2**32 - 1
_BUCKETS = 29 << _SUB_BITS


def bucket_of(us: int) -> int:
    """The bucket of a duration in µs: linear up to 2^5, then 16 to each power of two (as in HDR histograms)."""
    us = min(us, _TOP_US)
    shift = max(us.bit_length() - _SUB_BITS - 1, 0)
    return (shift << _SUB_BITS) + (us >> shift)


def upper_edge_us(bucket: int) -> int:
    """The first duration in µs that is longer than all of `bucket`."""
    shift = max((bucket >> _SUB_BITS) - 1, 0)
    return (bucket - (shift << _SUB_BITS) + 1) << shift


class ServiceEstimator:
    """Mean (EWMA) and p99 of recent service times.

    The p99 is the nearest-rank quantile of the last `window` samples, rounded up to the edge of its bucket. It is kept
    by a pointer that each sample moves by a bucket or two, so nothing is ever sorted or walked.

    Attributes:
        mean_s: S of the admission rule. Plain mean of the first `MEAN_CALLS` samples, exponentially weighted after.
        samples: seen so far, not only those in the window.
    """

    __slots__ = ("_above", "_counts", "_ring", "_window", "_within", "mean_s", "samples")

    def __init__(self, window: int = SERVICE_WINDOW) -> None:
        self.mean_s = 0.0
        self.samples = 0
        self._window = window
        self._ring = array("H")
        self._counts = [0] * _BUCKETS
        self._within = 0  # the bucket of the quantile
        self._above = 0  # samples in higher buckets

    def add(self, service_s: float) -> None:
        """One call took `service_s` seconds."""
        self.mean_s += (service_s - self.mean_s) / min(self.samples + 1, MEAN_CALLS)
        bucket = bucket_of(int(service_s * 1e6))
        ring, counts, within = self._ring, self._counts, self._within
        if self.samples < self._window:
            ring.append(bucket)
        else:
            place = self.samples % self._window
            oldest = ring[place]
            ring[place] = bucket
            counts[oldest] -= 1
            if oldest > within:
                self._above -= 1
        self.samples += 1
        counts[bucket] += 1
        if bucket > within:
            self._above += 1
        if self._above > (allowed := len(ring) // 100) or self._above + counts[within] <= allowed:
            self._follow(allowed)

    def _follow(self, allowed: int) -> None:
        """Move to the lowest bucket that leaves at most `allowed` of the samples above it."""
        counts = self._counts
        while self._above > allowed:
            self._within += 1
            self._above -= counts[self._within]
        while self._within and self._above + counts[self._within] <= allowed:
            self._above += counts[self._within]
            self._within -= 1

    def services(self) -> tuple[tuple[float, int], ...]:
        """The samples in the window as (middle of their bucket in seconds, how many), ascending."""
        return tuple(
            ((upper_edge_us(bucket - 1) + upper_edge_us(bucket)) / 2e6 if bucket else 5e-7, count)
            for bucket, count in enumerate(self._counts)
            if count
        )

    @property
    def p99_s(self) -> float:
        """99 % of the last services took no longer. 0 without samples."""
        return upper_edge_us(self._within) / 1e6 if self._ring else 0.0
