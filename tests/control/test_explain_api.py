"""What explains a backend and an endpoint over the admin API, with measured load, and that the document describes it."""

from __future__ import annotations

from typing import Any

from tests.control.rig import Rig, asynchronous, running
from tests.control.test_admin import backend, fits

SERVICES = [[0.02, 950], [0.04, 50]]


def load(calls: int) -> dict[str, Any]:
    """As a gateway tells it: `calls` so far, all answered."""
    return {
        "arrivals": calls, "served": calls, "answered": calls, "slots": 2, "bound": 186, "mean_s": 0.021, "p99_s": 0.04,
        "services": SERVICES,
    }  # fmt: skip


async def explained(rig: Rig, name: str) -> dict[str, str]:
    found = await rig.done("GET", f"/v1/backends/{name}/explain")
    return {each["topic"]: each["text"] for each in found["sentences"]}


@asynchronous
async def test_a_backend_is_explained_before_and_after_it_was_measured() -> None:
    async with running() as rig:
        await rig.done("PUT", "/v1/backends/b?create=1", backend(rig, replicas=2, timeout="2s"))
        await rig.settled()
        before = await explained(rig, "b")
        assert before["replicas"] == (
            "2 ready, as wanted: that number is declared. What would be enough is known once calls were measured"
        )
        assert before["measured"].startswith("nothing yet: until 50 calls were answered")
        rig.gateway.loads["b"] = load(1000)
        await rig.until(lambda: (seen := rig.controller.statistics().sizings.get("b")) is not None and seen.samples)
        after = await explained(rig, "b")
        assert "a call takes 21ms (mean), 40ms (p99), variation c² 0.04" in after["measured"]
        assert after["queue"].startswith("186 may wait: of the deadline of 2s, 40ms are kept for the call itself")


@asynchronous
async def test_an_endpoint_explains_each_backend_in_turn_and_the_document_describes_it() -> None:
    async with running() as rig:
        for name in ("lr:v1", "lr:v2", "dark"):
            await rig.done("PUT", f"/v1/backends/{name}?create=1", backend(rig, replicas={"min": 0, "max": 4}))
        declared = {"route": "/e", "traffic": {"lr:v1": 90, "lr:v2": 10}, "shadow": {"backend": "dark", "percent": 5}}
        await rig.done("PUT", "/v1/endpoints/e?create=1", declared)
        found = await rig.done("GET", "/v1/endpoints/e/explain")
        assert found["traffic"] == {"dark": 0, "lr:v1": 90, "lr:v2": 10}
        assert [each["backend"] for each in found["backends"]] == ["dark", "lr:v1", "lr:v2"]
        assert found["backends"][1]["sentences"][0]["text"].startswith("none runs: it sleeps, and a call wakes it")
        document = await rig.done("GET", "/v1/openapi.json")
        for path, answer in (
            ("/v1/endpoints/{name}/explain", found),
            ("/v1/backends/{name}/explain", found["backends"][0]),
        ):
            fits(document, document["paths"][path]["get"]["responses"]["200"], answer)


@asynchronous
async def test_what_was_measured_of_one_that_nobody_calls_is_not_said_to_be_unknown() -> None:
    async with running() as rig:
        await rig.done("PUT", "/v1/backends/b?create=1", backend(rig, replicas=1))
        await rig.settled()
        found = await explained(rig, "b")
        assert found["measured"].startswith("nothing yet")
        assert found["start"].endswith("from a demand to the first call")


@asynchronous
async def test_how_long_a_sleeper_is_kept_is_said_with_what_it_rests_on() -> None:
    async with running() as rig:
        sleeper = {"replicas": {"min": 0, "max": 4}}
        await rig.done("PUT", "/v1/backends/derived?create=1", backend(rig, **sleeper))
        await rig.done("PUT", "/v1/backends/declared?create=1", backend(rig, **sleeper, idle="90s"))
        found = await explained(rig, "derived")
        assert found["start"] == "not measured yet"
        assert found["idle"].startswith(
            "an idle replica is kept for 61 s: a start, not measured yet, is taken for 1 s,"
        )
        assert (await explained(rig, "declared"))["idle"] == "the last replica is kept idle for 90s, as declared"


@asynchronous
async def test_what_is_not_there_is_not_explained() -> None:
    async with running() as rig:
        for path in ("/v1/backends/x/explain", "/v1/endpoints/x/explain"):
            answer = await rig.ask("GET", path)
            assert (answer.status, answer.body["code"]) == (404, "not_found")
