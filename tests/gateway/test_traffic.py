"""Where calls go, over real sockets: weights and their change, wishes, sessions, replicas that sessions keep to."""

import asyncio
import base64
import json
import math
from collections import Counter

import msgspec
import pytest

from muleteer.spec.snapshot import BackendRoute, EndpointRoute, ReplicaAddress, Snapshot
from muleteer.spec.traffic import Affinity, Override
from muleteer.testing.scripted_replica import Answer, Fail, Hang

KEY = base64.b64encode(b"k" * 32).decode()


class Versions:
    """Backends `a` and `b` behind /predict, with scripted replicas `a-1`, `a-2`, … that answer their own name."""

    def __init__(self, rig):
        self.rig = rig
        self.replicas = {}
        self.revision = 0

    async def start(self, a=1, b=1, *, script=None, **endpoint):
        for backend, count in (("a", a), ("b", b)):
            for number in range(1, count + 1):
                name = f"{backend}-{number}"
                answer = script or (lambda call, name=name: Answer(body=json.dumps(name).encode()))
                self.replicas[name] = await self.rig.replica(script=answer, backend=backend, replica=name)
        self.publish(**endpoint)
        await self.ready()

    def publish(self, traffic=None, *, without=(), backends=("a", "b"), expected_s=0.01, **endpoint):
        routes = [
            BackendRoute(
                name=backend,
                expected_s=expected_s,
                replicas=tuple(
                    ReplicaAddress(name, replica.address)
                    for name, replica in self.replicas.items()
                    if replica.backend == backend and name not in without
                ),
            )
            for backend in backends
        ]
        endpoint = EndpointRoute(
            name="e", route="/predict", traffic=traffic or {"a": 50.0, "b": 50.0}, max_body=2**20, **endpoint
        )
        self.revision += 1
        self.rig.application.apply(Snapshot(self.revision, (endpoint,), tuple(routes), KEY))

    async def ready(self):
        def linked():
            backends = self.rig.application.statistics().backends.values()
            return sum(backend.links_ready for backend in backends) == len(self.replicas)

        await self.rig.until(linked)

    async def ask(self, body=b"{}", **headers):
        return await self.rig.send(body, headers={k.replace("_", "-"): v for k, v in headers.items()}).outcome()

    @property
    def counted(self):
        return self.rig.application.statistics().endpoints["e"].versions


@pytest.fixture
def versions(rig):
    """`versions(test)` runs the coroutine function `test(versions)`."""
    return lambda test: rig(lambda inner: test(Versions(inner)))


def fields(request):
    lines = request.response.headers.decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def served_by(request):
    assert request.status == 200, request.response
    return msgspec.json.decode(request.response.body)


# -- weights


def test_the_split_is_exact_over_real_requests(versions):
    async def test(versions):
        await versions.start(traffic={"a": 90.0, "b": 10.0})
        for _ in range(2):
            names = Counter()
            for _ in range(100):
                burst = [versions.rig.send() for _ in range(10)]
                names.update([fields(await request.outcome())["muleteer-backend"] for request in burst])
            assert abs(names["b"] - 100) < 4.5 * math.sqrt(1000 * 0.09)
        assert sum(sum(counted.outcomes.values()) for counted in versions.counted.values()) == 2000

    versions(test)


def test_a_change_of_weights_is_one_moment_and_loses_nobody(versions):
    async def test(versions):
        await versions.start(traffic={"a": 1.0, "b": 0.0}, script=lambda _: Answer(after_s=0.002))
        before = [versions.rig.send() for _ in range(20)]
        readings = [versions.rig.open() for _ in range(5)]
        versions.publish({"a": 0.0, "b": 1.0})
        after = [versions.rig.send() for _ in range(20)]
        for request in readings:
            request.run()
        wanted = [(before, "a"), (readings, "a"), (after, "b")]
        for requests, backend in wanted:
            for request in requests:
                assert (await request.outcome()).status == 200
                assert fields(request)["muleteer-backend"] == backend
        await versions.rig.quiet()

    versions(test)


def test_weights_that_change_all_the_time_under_load(versions):
    async def test(versions):
        await versions.start(2, 2, traffic={"a": 1.0, "b": 0.0})
        requests = []
        for step in range(200):
            requests += [versions.rig.send() for _ in range(5)]
            versions.publish({"a": float(step % 3), "b": float((step + 1) % 3)})
            await asyncio.sleep(0)
        for request in requests:
            assert (await request.outcome()).status == 200
        await versions.rig.quiet()

    versions(test)


def test_a_version_that_cannot_serve_is_no_reason_to_leave_the_server(versions):
    async def test(versions):
        await versions.start(1, 0, traffic={"a": 90.0, "b": 10.0})
        assert versions.rig.application.not_ready() == {}
        versions.publish({"a": 0.0, "b": 10.0})
        assert versions.rig.application.not_ready() == {"b": "loading"}

    versions(test)


def test_a_backend_without_replicas_is_made_when_it_is_asked(versions):
    async def test(versions):
        versions.publish({"b": 1.0})
        assert versions.rig.application.statistics().backends == {}
        assert versions.rig.send().code == "loading"
        assert versions.rig.application.statistics().backends["b"].calls.refused == {"loading": 1}
        assert versions.counted["b"].outcomes == {"ok": 0, "loading": 1}

    versions(test)


# -- counts


def test_every_outcome_counts_for_its_version(versions):
    async def test(versions):
        await versions.start(
            traffic={"a": 1.0},
            script=lambda call: Hang() if b"hang" in call.body else Fail(call.body.decode()) if call.body else Answer(),
        )
        for code in ("model_error", "bad_arguments", "bad_json", "bad_model_output", "model_error"):
            await versions.rig.send(code.encode()).outcome()
        for _ in range(3):
            await versions.rig.send(b"").outcome()
        assert (await versions.rig.send(b"hang", timeout_ms=50).outcome()).code == "deadline"
        versions.replicas["a-1"].die()
        await versions.ready()
        gone = versions.rig.send(b"hang")
        gone.exchange.abandon()
        late = versions.rig.send(b"", timeout_ms=5)
        assert late.code == "predicted_late"
        a = versions.counted["a"]
        assert a.outcomes == {
            "ok": 3,
            "model_error": 2,
            "bad_arguments": 1,
            "bad_json": 1,
            "bad_model_output": 1,
            "deadline": 1,
            "client_gone": 1,
            "predicted_late": 1,
        }
        assert a.latency.total() == 3 and 0 < a.latency.quantile(0.5) < 0.5

    versions(test)


def test_counts_outlive_changes_of_traffic_and_end_with_their_backend(versions):
    async def test(versions):
        await versions.start(traffic={"a": 1.0, "b": 0.0})
        epoch = versions.rig.application.statistics().epoch
        await versions.ask()
        versions.publish({"b": 1.0})
        await versions.ask()
        assert {name: each.outcomes for name, each in versions.counted.items()} == {"a": {"ok": 1}, "b": {"ok": 1}}
        versions.publish({"b": 1.0}, backends=("b",))
        assert list(versions.counted) == ["b"]
        assert versions.rig.application.statistics().epoch == epoch
        json.dumps(msgspec.to_builtins(versions.rig.application.statistics(), str_keys=True))

    versions(test)


# -- wishes


def test_a_wish_is_granted_where_allowed_and_wrong_where_there_is_no_such_version(versions):
    async def test(versions):
        await versions.start(traffic={"a": 1.0, "b": 0.0})
        assert served_by(await versions.ask(muleteer_backend="b")) == "a-1"
        versions.publish({"a": 1.0, "b": 0.0}, override=Override(header="muleteer-backend", cookie="version"))
        assert served_by(await versions.ask(muleteer_backend="b")) == "b-1"
        assert served_by(await versions.ask(cookie="version=b")) == "b-1"
        wrong = await versions.ask(muleteer_backend="c")
        assert (wrong.status, wrong.code) == (400, "bad_request")
        assert "muleteer-backend: this endpoint has a, b" in msgspec.json.decode(wrong.response.body)["error"]

    versions(test)


# -- sessions


def test_a_session_of_a_header_stays_and_says_so(versions):
    async def test(versions):
        await versions.start(affinity=Affinity(source="header", name="x-session"))
        places = {}
        for number in range(40):
            request = await versions.ask(x_session=f"s{number}")
            assert fields(request)["muleteer-affinity"] == "new"
            places[number] = served_by(request)
        assert set(places.values()) == {"a-1", "b-1"}
        versions.publish({"a": 0.0, "b": 1.0}, affinity=Affinity(source="header", name="x-session"))
        for number, place in places.items():
            request = await versions.ask(x_session=f"s{number}")
            assert fields(request)["muleteer-affinity"] == ("kept" if place == "b-1" else "moved")
            assert served_by(request) == "b-1"
        assert "muleteer-affinity" not in fields(await versions.ask())
        sessions = versions.rig.application.statistics().sessions
        assert sessions.remembered == 40
        assert sessions.moved == list(places.values()).count("a-1")

    versions(test)


def test_ten_thousand_sessions_move_only_where_they_must(versions):
    async def test(versions):
        affinity = Affinity(source="header", name="x-session")
        await versions.start(traffic={"a": 90.0, "b": 10.0}, affinity=affinity)

        async def all_of_them():
            found = []
            for begin in range(0, 10_000, 50):
                burst = [versions.rig.send(headers={"x-session": f"s{begin + n}"}) for n in range(50)]
                found += [fields(await request.outcome()) for request in burst]
            return [(each["muleteer-backend"], each["muleteer-affinity"]) for each in found]

        before = await all_of_them()
        versions.publish({"a": 50.0, "b": 50.0}, affinity=affinity)
        after = await all_of_them()
        moves = Counter((old[0], new[0], new[1]) for old, new in zip(before, after, strict=True))
        assert {news for _, news in before} == {"new"}
        assert set(moves) == {("a", "a", "kept"), ("b", "b", "kept"), ("a", "b", "moved")}
        must = Counter(name for name, _ in after)["b"] - Counter(name for name, _ in before)["b"]
        assert moves["a", "b", "moved"] == must

    versions(test)


def test_a_cookie_is_issued_and_kept_also_on_an_error(versions):
    async def test(versions):
        await versions.start(affinity=Affinity(source="cookie", name="sid"), script=lambda call: Fail("model_error"))
        first = fields(await versions.ask())
        cookie, _, attributes = first["set-cookie"].partition("; ")
        assert cookie.startswith("sid=")
        assert attributes == "Path=/predict; HttpOnly; SameSite=Lax"
        again = fields(await versions.ask(cookie=cookie))
        assert "set-cookie" not in again
        assert again["muleteer-affinity"] == "kept"
        assert again["muleteer-backend"] == first["muleteer-backend"]

    versions(test)


BY_FIELD = Affinity(source="json", name="user")


def test_a_session_of_a_field_of_the_body(versions):
    async def test(versions):
        await versions.start(affinity=BY_FIELD)
        places = {}
        for news in ("new", "kept"):
            for user in range(30):
                request = await versions.ask(b'{"text": "x", "user": %d}' % user)
                assert fields(request)["muleteer-affinity"] == news
                assert places.setdefault(user, served_by(request)) == served_by(request)
        assert set(places.values()) == {"a-1", "b-1"}
        assert "muleteer-affinity" not in fields(await versions.ask(b"[1]"))
        await versions.rig.quiet()

    versions(test)


def test_such_a_call_is_admitted_for_the_endpoint_and_asked_again_by_its_backend(versions):
    async def test(versions):
        await versions.start(0, 1, affinity=BY_FIELD)
        bodies = [b'{"user": %d}' % user for user in range(20)]
        requests = [versions.rig.open(body) for body in bodies]
        assert versions.rig.application.statistics().reading == 20
        assert all(request.response is None for request in requests), "b would take it"
        for request in requests:
            request.run()
            await request.outcome()
        codes = Counter(request.response.code for request in requests)
        assert set(codes) == {"", "loading"}
        assert versions.counted["a"].outcomes == {"ok": 0, "loading": codes["loading"]}
        versions.publish(affinity=BY_FIELD, without=("b-1",))
        await versions.rig.until(lambda: not versions.rig.application.statistics().backends["b"].replicas)
        assert versions.rig.open(bodies[0]).code in ("loading", "draining")
        await versions.rig.quiet()

    versions(test)


def test_such_a_call_goes_by_the_traffic_of_the_moment_its_body_is_in(versions):
    async def test(versions):
        await versions.start(traffic={"a": 1.0, "b": 0.0}, affinity=BY_FIELD)
        request, gone, late, lost = (versions.rig.open(b'{"user": 1}') for _ in range(4))
        versions.publish({"a": 0.0, "b": 1.0}, affinity=BY_FIELD)
        assert served_by(await request.run().outcome()) == "b-1"
        gone.exchange.abandon()
        assert gone.response is None
        gone.run()
        assert versions.rig.application.statistics().reading == 2
        late.exchange.deadline_s = 0.0
        assert late.response is None
        late.exchange.abandon()
        versions.rig.application.apply(Snapshot(99))
        with pytest.raises(Exception, match="no endpoint has this route"):
            lost.run()
        lost.exchange.abandon()  # as HTTP does, which answers with the error
        await versions.rig.quiet()

    versions(test)


def test_such_a_call_whose_body_never_comes_is_late(versions):
    async def test(versions):
        await versions.start(affinity=BY_FIELD)
        request = versions.rig.open(b'{"user": 1}', timeout_ms=60)
        assert (await request.outcome()).code == "expired_in_queue"
        request.run()
        await versions.rig.quiet()

    versions(test)


def test_one_client_still_holds_a_quarter(versions):
    async def test(versions):
        await versions.start(1, 0, traffic={"a": 1.0}, script=lambda _: Hang(), affinity=BY_FIELD)
        versions.publish({"a": 1.0}, affinity=BY_FIELD, expected_s=4.0)  # 1 slot + 6 waiting: 1 each
        running = versions.rig.send(b'{"user": 1}', client="greedy")
        greedy = versions.rig.open(b'{"user": 1}', client="greedy")
        other = versions.rig.send(b'{"user": 1}', client="other")
        assert running.response is other.response is greedy.response is None
        assert (await greedy.run().outcome()).code == "quota"
        for request in (running, other):
            request.exchange.abandon()

    versions(test)


# -- replicas

STICKY = Affinity(source="header", name="x-session", replica=True)


def test_a_session_keeps_to_its_replica_and_moves_with_its_death(versions):
    async def test(versions):
        await versions.start(4, 0, traffic={"a": 1.0}, affinity=STICKY)
        places = {}
        for news in ("new", "kept", "kept"):
            for number in range(40):
                request = await versions.ask(x_session=f"s{number}")
                assert fields(request)["muleteer-affinity"] == news
                assert places.setdefault(number, served_by(request)) == served_by(request)
        assert set(places.values()) == set(versions.replicas)
        versions.replicas["a-2"].die(stay_dead=True)
        await versions.rig.until(lambda: versions.rig.application.statistics().backends["a"].links_ready == 3)
        for number, place in places.items():
            request = await versions.ask(x_session=f"s{number}")
            moved = place == "a-2"
            assert fields(request)["muleteer-affinity"] == ("moved" if moved else "kept")
            assert (served_by(request) != place) == moved
        versions.replicas["a-2"].revive()
        await versions.ready()
        for number, place in places.items():
            request = await versions.ask(x_session=f"s{number}")
            assert served_by(request) == place
            news = "moved" if place == "a-2" else "kept"
            assert fields(request)["muleteer-affinity"] == news, "another process: what it knew is gone"

    versions(test)


def test_a_session_does_not_wait_for_its_replica_while_another_idles(versions):
    async def test(versions):
        await versions.start(2, 0, traffic={"a": 1.0}, affinity=STICKY)
        place = served_by(await versions.ask(x_session="s"))
        script = versions.replicas[place].script
        versions.replicas[place].script = lambda _: Hang()
        stuck = versions.rig.send(headers={"x-session": "s"})
        await versions.rig.until(lambda: len(versions.replicas[place].calls) == 2)
        other = await versions.ask(x_session="s")
        assert served_by(other) != place
        assert fields(other)["muleteer-affinity"] == "moved"
        versions.replicas[place].script = script
        versions.replicas[place].die()
        assert (await stuck.outcome()).status == 200
        await versions.ready()
        assert served_by(await versions.ask(x_session="s")) == place

    versions(test)
