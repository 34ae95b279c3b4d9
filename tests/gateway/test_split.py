"""Where requests go: by weight, by session, by wish; and what moves when weights change."""

import hashlib
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muleteer.base.errors import ClientError
from muleteer.base.limits import SESSIONS_MAX
from muleteer.gateway.sessions import Sessions
from muleteer.gateway.split import Split, cookie_value, sticky
from muleteer.spec.snapshot import EndpointRoute
from muleteer.spec.traffic import Affinity, Override

KEY = b"k" * 32


def split(traffic, affinity=None, *, override=None, replica=False, key=KEY):
    parts = Affinity(source=affinity, name="sid", replica=replica) if affinity else None
    return Split(EndpointRoute(name="e", route="/e", traffic=traffic, affinity=parts, override=override), key)


def never():
    raise AssertionError("no need to draw")


# weights


@pytest.mark.parametrize("traffic", [{"a": 90, "b": 10}, {"a": 1, "b": 1, "c": 8}, {"a": 0.001, "b": 0.999}])
def test_any_thousand_requests_are_within_binomial_noise(traffic):
    chosen, draw = split(traffic), random.Random(1).random
    picks = [chosen.choose({}, draw).backend for _ in range(20_000)]
    whole = sum(traffic.values())
    for begin in range(0, 20_000, 1000):
        counts = Counter(picks[begin : begin + 1000])
        for name, weight in traffic.items():
            share = weight / whole
            assert abs(counts[name] - 1000 * share) <= 4.5 * math.sqrt(1000 * share * (1 - share)) + 1


def test_the_ends_of_the_draw():
    chosen = split({"z": 0, "a": 1, "b": 3, "y": 0})
    assert chosen.choose({}, lambda: 0.0).backend == "a"
    assert chosen.choose({}, lambda: 0.24999).backend == "a"
    assert chosen.choose({}, lambda: 0.25).backend == "b"
    assert chosen.choose({}, lambda: 1 - 2**-53).backend == "b"


def test_one_backend_needs_no_draw():
    assert split({"a": 5, "b": 0}).choose({}, never).backend == "a"


# sessions

SESSIONS = [f"session-{i}" for i in range(10_000)]


def placed(traffic, sessions=SESSIONS):
    chosen = split(traffic, "header")
    return {s: chosen.choose({"sid": s}, never).backend for s in sessions}


@pytest.mark.parametrize("traffic", [{"a": 90, "b": 10}, {"a": 1, "b": 1, "c": 1}, {"a": 6, "b": 3, "c": 1}])
def test_sessions_are_shared_by_weight(traffic):
    counts, whole = Counter(placed(traffic).values()), sum(traffic.values())
    for name, weight in traffic.items():
        share = weight / whole
        assert abs(counts[name] - 10_000 * share) < 4 * math.sqrt(10_000 * share * (1 - share))


def test_only_the_share_that_must_move_moves():
    """90/10 -> 50/50: nobody leaves the backend that grows, so as many move as it grows by, and no more."""
    before, after = placed({"a": 90, "b": 10}), placed({"a": 50, "b": 50})
    moves = Counter((before[s], after[s]) for s in SESSIONS if before[s] != after[s])
    assert set(moves) == {("a", "b")}
    assert moves["a", "b"] == Counter(after.values())["b"] - Counter(before.values())["b"]
    assert 3800 < moves["a", "b"] < 4200


def test_weights_that_mean_the_same_move_nobody():
    assert placed({"a": 90, "b": 10}) == placed({"b": 1, "a": 9})


def test_a_version_that_leaves_moves_its_own_sessions_and_a_new_one_takes_only_its_share():
    three, two = placed({"a": 5, "b": 3, "c": 2}), placed({"a": 5, "b": 3})
    assert all(two[s] == three[s] for s in SESSIONS if three[s] != "c")
    assert {two[s] for s in SESSIONS if three[s] == "c"} == {"a", "b"}


@given(st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1), st.permutations("abc"))
def test_a_place_depends_on_nothing_but_session_and_weights(session, order):
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert placed(weights, [session]) == placed({name: weights[name] for name in order}, [session])


def test_a_place_is_the_same_in_every_process():
    """Gateways must agree, after every update of this program too: these are fixed."""
    digest = hashlib.sha256("".join(placed({"a": 1, "b": 1, "c": 2}).values()).encode()).hexdigest()
    assert digest[:16] == "2c7ff031f610f2f8"


def test_without_a_key_the_weights_decide():
    chosen = split({"a": 1, "b": 1}, "header")
    for headers in ({}, {"sid": ""}):
        choice = chosen.choose(headers, lambda: 0.9)
        assert (choice.backend, choice.session) == ("b", None)


# cookies


def issued(chosen, headers=None):
    choice = chosen.choose(headers or {}, never)
    line = choice.set_cookie.decode()
    assert line.startswith("set-cookie: sid=")
    assert line.endswith("; Path=/e; HttpOnly; SameSite=Lax\r\n")
    return choice, line.removeprefix("set-cookie: ").partition(";")[0]


def test_a_cookie_is_issued_once_and_keeps_the_place():
    chosen = split({"a": 1, "b": 1}, "cookie")
    first, cookie = issued(chosen)
    again = chosen.choose({"cookie": f"x=1; {cookie}; y=2"}, never)
    assert (again.backend, again.session, again.set_cookie) == (first.backend, first.session, None)
    assert split({"a": 1, "b": 1}, "cookie").choose({"cookie": cookie}, never).set_cookie is None


def test_a_cookie_that_is_not_ours_begins_a_new_session():
    chosen = split({"a": 1, "b": 1}, "cookie")
    first, cookie = issued(chosen)
    name, _, signed = cookie.partition("=")
    id, _, signature = signed.partition(".")
    other = f"{id[:-1]}{'Q' if id[-1] == 'A' else 'A'}"
    forged = [f"{id}.{signature[:-1]}", f"{other}.{signature}", f"{id}.", id, "", f".{signature}", f"{id}.é", "é.é"]
    for value in forged:
        assert issued(chosen, {"cookie": f"{name}={value}"})[0].session != first.session
    issued(split({"a": 1, "b": 1}, "cookie", key=b"other"), {"cookie": cookie})


def test_cookies_are_unlike():
    chosen = split({"a": 1, "b": 1}, "cookie")
    assert len({issued(chosen)[1] for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("sid=1", "1"),
        ("a=2; sid=1", "1"),
        ("sid = 1 ;b", "1"),
        ("xsid=1", None),
        ("sid", None),
        ("", None),
        ("sid=", ""),
    ],
)
def test_cookie_value(header, value):
    assert cookie_value(header, "sid") == value


# JSON fields


def test_a_field_of_the_body():
    chosen = split({"a": 1, "b": 1}, "json")
    assert chosen.needs_body
    assert not split({"a": 1}, "header").needs_body
    by_text = chosen.choose({}, never, b'{"x": [1, {"sid": 2}], "sid": "u\\u0031", "text": "..."}')
    assert by_text.session == b"u1"
    assert by_text.backend == split({"a": 1, "b": 1}, "header").choose({"sid": "u1"}, never).backend
    assert chosen.choose({}, never, b'{"sid": 17}').session == b"17"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"3",
        b'{"sid": null}',
        b'{"sid": ""}',
        b'{"sid": [1]}',
        b'{"sid": 1.5}',
        b'{"sid"',
        b'{"sid":"\xff"}',
        b'{"a":' * 5000,
    ],
)
def test_a_body_without_the_field_has_no_session(body):
    assert split({"a": 1, "b": 1}, "json").choose({}, lambda: 0.0, body).session is None


# wishes


def test_a_wish_is_granted_only_where_allowed():
    headers = {"muleteer-backend": "b", "cookie": "version=c"}
    traffic = {"a": 1, "b": 0, "c": 0}
    assert split(traffic).choose(headers, never).backend == "a"
    by_header = Override(header="muleteer-backend")
    assert split(traffic, override=by_header).choose(headers, never).backend == "b"
    assert split(traffic, override=Override(cookie="version")).choose(headers, never).backend == "c"
    both = Override(header="muleteer-backend", cookie="version")
    assert split(traffic, "header", override=both).choose({**headers, "sid": "s"}, never).backend == "b"


def test_a_wish_for_what_is_not_there():
    chosen = split({"a": 1}, override=Override(header="h", cookie="c"))
    with pytest.raises(ClientError, match="h: this endpoint has a"):
        chosen.choose({"h": "gone"}, never)
    assert chosen.choose({"cookie": "c=gone"}, never).backend == "a"


# replicas and moves


class Replica:
    def __init__(self, replica):
        self.replica = replica


def test_a_replica_that_leaves_moves_only_its_own_sessions():
    four = [Replica(f"m-{n}") for n in (1, 2, 3, 4)]
    three = [four[3], four[0], four[2]]
    before = {s: sticky(s.encode(), four) for s in SESSIONS}
    after = {s: sticky(s.encode(), three) for s in SESSIONS}
    assert all(after[s] is before[s] for s in SESSIONS if before[s] is not four[1])
    assert all(2200 < count < 2800 for count in Counter(before.values()).values())
    assert sticky(b"s", []) is None


def test_a_move_is_told_once():
    sessions = Sessions()
    news = [sessions.arrive("e", b"s", place) for place in ("m-1", "m-1", "m-2", "m-2", "m-1")]
    assert news == ["new", "kept", "moved", "kept", "moved"]
    assert sessions.arrive("other", b"s", "m-9") == "new", "the same key at another endpoint is another session"
    assert (sessions.statistics().remembered, sessions.statistics().moved) == (2, 2)


def test_the_memory_of_sessions_is_bounded_and_forgets_the_idle():
    sessions = Sessions()
    for i in range(SESSIONS_MAX):
        sessions.arrive("e", b"%d" % i, "a")
    assert sessions.arrive("e", b"0", "a") == "kept"  # now the youngest
    sessions.arrive("e", b"new", "a")
    assert sessions.statistics().remembered == SESSIONS_MAX
    assert sessions.arrive("e", b"1", "b") == "new", "forgotten"
    assert sessions.arrive("e", b"0", "b") == "moved"
