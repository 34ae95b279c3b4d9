"""Two answers to one request: equal, different, or not comparable. Pure; must not know who gave them.

Objects are equal if they have the same keys with equal values, in any order; lists in order; numbers within a relative
tolerance (1 and 1.0 are equal); everything else exactly.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from muleteer.base.limits import COMPARE_NODES_MAX

Verdict = Literal["equal", "different", "error"]

_decode = msgspec.json.Decoder().decode


def compare(primary: bytes, shadow: bytes, tolerance: float) -> Verdict:
    """The verdict on two JSON bodies. `error`: one is not JSON, or they are too large to compare in bounded time.

    `tolerance`: relative to the larger of the two numbers.
    """
    if primary == shadow:
        return "equal"
    try:
        pairs = [(_decode(primary), _decode(shadow))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "error"
    left = COMPARE_NODES_MAX
    while pairs:  # a stack of our own: depth cannot exhaust the interpreter's
        left -= 1
        if left < 0:
            return "error"
        one, other = pairs.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return "different"
            if len(one) > left:
                return "error"
            pairs += [(one[key], other[key]) for key in one]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return "different"
            if len(one) > left:
                return "error"
            pairs += zip(one, other, strict=True)
        elif not _equal(one, other, tolerance):
            return "different"
    return "equal"


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    if _number(one) and _number(other):
        try:
            return one == other or math.isclose(one, other, rel_tol=tolerance)
        except OverflowError:  # whole numbers beyond any float, and not the same
            return False
    return type(one) is type(other) and one == other


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
