"""Which replica gets which device."""

from __future__ import annotations

import random

import pytest

from muleteer.engine.gpus import Taken, assign, impossible

TWO = ("0", "1")


def test_parts_share_a_device_until_it_is_full() -> None:
    taken: list[Taken] = []
    for _ in range(5):
        found = assign(TWO, taken, 0.4)
        if found is not None:
            taken.append(found)
    assert [each.devices for each in taken] == [("0",), ("0",), ("1",), ("1",)]


def test_ten_tenths_are_one_device() -> None:
    taken: list[Taken] = []
    while (found := assign(("0",), taken, 0.1)) is not None:
        taken.append(found)
    assert len(taken) == 10


def test_whole_ones_are_alone() -> None:
    half = Taken(("0",), 0.5)
    assert assign(TWO, [half], 1) == Taken(("1",), 1.0)
    assert assign(TWO, [half], 2) is None
    assert assign(TWO, [Taken(("0",), 1.0)], 0.1) == Taken(("1",), 0.1)
    assert assign(TWO, [Taken(TWO, 1.0)], 0.1) is None
    assert assign(TWO, [], 2) == Taken(TWO, 1.0)


def test_a_device_that_is_no_longer_named_is_nobodys() -> None:
    assert assign(("1",), [Taken(("0",), 1.0)], 1) == Taken(("1",), 1.0)


@pytest.mark.parametrize(("amount", "words"), [(1.5, "whole number"), (3, "has 2: 0, 1")])
def test_what_can_never_be_had_is_said(amount, words) -> None:
    assert words in impossible(TWO, amount)


def test_what_can_be_had_is_not_refused() -> None:
    assert [impossible(TWO, amount) for amount in (0.5, 1, 2)] == [None, None, None]
    assert "has none" in impossible((), 0.5)


def test_no_device_is_ever_given_twice() -> None:
    dice = random.Random(3)
    for _ in range(300):
        devices = tuple(map(str, range(dice.randrange(1, 5))))
        taken: list[Taken] = []
        for _ in range(30):
            if taken and dice.random() < 0.4:
                taken.remove(dice.choice(taken))
            found = assign(devices, taken, dice.choice([0.25, 0.3, 0.5, 1, 2]))
            taken += [found] if found is not None else []
            for device in devices:
                assert sum(each.part for each in taken if device in each.devices) <= 1 + 1e-5
