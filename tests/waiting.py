"""Waits for what happens elsewhere, in another process or thread."""

import time

import pytest


def until(condition, what, seconds=40.0):
    """What `condition()` is as soon as it is true. The time is generous: it only ends a test that has failed.

    Args:
        what: is awaited, in words; or a function that says what is there instead.
    """
    give_up_s = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > give_up_s:
            pytest.fail(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.005)
    return found
