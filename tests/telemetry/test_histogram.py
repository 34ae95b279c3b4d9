"""The latency histogram: its error, and that windows are exact."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muleteer.telemetry.histogram import GAMMA, RELATIVE_ERROR, Distribution, Histogram, upper_edge

SECONDS = st.floats(2e-6, 86_000)


def distribution_of(values):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram.statistics()


def test_the_error_is_what_is_promised():
    assert RELATIVE_ERROR < 0.05


@given(st.lists(SECONDS, min_size=1), st.floats(0, 1))
def test_quantiles_are_within_the_relative_error(values, share):
    found = distribution_of(values)
    true = sorted(values)[max(1, -int(-(share * len(values) - 1e-9) // 1)) - 1]
    assert found.quantile(share) == pytest.approx(true, rel=RELATIVE_ERROR * 1.001)
    assert true * (1 - 1e-9) <= found.quantile_at_most(share) <= true * GAMMA * (1 + 1e-9)


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_windows_are_exact(first, second):
    histogram = Histogram()
    for value in first:
        histogram.record(value)
    before = histogram.statistics()
    for value in second:
        histogram.record(value)
    after = histogram.statistics()
    assert after.minus(before) == distribution_of(second)
    assert before.merge(distribution_of(second)) == after
    assert after.minus(after) == Distribution()
    assert after.total() == len(first) + len(second)


@given(st.lists(SECONDS), SECONDS)
def test_what_is_counted_above_is_above(values, threshold):
    count = distribution_of(values).count_above(threshold)
    assert (
        sum(v > threshold * GAMMA * 1.000001 for v in values) <= count <= sum(v > threshold * 0.999999 for v in values)
    )


def test_nothing_is_above_its_own_edge():
    found = distribution_of([0.01] * 99 + [0.02])
    assert found.count_above(found.quantile_at_most(0.99)) == 1
    assert found.count_above(found.quantile_at_most(1.0)) == 0
    assert [Distribution({b: 1}).count_above(upper_edge(b)) for b in range(500)] == [0] * 500
    assert [Distribution({b + 1: 1}).count_above(upper_edge(b)) for b in range(500)] == [1] * 500


def test_extremes_count_and_nothing_has_no_quantile():
    found = distribution_of([0.0, 1e-9, 1e-6, 1e9, float(10**12)])
    assert found.total() == 5
    assert found.quantile(1.0) == pytest.approx(86_400, rel=0.1)
    assert Distribution().quantile(0.5) is None


def test_it_travels_as_json():
    found = distribution_of([0.001, 0.5, 0.5])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Distribution) == found


def test_a_later_snapshot_does_not_subtract():
    with pytest.raises(ValueError, match="not an earlier snapshot"):
        distribution_of([1.0]).minus(distribution_of([1.0, 1.0]))
    with pytest.raises(ValueError, match="not an earlier snapshot"):
        distribution_of([1.0]).minus(distribution_of([2.0]))
