"""Who may wait: the rules of docs/behaviour.md §3, in their order. Pure; must not know calls, links or clocks.

Rule 1, start at once in an idle slot before an empty queue, is the caller's: there is nothing to ask here then.
Words of the formulas: C ready slots (beside other gateways: those that this one may reckon with), S mean service time,
p99 of recent services, D remaining deadline, `queued` the calls that would be served before this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from muleteer.base.errors import Loading, OutOfMemory, PredictedLate, Refused
from muleteer.base.limits import (
    CALLS_QUEUED_MAX,
    CLIENT_SHARE,
    QUEUED_BYTES_MAX,
    RETRY_AFTER_S_MAX,
    SAMPLES_MIN,
)
from muleteer.gateway.estimator import ServiceEstimator

Uniform = Callable[[], float]
"""A random number from [0, 1)."""


class Estimate(NamedTuple):
    """S and p99 in seconds. `guessed` from a single call: it lets wait, and keeps nobody out of one place per slot."""

    mean_s: float
    p99_s: float
    guessed: bool = False


def estimate_of(
    services: ServiceEstimator, expected_s: float | None, warm_up_s: float | None = None
) -> Estimate | None:
    """What is measured; before `SAMPLES_MIN` calls what is declared, else what the warm-up took; None where nothing is
    known.

    A first call says roughly what a call takes, and is often the slowest of all: so it is no p99.
    """
    if services.samples >= SAMPLES_MIN:
        return Estimate(services.mean_s, services.p99_s)
    if expected_s is not None:
        return Estimate(expected_s, expected_s)
    return None if warm_up_s is None else Estimate(warm_up_s, 0.0, guessed=True)


def predicted_s(queued: int, slots: float, estimate: Estimate) -> float:
    """When a call behind `queued` others will be answered, at the latest: (queued + 1)·S/C + p99."""
    return (queued + 1) * estimate.mean_s / slots + estimate.p99_s


def refusal(
    *,
    queued: int,
    slots: float,
    estimate: Estimate | None,
    remaining_s: float,
    uniform: Uniform,
    places: float | None = None,
) -> Refused | None:
    """Why a call may not wait, or None if it may. `uniform` spreads the Retry-After of many; so many `places` are there
    while nothing is known or only guessed (None: one per slot).
    """
    if estimate is None:
        places = slots if places is None else places
        if queued >= places:
            held = "one per slot " if places == slots else ""
            return Refused(
                f"the queue is full: until {SAMPLES_MIN} calls are measured it holds {held}({places:g})",
                retry_after_s=retry_after_s(0.0, uniform()),
            )
    else:
        late_s = predicted_s(queued, slots, estimate) - remaining_s
        if late_s > 0 and not (estimate.guessed and queued < (slots if places is None else places)):
            why = f"{queued} calls wait for {round(slots, 1):g} slots"
            return PredictedLate(
                f"the answer would come {late_s:.1f} s after the deadline: {why}",
                retry_after_s=retry_after_s(late_s, uniform()),
            )
    if queued >= CALLS_QUEUED_MAX:
        return Refused(
            f"the queue is full: it holds {CALLS_QUEUED_MAX} calls", retry_after_s=retry_after_s(0.0, uniform())
        )
    return None


def start_refusal(name: str, start_s: float, remaining_s: float, uniform: Uniform) -> Loading | None:
    """Why a call may not wait for a sleeping backend that takes its first call in `start_s`; None if it may."""
    if start_s <= remaining_s:
        return None
    message = f"{name} sleeps and is being started: that takes {start_s:.1f} s, and the deadline is sooner"
    return Loading(message, retry_after_s=retry_after_s(start_s, uniform()))


def memory_refusal(waiting_bytes: int, uniform: Uniform) -> OutOfMemory:
    """The cap in bytes, over all bodies that wait in this gateway."""
    return OutOfMemory(
        f"bodies of {waiting_bytes} bytes wait already, at most {QUEUED_BYTES_MAX} may",
        retry_after_s=retry_after_s(0.0, uniform()),
    )


def retry_after_s(late_s: float, uniform: float) -> int:
    """max(1, ceil(predicted wait - D)), plus up to a quarter (at least 1 s) to keep the refused apart; capped."""
    base = max(1, math.ceil(min(late_s, RETRY_AFTER_S_MAX)))
    return min(RETRY_AFTER_S_MAX, base + int(uniform * (1 + max(1, base // 4))))


def queue_bound(slots: float, estimate: Estimate | None, deadline_s: float, places: float | None = None) -> int:
    """How many calls with `deadline_s` may wait: the largest n with n·S/C + p99 ≤ D, within the hard cap. `places`: as
    of `refusal`.
    """
    least = math.floor(slots if places is None else places)
    if estimate is None:
        return min(least, CALLS_QUEUED_MAX)
    room_s = deadline_s - estimate.p99_s
    if estimate.mean_s <= 0:
        return CALLS_QUEUED_MAX if room_s >= 0 else 0
    return min(CALLS_QUEUED_MAX, max(least if estimate.guessed else 0, math.floor(room_s * slots / estimate.mean_s)))


def client_share(running: int, bound: int) -> int:
    """How many calls one client may hold while others wait: a quarter of those that run and those that may wait, at
    least one.
    """
    return max(1, (running + bound) // CLIENT_SHARE)
