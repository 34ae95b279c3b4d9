import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
from typing import NamedTuple

import msgspec
import numpy as np
import pydantic
import pytest

from muleteer.base.errors import BadModelOutput
from muleteer.replica.encode import encode


class Pair(NamedTuple):
    a: int
    b: object


class Level(enum.IntEnum):
    HIGH = 2


class Number(int):
    pass


@dataclasses.dataclass
class Point:
    x: float
    y: object = None


class Box(msgspec.Struct):
    inside: object


class Scored(pydantic.BaseModel):
    score: float
    day: dt.date = dt.date(2024, 1, 2)


NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ([None, {"a": None}], [None, {"a": None}]),
        ("null", "null"),
        ({"null": 1.5}, {"null": 1.5}),
        (2**70, 2**70),
        ([2**70, None], [2**70, None]),
        (b"ab", "YWI="),
        (bytearray(b"ab"), "YWI="),
        ({1, 2}, [1, 2]),
        (Pair(1, None), [1, None]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        (collections.deque([1]), [1]),
        (collections.UserDict(a=1), {"a": 1}),
        ({1: "a"}, {"1": "a"}),
        (Level.HIGH, 2),
        (Number(3), 3),
        (decimal.Decimal("1.10"), "1.10"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (Point(1.5), {"x": 1.5, "y": None}),
        (Box([Point(1.0)]), {"inside": [{"x": 1.0, "y": None}]}),
        ([Scored(score=1)], [{"score": 1.0, "day": "2024-01-02"}]),
        (np.float32(1.5), 1.5),
        (np.float64(0.1), 0.1),
        (np.longdouble(1.5), 1.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        ({"a": np.arange(3), "b": None}, {"a": [0, 1, 2], "b": None}),
        (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (np.array([1, 2], dtype=">i4"), [1, 2]),
        (np.array([1.5], dtype=np.float16), [1.5]),
        (np.array([1.5], dtype=np.longdouble), [1.5]),
        (np.array(5), 5),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array([None, 1], dtype=object), [None, 1]),
        (np.array([True, False]), [True, False]),
        (np.zeros((2, 0)), [[], []]),
        (np.array(["2024-01-02"], dtype="M8[D]"), ["2024-01-02T00:00:00"]),
        ([np.array([2**64 - 1], dtype=np.uint64)], [[2**64 - 1]]),
    ],
)
def test_answers(value, expected):
    assert json.loads(encode(value)) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (NAN, "NaN"),
        ([1.0, {"a": [INF]}], "Infinity at [1]['a'][0]"),
        ((-INF,), "Infinity at [0]"),
        (Point(NAN), "NaN at .x"),
        (Box([None, Point(1.0, NAN)]), "NaN at .inside[1].y"),
        ({"a": Scored(score=NAN)}, "NaN at ['a'].score"),
        (np.float32(NAN), "NaN"),
        ([np.float64(INF)], "Infinity at [0]"),
        ({"m": np.array([[1, NAN]])}, "an array with NaN at ['m']"),
        (np.array([INF], dtype=np.float16), "an array with Infinity"),
        (np.array([None, NAN], dtype=object), "NaN at [1]"),
        (np.array(NAN), "NaN"),
        (np.array(["NaT"], dtype="M8[D]"), "an array with NaT"),
        ([2**70, NAN], "NaN at [1]"),
        ({"a": [1, 2j]}, "a value of type complex, which has no JSON form at ['a'][1]"),
        (np.array([1j]), "complex"),
        ([object()], "a value of type object, which has no JSON form at [0]"),
        ({(1, 2): 3}, "an object with keys of type tuple"),
        ([{None: 1}], "keys of type NoneType at [0]"),
        ("a\ud800", "lone surrogate"),
        ({"x": "\udc00"}, "lone surrogate) at ['x']"),
        ((character for character in "ab"), "a generator, not a value"),
        (Box(lambda: 1), "function"),
    ],
)
def test_refused_with_its_path(value, words):
    with pytest.raises(BadModelOutput) as caught:
        encode(value)
    assert words in caught.value.message
    assert caught.value.message.startswith("predict returned")


def test_a_value_that_contains_itself():
    value = []
    value.append(value)
    with pytest.raises(BadModelOutput, match="contains itself"):
        encode(value)


def test_a_property_of_the_user_that_raises():
    class Bad(collections.UserDict):
        def __iter__(self):
            raise RuntimeError("broken")

        keys = __iter__

    with pytest.raises(BadModelOutput):
        encode({"a": Bad(x=1)})


def test_floats_next_to_the_marker_are_no_false_alarm():
    """Bytes that look like NaN in msgpack: inside text, and floats with almost all exponent bits."""
    value = {"none": None, "text": "\x7f\xf8", "raw": b"\xcb\x7f\xf8\xcb\xff\xf0", "big": [1.7e308, -1.7e308]}
    assert json.loads(encode(value))["big"] == [1.7e308, -1.7e308]
    assert not any(math.isinf(number) for number in value["big"])
