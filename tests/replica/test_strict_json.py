import contextlib
import json
import random
import re

import pytest

from muleteer.base.errors import BadJson
from muleteer.replica.strict_json import decode

REFUSED = [
    (b"", "empty", None),
    (b" \n ", "empty", None),
    (b"\xef\xbb\xbf{}", "byte order mark", 0),
    ("{}".encode("utf-16"), "UTF-16", 0),
    ("{}".encode("utf-16-le"), "UTF-16", 0),
    ('{"a":1}'.encode("utf-32-be"), "UTF-16 or UTF-32", 0),
    (b'{"a":"\xff"}', "not UTF-8", 6),
    (b'"\xed\xa0\x80"', "not UTF-8", 1),
    (b'"\xc0\x80"', "not UTF-8", 1),
    (b"NaN", "invalid", 0),
    (b"[-Infinity]", "invalid", 2),
    (b'{"a":[1,1e400]}', "out of range", 8),
    (b"-1e400", "out of range", 0),
    (b"[1" + b"0" * 5000 + b"]", "out of range", 1),
    (b'{"a":1,"a":2}', "'a' stands twice", 7),
    (b'{"a":{"b":":"},\n "a":2}', "'a' stands twice", 17),
    (b'{"\\u003a":1,"a":1,"a":2}', "'a' stands twice", 18),
    (b'{"\\u0061":1,"a":2}', "'a' stands twice", 12),
    (b'{"a":[],"a":[]}', "'a' stands twice", 8),
    (b"[" * 101 + b"]" * 101, "deeper than 100", 100),
    (b'{"a":' * 101 + b"1" + b"}" * 101, "deeper than 100", 500),
    (b"[" * 1_000_000, "deeper than 100", 100),
    (b"{}x", "trailing", 2),
    (b"1 2", "trailing", 2),
    (b"{}\x00", "trailing", 2),
    (b'"\\ud800"', "surrogate", 1),
    (b'"a\\udc00"', "surrogate", 2),
    (b'"\\ud83d\\ude00\\ud800\\u0041"', "surrogate", 13),
    (b'{"\\ud800":1}', "surrogate", 2),
    (b"[1,]", "trailing comma", 3),
    (b"[1", "too early", 2),
    (b'"abc', "too early", 4),
    (b"'a'", "invalid", 0),
    (b"01", "invalid number", 1),
    (b'"a\nb"', "invalid", 2),
    (b"[/**/1]", "invalid", 1),
    (b"{a:1}", "keys must be strings", 1),
]


@pytest.mark.parametrize(("body", "words", "position"), REFUSED, ids=[repr(row[0][:30]) for row in REFUSED])
def test_refused_with_position(body, words, position):
    with pytest.raises(BadJson) as caught:
        decode(body)
    assert words in caught.value.message
    at = re.search(r"at byte (\d+) \(line \d+, column \d+\)$", caught.value.message)
    assert (int(at[1]) if at else None) == position


def test_line_and_column_count_characters():
    with pytest.raises(BadJson, match=r"byte 14 \(line 2, column 11\)$"):
        decode('{\n"é": "ü", x}'.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b" [1, 2.5, true] ",
        b"-0",
        b'{"a:b":1}',
        b'{"a":{"b":":"},"c":":::","":{}}',
        b'{"\\u003a":1,"\\u003A\\u003a":{"a":1}}',
        b'{"x":{"a":1,"a":2}}',  # deeper levels are not ours to judge
        b"[" * 100 + b"]" * 100,
        b'{"a":"' + b"[{" * 500 + b'\\""}',
        b"[" + b",".join([b'["]"]'] * 500) + b"]",
        b'"\\ud83d\\ude00"',
        '"é\u2028\U0001f600"'.encode(),
    ],
)
def test_accepted(body):
    assert decode(body) == json.loads(body)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 2**64 + 1, 10**100 + 1, 9007199254740993])
def test_integers_stay_exact(number):
    value = decode(str(number).encode())
    assert type(value) is int
    assert value == number


def test_duplicates_against_a_second_parser():
    """Random objects, with colons and escapes in every place: refused exactly when a key of the top level repeats."""
    random.seed(7)
    keys = [":", "a", "a:", "\\u003a", "\\u0061", '\\"', "\\\\", "é", ""]
    values = ["1", '":"', "{}", '{"a":1}', '[":",{"x":":"}]', '"\\""', '"}"', "[[[]]]"]
    refused = 0
    for _ in range(3000):
        chosen = random.choices(keys, k=random.randint(0, 4))
        body = "{" + ", ".join(f'"{key}" : {random.choice(values)}' for key in chosen) + "}"
        pairs = json.loads(body, object_pairs_hook=lambda pairs: pairs)
        unique = len({key for key, _ in pairs}) == len(pairs)
        try:
            assert decode(body.encode()) == json.loads(body)
            assert unique, body
        except BadJson:
            assert not unique, body
            refused += 1
    assert 300 < refused < 2700


def test_depth_against_a_second_count():
    """Random nesting with brackets inside strings: refused exactly when it is deeper than 100."""
    random.seed(8)
    for _ in range(200):
        depth = random.randint(90, 110)
        inner = '"' + random.choice(["[", "]", "{}", '\\"[', "\\\\"]) * 30 + '"'
        body = "1"
        for level in range(depth):
            body = f"[{inner},{body}]" if level % 2 else f'{{"k{inner[1:]}:{body}}}'
        if depth > 100:
            with pytest.raises(BadJson, match="deeper"):
                decode(body.encode())
        else:
            assert decode(body.encode()) == json.loads(body)


def test_only_bad_json_is_raised():
    """Every truncation and every flipped byte of a body is either refused as BadJson or a value."""
    body = b'{"a":[1,-2.5e3,"\\ud83d\\ude00\\n"],"b":{"c":null,"d":true},"e":"\xc3\xa9"}'
    for index in range(len(body)):
        for changed in [body[:index], *(body[:index] + bytes([byte]) + body[index + 1 :] for byte in range(0, 256, 5))]:
            with contextlib.suppress(BadJson):
                decode(changed)


def test_a_huge_refused_body_is_refused_soon():
    body = b'{"a":[' + b'":",' * 1_000_000 + b'1],"z":1,"z":2}'
    with pytest.raises(BadJson, match="a key stands twice"):
        decode(body)
