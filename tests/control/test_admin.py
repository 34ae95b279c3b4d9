"""The admin API on real sockets: what every operation does, what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from muleteer.control.admin.app import OPERATIONS
from muleteer.control.admin.openapi import ERRORS, document
from muleteer.control.change import ChangeError
from tests.control.rig import TOKEN, Rig, asynchronous, running


def backend(rig: Rig, **settings: Any) -> dict[str, Any]:
    return {"model": "m.py:M", "base_dir": rig.run_dir, **settings}


async def two_versions(rig: Rig) -> None:
    for name in ("lr:v1", "lr:v2"):
        await rig.done("PUT", f"/v1/backends/{name}?create=1", backend(rig))
    await rig.done("PUT", "/v1/endpoints/e?create=1", {"route": "/e", "backend": "lr:v1"})


@asynchronous
async def test_backends_are_declared_changed_and_removed() -> None:
    async with running() as rig:
        made = await rig.done("PUT", "/v1/backends/lr:v1?create=1", backend(rig, replicas=2), x_muleteer_who="cli:ann")
        assert (made["revision"], made["undo"]) == (2, "muleteer rollback 1")
        assert [(change["kind"], change["name"]) for change in made["changes"]] == [("add", "lr:v1")]
        assert "starts 2 replicas" in made["text"]
        status = await rig.settled()
        (row,) = status["backends"]
        assert (row["state"], row["wanted"], row["settled"], row["generation"]) == ("ready", 2, True, 1)
        assert len(row["fingerprint"]) == 16

        before = set(rig.world.replicas)
        live = await rig.done("PATCH", "/v1/backends/lr:v1", {"timeout": "5s", "max_rss": None})
        assert [change["cost"] for change in live["changes"]] == ["live"]
        await rig.settled()
        assert set(rig.world.replicas) == before, "a live setting replaces nobody"
        assert rig.gateway.snapshots[-1]["backends"][0]["timeout_s"] == 5

        replaced = await rig.done("PATCH", "/v1/backends/lr:v1", {"concurrency": 3})
        assert [change["cost"] for change in replaced["changes"]] == ["replace"]
        await rig.settled()
        assert not before & set(rig.world.replicas)
        assert {rig.world.requests[id].settings.concurrency for id in rig.world.replicas} == {3}

        same = await rig.done("PATCH", "/v1/backends/lr:v1", {"concurrency": 3})
        assert (same["revision"], same["changes"], same["undo"]) == (replaced["revision"], [], "")
        found = await rig.done("GET", "/v1/backends/lr:v1")
        assert found["declared"] == backend(rig, replicas=2, concurrency=3, timeout="5s")
        assert found["endpoints"] == []

        await rig.done("DELETE", "/v1/backends/lr:v1")
        await rig.until(lambda: not rig.world.replicas)
        assert (await rig.done("GET", "/v1/backends"))["backends"] == []
        history = (await rig.done("GET", "/v1/history"))["history"]
        assert [row["what"] for row in history][:2] == ["delete backend lr:v1", "set concurrency of backend lr:v1"]
        assert [row["who"] for row in history if row["revision"] == 2] == ["cli:ann"]


@asynchronous
async def test_a_name_that_comes_back_gets_ids_never_used_before() -> None:
    async with running() as rig:
        await rig.done("PUT", "/v1/backends/m", backend(rig))
        await rig.settled()
        await rig.done("DELETE", "/v1/backends/m")
        await rig.until(lambda: not rig.world.replicas)
        await rig.done("PUT", "/v1/backends/m", backend(rig))
        await rig.settled()
        assert list(rig.world.replicas) == ["m-2"]


@asynchronous
async def test_a_removed_backend_drains_and_may_come_back_meanwhile() -> None:
    async with running() as rig:
        await rig.done("PUT", "/v1/backends/m", backend(rig, replicas=2))
        await rig.settled()
        rig.gateway.held = asyncio.Event()  # no snapshot is acknowledged
        with rig.clock.held():  # nor is the time over after which nobody waits for that
            await rig.done("DELETE", "/v1/backends/m")
            await rig.until(lambda: rig.controller._leaving)
            assert not rig.controller.statistics().settled
            await rig.done("PUT", "/v1/backends/m", backend(rig))
            rig.gateway.held.set()
        await rig.settled()
        assert list(rig.world.replicas) == ["m-3"]


@asynchronous
async def test_a_backend_that_does_not_fit_the_server_is_refused_and_nothing_changes() -> None:
    async with running() as rig:
        file = {"backends": {"m": {"model": "m.py:M", "memory": "1GiB"}}, "server": {"memory_budget": "1GiB"}}
        made = await rig.done("POST", "/v1/apply", {"declared": file, "base_dir": rig.run_dir})
        problem = "backends.m.memory: one replica with 2GiB does not fit into memory_budget 1GiB"
        refused = await rig.ask("PATCH", "/v1/backends/m", {"memory": "2GiB"})
        assert (refused.status, refused.body["code"], refused.body["problems"]) == (400, "invalid", [problem])
        file = {"backends": {"m": {"model": "m.py:M", "memory": "2GiB"}}}  # says nothing of the server, which stays
        for path in ("/v1/plan", "/v1/apply"):
            refused = await rig.ask("POST", path, {"declared": file, "base_dir": rig.run_dir})
            assert (refused.status, refused.body["problems"]) == (400, [problem])
        assert (await rig.done("GET", "/v1/declared"))["revision"] == made["revision"]


@asynchronous
async def test_endpoints_and_traffic() -> None:
    async with running() as rig:
        await two_versions(rig)
        moved = await rig.done("PUT", "/v1/endpoints/e/traffic", {"lr:v1": 90, "lr:v2": 10})
        assert moved["undo"] == "muleteer traffic e lr:v1=1"
        assert "lr:v1=90 lr:v2=10" in moved["text"]
        await rig.settled()
        assert rig.gateway.snapshots[-1]["endpoints"][0]["traffic"] == {"lr:v1": 90, "lr:v2": 10}

        await rig.done(
            "PATCH",
            "/v1/endpoints/e",
            {"affinity": {"header": "x-session-id"}, "shadow": {"backend": "lr:v2", "percent": 5}, "timeout": "2s"},
        )
        await rig.settled()
        (route,) = rig.gateway.snapshots[-1]["endpoints"]
        assert route["affinity"] == {"source": "header", "name": "x-session-id", "replica": False}
        assert (route["shadow"]["backend"], route["timeout_s"], route["traffic"]["lr:v2"]) == ("lr:v2", 2, 10)
        assert rig.gateway.snapshots[-1]["cookie_key"] == rig.declaration.cookie_key != ""

        refused = await rig.ask("DELETE", "/v1/backends/lr:v2")
        assert (refused.status, refused.body["code"]) == (409, "in_use")
        assert "'e'" in refused.body["error"]
        await rig.done("PATCH", "/v1/endpoints/e", {"backend": "lr:v1", "shadow": None})
        await rig.done("DELETE", "/v1/backends/lr:v2")
        found = await rig.done("GET", "/v1/endpoints/e")
        assert found["declared"] == {
            "route": "/e",
            "backend": "lr:v1",
            "timeout": "2s",
            "affinity": {"header": "x-session-id"},
        }
        await rig.done("DELETE", "/v1/endpoints/e")
        assert (await rig.done("GET", "/v1/endpoints"))["endpoints"] == []


FILE = {
    "backends": {"a": {"model": "m.py:M"}, "b": {"model": "m.py:M", "replicas": 0}},
    "endpoints": {"e": {"route": "/e", "traffic": {"a": 1, "b": 1}}},
}


@asynchronous
async def test_a_file_is_planned_applied_and_rolled_back() -> None:
    async with running() as rig:
        assert (await rig.ask("POST", "/v1/rollback", {})).status == 404, "there is nothing before the first"
        request = {"declared": FILE, "base_dir": rig.run_dir}
        planned = await rig.done("POST", "/v1/plan", request)
        assert (planned["revision"], len(planned["changes"])) == (1, 3)
        assert (await rig.done("GET", "/v1/declared"))["declared"]["backends"] == {}, "a plan changes nothing"
        applied = await rig.done("POST", "/v1/apply", {**request, "expected_revision": 1, "what": "first"})
        assert (applied["revision"], applied["changes"], applied["text"]) == (2, planned["changes"], planned["text"])
        status = await rig.settled()
        assert {row["name"]: row["state"] for row in status["backends"]} == {"a": "ready", "b": "idle"}
        assert (await rig.done("POST", "/v1/apply", request))["changes"] == []

        late = await rig.ask("POST", "/v1/apply", {**request, "expected_revision": 1})
        assert (late.status, late.body["code"]) == (409, "conflict")

        now = await rig.done("GET", "/v1/declared")
        assert (now["revision"], now["declared"]["endpoints"]) == (2, FILE["endpoints"])
        again = await rig.done("POST", "/v1/plan", {"declared": now["declared"], "base_dir": "/"})
        assert again["changes"] == [], "what is given can be applied again"

        await rig.done("POST", "/v1/apply", {"declared": {"backends": FILE["backends"]}, "base_dir": rig.run_dir})
        undone = await rig.done("POST", "/v1/rollback", {})
        assert (undone["revision"], undone["undo"]) == (4, "muleteer rollback 3")
        assert (await rig.done("GET", "/v1/declared"))["declared"]["endpoints"] == FILE["endpoints"]
        await rig.done("POST", "/v1/rollback", {"revision": 1})
        await rig.until(lambda: not rig.world.replicas)
        shown = await rig.done("GET", "/v1/history/2")
        assert (shown["what"], shown["declared"]["endpoints"]) == ("first", FILE["endpoints"])
        for revision in ("99", "x", "0", "9" * 40):
            assert (await rig.ask("GET", f"/v1/history/{revision}")).status == 404
        assert (await rig.ask("POST", "/v1/rollback", {"revision": 99})).status == 404
        assert [row["revision"] for row in (await rig.done("GET", "/v1/history?limit=2"))["history"]] == [5, 4]


@asynchronous
async def test_settings_of_the_server_change_by_name_only_and_are_told_apart() -> None:
    async with running() as rig:
        request = {"declared": {**FILE, "server": {"port": 9, "reload": True}}, "base_dir": rig.run_dir}
        found = await rig.done("POST", "/v1/apply", request)
        costs = {change["field"]: change["cost"] for change in found["changes"] if change["what"] == "server"}
        assert costs == {"port": "restart", "reload": "live"}
        assert rig.controller.declared.server.run_dir == rig.run_dir, "what the file does not name stays"
        same = await rig.done(
            "POST", "/v1/plan", {"declared": {**FILE, "server": {"port": 0}}, "base_dir": rig.run_dir}
        )
        assert same["changes"] == []


@asynchronous
async def test_a_mistake_changes_nothing_and_every_mistake_is_named() -> None:
    async with running() as rig:
        await two_versions(rig)
        revision = rig.declaration.revision
        wrong = {
            "backends": {"a": {"model": "gone.py:M", "replicas": -1, "wings": 2}},
            "endpoints": {"e": {"route": "e", "traffic": {"nobody": 1}}},
            "server": {"admin_token": TOKEN},
        }
        answer = await rig.ask("POST", "/v1/apply", {"declared": wrong, "base_dir": rig.run_dir})
        assert (answer.status, answer.body["code"]) == (400, "invalid")
        text = "\n".join(answer.body["problems"])
        for part in ("gone.py", "replicas", "wings", "'e' must start with a slash", "nobody", "admin_token"):
            assert part in text
        assert len(answer.body["problems"]) >= 6
        assert TOKEN not in text
        table: list[tuple[str, str, Any, int, str]] = [
            ("PUT", "/v1/backends/lr:v1?create=1", backend(rig), 409, "exists"),
            ("PUT", "/v1/endpoints/e?create=1", {"route": "/x", "backend": "lr:v1"}, 409, "exists"),
            ("PUT", "/v1/endpoints/f", {"route": "/e", "backend": "lr:v1"}, 400, "invalid"),
            ("PUT", "/v1/endpoints/f", {"route": "/f", "backend": "lr:v3"}, 400, "invalid"),
            ("PUT", "/v1/backends/x", {"model": "m.py:M"}, 400, "invalid"),
            ("PUT", "/v1/backends/x", {"model": "m.py:M", "base_dir": "relative"}, 400, "invalid"),
            ("PUT", "/v1/backends/x", {"model": "m.py:M", "base_dir": 7}, 400, "invalid"),
            ("PUT", "/v1/backends/x", {"model": "m.py:Wrong", "base_dir": rig.run_dir}, 400, "invalid"),
            ("PATCH", "/v1/backends/lr:v1", {"replicas": "many"}, 400, "invalid"),
            ("PATCH", "/v1/backends/lr:v9", {"replicas": 1}, 404, "not_found"),
            ("PATCH", "/v1/backends/lr:v1", {"model": None}, 400, "invalid"),
            ("PUT", "/v1/endpoints/e/traffic", {"lr:v1": 0}, 400, "invalid"),
            ("PUT", "/v1/endpoints/e/traffic", {"lr:v1": "much"}, 400, "invalid"),
            ("PUT", "/v1/endpoints/e/traffic", {}, 400, "invalid"),
            ("PUT", "/v1/endpoints/x/traffic", {"lr:v1": 1}, 404, "not_found"),
            ("DELETE", "/v1/endpoints/x", None, 404, "not_found"),
            ("DELETE", "/v1/backends/lr:v1", None, 409, "in_use"),
            ("POST", "/v1/backends/x/retry", None, 404, "not_found"),
            ("PUT", "/v1/backends/x?create=maybe", backend(rig), 400, "bad_request"),
            ("GET", "/v1/history?limit=0", None, 400, "bad_request"),
            ("POST", "/v1/apply", {"declared": FILE}, 400, "invalid"),
            ("POST", "/v1/apply", {"declared": FILE, "base_dir": "/", "more": 1}, 400, "invalid"),
            ("GET", "/v1/endpoints/e/rollout", None, 404, "not_found"),
            ("POST", "/v1/endpoints/e/rollout", {"to": "lr:v9"}, 404, "not_found"),
            ("POST", "/v1/endpoints/e/rollout", {"to": "lr:v2", "steps": [50, 10]}, 400, "invalid"),
            ("POST", "/v1/endpoints/e/rollout/pause", None, 404, "not_found"),
            ("POST", "/nowhere", {}, 404, "not_found"),
            ("POST", "/v1/status", {}, 405, "method_not_allowed"),
        ]
        for method, path, body, status, code in table:
            answer = await rig.ask(method, path, body)
            assert (answer.status, answer.body["code"]) == (status, code), (method, path, body, answer)
        assert rig.declaration.revision == revision
        assert (await rig.ask("POST", "/v1/status")).headers["allow"]


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@asynchronous
async def test_who_is_let_in() -> None:
    async with running() as rig:
        right = {"Authorization": f"Bearer {TOKEN}"}
        port = rig.tcp[1]
        for method in METHODS:
            for origin in ("http://evil.example", "null", "http://muleteer", f"http://127.0.0.1:{port + 1}", "file://"):
                answer = await rig.ask(method, "/v1/status", Origin=origin)
                assert answer.status == 403, (method, origin)
                answer = await rig.ask_tcp(method, "/v1/status", Origin=origin, **right)
                assert answer.status == 403, (method, origin)
            for header in (
                {},
                {"Authorization": TOKEN},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Bearer "},
            ):
                answer = await rig.ask_tcp(method, "/v1/status", **header)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
                answer = await rig.ask_tcp(method, "/v1/status", Host=host, **right)
                assert answer.status == 403, (method, host)
        for host in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST", "muleteer.example"):
            assert (await rig.ask_tcp("GET", "/v1/health", Host=f"{host}:{port}", **right)).status == 200
            own = f"http://{host}:{port}"
            assert (await rig.ask_tcp("GET", "/v1/health", Origin=own, **right)).status == 200
        assert (await rig.ask_tcp("GET", "/v1/health", Authorization=f"bearer {TOKEN}")).status == 200
        assert (await rig.ask("GET", "/v1/health")).status == 200


@asynchronous
async def test_what_is_no_json_too_big_or_badly_named() -> None:
    async with running() as rig:
        path = "/v1/backends/x"
        for raw in (b"{", b"\xff", b"[" * 100_000, b'{"a":NaN}', b"a: 1", b'"text"', b"[]", b"{} {}"):
            assert (await rig.ask("PUT", path, raw=raw)).status == 400, raw[:20]
        for kind in ("application/yaml", "text/plain", "multipart/form-data"):
            answer = await rig.ask("PUT", path, raw=b"{}", content_type=kind)
            assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")
        big = b'{"model": "' + b"x" * (9 * 2**20) + b'"}'
        assert await too_big(rig, path, big)
        deep = {"backends": {}}
        for _ in range(50):
            deep = {"backends": deep}
        assert (await rig.ask("POST", "/v1/apply", {"declared": deep, "base_dir": "/"})).status == 400
        names = ("..", "%2e%2e", "%2e%2e%2fx", "a%2fb", "a%20b", "-x", "a" * 129, "a%00b", "%ff", "a%0ab", "é")
        for name in names:
            quoted = name.encode().decode("latin-1") if name.isascii() else "%c3%a9"
            for method, place in (("PUT", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "")):
                answer = await rig.ask(method, f"/v1/backends/{quoted}{place}", {} if method == "PUT" else None)
                assert answer.status in (400, 404, 405), (method, name, answer)
        assert rig.declaration.revision == 1
        assert (await rig.ask("GET", "/v1/health")).status == 200


async def too_big(rig: Rig, path: str, body: bytes) -> bool:
    """Refused, however much of it the server reads before it says so."""
    try:
        return (await rig.ask("PUT", path, raw=body)).status == 413
    except (BrokenPipeError, ConnectionResetError):
        return True


@asynchronous
async def test_a_fault_of_ours_is_json_and_the_next_request_is_answered() -> None:
    async with running() as rig:
        rig.broken = True
        answer = await rig.ask("GET", "/v1/status")
        assert (answer.status, answer.body["code"]) == (500, "internal")
        assert "upside down" in answer.body["error"]
        rig.broken = False
        assert (await rig.ask("GET", "/v1/status")).status == 200


@asynchronous
async def test_many_clients_at_once_wait_for_the_import_and_shutdown_is_asked_for() -> None:
    async with running() as rig:
        answers = await asyncio.gather(*(head_of(rig.admin) for _ in range(20)))
        assert answers == [b"HTTP/1.1 200 OK"] * 20
        assert (await rig.done("POST", "/v1/shutdown"))["changes"] == []
        assert rig.shutdowns == 1


async def head_of(path: str) -> bytes:
    """Without a thread: the server is imported in one, and there are few."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /v1/health HTTP/1.1\r\nHost: muleteer\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n")[0]


@asynchronous
async def test_close_is_quick_when_no_client_ever_came() -> None:
    began = time.monotonic()
    async with running():
        pass
    assert time.monotonic() - began < 5


@asynchronous
async def test_the_document_describes_every_path_and_every_answer_fits_it() -> None:
    async with running() as rig:
        await two_versions(rig)
        found = await rig.done("GET", "/v1/openapi.json")
        assert found["openapi"].startswith("3.1")
        assert {(path, method.upper()) for path, ways in found["paths"].items() for method in ways} == {
            (each.path, each.method) for each in OPERATIONS
        }
        request = {"declared": FILE, "base_dir": rig.run_dir}
        asked = {
            "/v1/status": ("GET", None),
            "/v1/health": ("GET", None),
            "/v1/declared": ("GET", None),
            "/v1/plan": ("POST", request),
            "/v1/history": ("GET", None),
            "/v1/rollouts": ("GET", None),
        }
        for path, (method, body) in asked.items():
            answer = await rig.done(method, path, body)
            fits(found, found["paths"][path][method.lower()]["responses"]["200"], answer)
            if body is not None:
                fits(found, found["paths"][path]["post"]["requestBody"], body)
        answer = await rig.ask("GET", "/v1/backends/x")
        fits(found, found["paths"]["/v1/backends/{name}"]["get"]["responses"]["404"], answer.body)
        put = found["paths"]["/v1/backends/{name}"]["put"]["requestBody"]
        fits(found, put, backend(rig, replicas=2))
        fits(found, put, backend(rig, replicas={"min": 0, "max": 8}, slo={"p99": "100ms"}, batch="list", gpus=0.5))
        for wrong in (
            {"replicas": "0:8"},
            {"replicas": {"least": 0}},
            {"replicas": {}},
            {"slo": "p99=1s"},
            {"slo": {"p95": 1}},
        ):
            with pytest.raises(jsonschema.ValidationError):
                fits(found, put, backend(rig, **wrong))
        with pytest.raises(jsonschema.ValidationError):
            fits(found, put, backend(rig, wings=2))


def fits(whole: dict[str, Any], part: dict[str, Any], value: Any) -> None:
    schema = {**part["content"]["application/json"]["schema"], "components": whole["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_every_schema_of_the_document_is_one() -> None:
    found = json.loads(json.dumps(document(OPERATIONS)))
    for schema in found["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [way["operationId"] for ways in found["paths"].values() for way in ways.values()]
    assert len(set(ids)) == len(ids)


def test_the_docs_list_every_operation_and_every_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
    rows = re.findall(r"^\| (GET|POST|PUT|PATCH|DELETE) \| `([^`]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted([(each.method, each.path) for each in OPERATIONS] + [("GET", "/v1/openapi.json")])
    listed = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE)}
    said = {(int(status), code) for status, words in ERRORS.items() for code in re.findall(r"`(\w+)`", words)}
    assert said - {(400, "problems")} == listed - {(405, "method_not_allowed"), (500, "internal")}
    raised = {(kind.status, kind.code) for kind in ChangeError.__subclasses__()}
    assert raised <= listed
