"""Shadow answers: equal, different, or not comparable, in bounded time."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muleteer.base.limits import COMPARE_NODES_MAX
from muleteer.gateway.compare import compare

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ('{"a": 1, "b": [2, 3]}', '{"b":[2,3],"a":1}', "equal"),
        ('{"a": 1}', '{"a": 1, "b": null}', "different"),
        ('{"a": 1}', '{"b": 1}', "different"),
        ("[1, 2]", "[2, 1]", "different"),
        ("[1]", "[1, 1]", "different"),
        ("1", "1.0", "equal"),
        ("1", "1.0000005", "equal"),
        ("1", "1.00001", "different"),
        ("1e300", "-1e300", "different"),
        ("0", "1e-9", "different"),
        ("0.1", "0.30000000000000004", "different"),
        ("1", "true", "different"),
        ("0", "false", "different"),
        ("null", "false", "different"),
        ('"1"', "1", "different"),
        ("[]", "{}", "different"),
        ('"a"', '"a"', "equal"),
        ('"a"', '"\\u0061"', "equal"),
        ("9007199254740993", "9007199254740993 ", "equal"),
        ("1" + "0" * 400, "2" + "0" * 400, "different"),  # beyond any float
        ("{", "{}", "error"),
        ("{}", "", "error"),
        ('"\udcff"', '"x"', "error"),
        ("NaN", "1", "error"),
    ],
)
def test_pairs(one, other, verdict):
    for first, second in ((one, other), (other, one)):
        assert compare(first.encode(errors="surrogateescape"), second.encode(errors="surrogateescape"), 1e-6) == verdict


@given(JSON)
def test_a_value_equals_itself_however_it_is_written(value):
    assert compare(json.dumps(value).encode(), json.dumps(value, indent=1).encode(), 0.0) == "equal"


@given(JSON, JSON)
def test_the_verdict_is_that_of_values(one, other):
    def typed(value):  # True is not 1
        if isinstance(value, dict):
            return {key: typed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [typed(item) for item in value]
        return ("bool", value) if isinstance(value, bool) else value

    expected = "equal" if typed(one) == typed(other) else "different"
    assert compare(json.dumps(one).encode(), json.dumps(other).encode(), 0.0) == expected


def test_the_work_is_bounded():
    large = b"[" + b",".join([b"1"] * (COMPARE_NODES_MAX + 5)) + b"]"
    assert compare(large, large, 0.0) == "equal"  # the same bytes cost nothing
    started_s = time.process_time()
    assert compare(large, large + b" ", 0.0) == "error"
    nested = b"[" + b",".join([b"[" + b",".join([b"1"] * 999) + b"]"] * 200) + b"]"
    assert compare(nested, nested + b" ", 0.0) == "error"
    deep = b"[" * 100_000 + b"]" * 100_000
    assert compare(deep, deep + b" ", 0.0) == "error"
    assert time.process_time() - started_s < 2
