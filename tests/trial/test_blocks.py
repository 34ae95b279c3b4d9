"""Means of blocks, their median, and how sure it is."""

import math
import random

import pytest

from muleteer.trial.blocks import BLOCKS, blocks_of, middle


def test_blocks_hold_whole_rounds_of_the_inputs():
    values = [1.0, 9.0] * 50 + [1.0]
    assert blocks_of(values, 2) == [5.0] * BLOCKS
    assert blocks_of([1.0, 2.0, 3.0], 2) == [1.5]
    assert blocks_of([1.0], 2) == []


def test_a_disturbed_block_moves_nothing():
    quiet = [1.0 + index / 1000 for index in range(BLOCKS)]
    assert middle([*quiet[:-1], 50.0]).value == pytest.approx(middle(quiet).value, rel=1e-6)


def test_too_few_blocks_are_not_sure_of_anything():
    assert middle([1.0] * 5) == (1.0, math.inf)
    assert middle([1.0] * 6) == (1.0, 0.0)


def test_the_interval_holds_the_median_as_often_as_it_says():
    dice = random.Random(3)
    hits = 0
    for _ in range(1000):
        found = middle([dice.lognormvariate(0, 0.4) for _ in range(BLOCKS)])
        hits += abs(1.0 - found.value) <= found.error * found.value
    assert hits >= 940  # 95.9 % for 20 blocks; the reach is the longer side of the interval


def test_more_blocks_know_it_better():
    dice = random.Random(4)
    values = [dice.gauss(1, 0.1) for _ in range(400)]
    assert middle(blocks_of(values, 1)).error < middle(values[:20]).error
