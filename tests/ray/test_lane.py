"""Calls that hang hold up nobody but their own lane, and only as long as they hang. Needs no Ray."""

from __future__ import annotations

import asyncio
import threading

import pytest

from muleteer.engine.ray.lane import Lane

LATE_S = 0.05


def test_a_call_that_comes_when_all_hang_fails_in_time_and_is_never_made():
    asyncio.run(_hang())


def test_what_a_call_raises_is_raised_and_its_thread_is_free_again():
    asyncio.run(_raise())


async def _hang():
    lane, resume, made = Lane("test", 2), threading.Event(), []
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await lane.call(resume.wait, LATE_S)
    for number in range(5):
        with pytest.raises(TimeoutError):
            await lane.call(lambda number=number: made.append(number), LATE_S)
    assert await Lane("other", 1).call(lambda: "goes on", 10) == "goes on"
    resume.set()
    assert await asyncio.gather(*(lane.call(lambda: "again", 10) for _ in range(5))) == ["again"] * 5
    assert made == []


async def _raise():
    lane = Lane("test", 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await lane.call(lambda: 1 / 0, 10)
    assert await lane.call(lambda: "fine", 10) == "fine"
