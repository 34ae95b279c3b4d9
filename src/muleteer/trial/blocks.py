"""How sure a mean is: medians over blocks of calls, which a disturbance of one block does not move. Pure.

The interval is the one of order statistics: whatever the blocks' distribution, the median lies between the k-th
smallest and the k-th largest of n with a chance that the binomial distribution gives (W. R. Thompson, 1936; H. A.
David, H. N. Nagaraja, *Order Statistics*, 2003, §7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
BLOCKS = 20
BLOCKS_MIN = 6  # fewer can not give 95 %, whatever they are


class Middle(NamedTuple):
    """A median, and how far from it the true one may lie as a share of it (inf: nobody can tell yet)."""

    value: float
    error: float


def blocks_of(values: Sequence[float], round_of: int) -> list[float]:
    """Means of up to `BLOCKS` equal blocks, each of whole rounds of `round_of` values; the rest at the end is left
    out.
    """
    rounds = len(values) // round_of
    size = max(1, rounds // BLOCKS) * round_of
    return [
        sum(values[at : at + size]) / size for at in range(0, min(rounds * round_of, BLOCKS * size) - size + 1, size)
    ]


def middle(values: Sequence[float]) -> Middle:
    """The median of at least one value."""
    ordered, count = sorted(values), len(values)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    if count < BLOCKS_MIN or median <= 0:
        return Middle(median, math.inf)
    rank = _rank(count)
    return Middle(median, max(median - ordered[rank], ordered[-1 - rank] - median) / median)


def _rank(count: int) -> int:
    """The largest k for which the k-th smallest and largest enclose the median with the chance `CONFIDENCE`."""
    outside, rank = 0.0, -1
    while True:
        outside += 2 * math.comb(count, rank + 1) / 2**count
        if outside > 1 - CONFIDENCE:
            return max(0, rank)
        rank += 1
