"""How long a batch of n takes: L(n) = a + b·n, fitted as batches are answered. Pure; must not know queues or clocks.

Weighted least squares with exponential forgetting, in central moments (for one regressor the same as recursive least
squares, L. Ljung, *System Identification*, 1999, ch. 11, without its wind-up: where n does not vary, numerator and
denominator of the slope fade alike and the slope stays, only less certain). An outlier counts as what lies 3 typical
errors from the line (P. J. Huber, 1964); a lasting change still gets through, since the typical error grows with it.

Physical bounds: a ≥ 0 and b ≥ 0, so a batch of n takes at least as long as a smaller one and at most n times a single
    call.
"""

from __future__ import annotations

import math

from muleteer.base.limits import BATCHES_REMEMBERED, BATCHES_SURE
from muleteer.gateway.estimator import ServiceEstimator

_OUTLIER = 3.0
_Z = 2.0  # standard errors of the slope
_SPREAD_MIN = 1e-6


class BatchFit:
    """The line and how far answers stray from it.

    Attributes:
        batches: seen so far.
        largest: the largest n seen.
    """

    __slots__ = ("_covariance", "_error", "_mean_n", "_mean_s", "_ratios", "_spread", "_weight", "batches", "largest")

    def __init__(self) -> None:
        self.batches = 0
        self.largest = 0
        self._weight = 0.0
        self._mean_n = self._mean_s = 0.0
        self._spread = self._covariance = 0.0  # central moments: Σ(n - n̄)², Σ(n - n̄)(s - s̄)
        self._error = 0.0  # typical |answer - line|, as a share of the line
        self._ratios = ServiceEstimator(BATCHES_REMEMBERED)  # answer ÷ line; 1 is one "second"

    def add(self, size: int, seconds: float) -> None:
        """A batch of `size` calls took `seconds`."""
        if self.batches >= BATCHES_SURE and size <= self.largest:  # beyond, the line is a guess and the answer a lesson
            line_s = max(self.expected_s(size), 1e-9)
            self._ratios.add(seconds / line_s)
            off = (seconds - line_s) / line_s
            reach = max(_OUTLIER * self._error, 0.02)
            self._error += (min(abs(off), 2 * reach) - self._error) / 20
            seconds = line_s * (1 + min(reach, max(-reach, off)))
        elif 0 < self.batches < BATCHES_SURE:
            off = abs(seconds - self.expected_s(size)) / max(self.expected_s(size), 1e-9)
            self._error += (min(off, 1.0) - self._error) / (self.batches + 1)
        self.batches += 1
        self.largest = max(self.largest, size)
        keep = 1 - 1 / BATCHES_REMEMBERED
        self._weight = self._weight * keep + 1
        if self._spread > _SPREAD_MIN:
            self._spread *= keep
            self._covariance *= keep
        off_n, off_s = size - self._mean_n, seconds - self._mean_s
        self._mean_n += off_n / self._weight
        self._mean_s += off_s / self._weight
        self._spread += off_n * (size - self._mean_n)
        self._covariance += off_n * (seconds - self._mean_s)

    @property
    def varied(self) -> bool:
        """Whether more than one size was seen, so that the slope is more than a guess."""
        return self._spread > _SPREAD_MIN

    @property
    def item_s(self) -> float:
        """b, seconds. Where n never varied, all is put down to the items: the careful guess for larger batches."""
        if not self.batches:
            return 0.0
        most = self._mean_s / self._mean_n
        return most if self._spread <= _SPREAD_MIN else min(most, max(0.0, self._covariance / self._spread))

    @property
    def base_s(self) -> float:
        """a, seconds."""
        return max(0.0, self._mean_s - self.item_s * self._mean_n)

    def expected_s(self, size: float) -> float:
        """The line at `size`, seconds; 0 before the first batch."""
        return max(0.0, self._mean_s + self.item_s * (size - self._mean_n))

    def upper_s(self, size: float) -> float:
        """What 99 % of the batches of `size` should not exceed, seconds; 0 before the first batch.

        The line with its slope two standard errors steeper beyond the middle of what was seen, times the p99 of
        answer ÷ line; before that is known, times one plus three typical errors.
        """
        if not self.batches:
            return 0.0
        off_n = size - self._mean_n
        item_s = self.item_s
        if off_n > 0 and self._spread > _SPREAD_MIN:
            doubt = _Z * self._error * self._mean_s / math.sqrt(self._spread)
            item_s = min(self._mean_s / self._mean_n, item_s + doubt)
        line_s = max(0.0, self._mean_s + item_s * off_n)
        stray = self._ratios.p99_s if self._ratios.samples >= BATCHES_SURE else 1 + _OUTLIER * self._error
        return line_s * max(1.0, stray)
