"""Batches end to end: the real command, a model in a process of its own, callers over HTTP."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.server import Server, wait_until
from tests.faults.load import Background, ask, error_of

MODEL = """
import time

class Rows:
    example = 0

    def predict(self, nonce: int) -> int:
        return nonce

    def predict_batch(self, nonces: list[int]) -> list[int]:
        if -1 in nonces:
            raise ValueError("not this one")
        time.sleep(0.01 + 0.002 * len(nonces))
        with open("batches", "a") as ledger:
            ledger.write(f"{nonces}\\n")
        return nonces
"""


@pytest.fixture
def serve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("b")
    (folder / "model.py").write_text(MODEL)
    servers = []

    def start(*arguments):
        servers.append(Server(folder, "model.py:Rows", "--route", "/predict", *arguments))
        return servers[-1].__enter__()

    yield start
    for server in servers:
        server.close()


def batches(server):
    """What the model saw, after its warm-up; what the gateway counts."""
    seen = [json.loads(line) for line in (server.folder / "batches").read_text().splitlines()]
    return seen[1:], server.statistics()["backends"]["Rows"]["batches"]


def test_calls_gather_while_the_model_is_busy_and_a_bad_one_fails_alone(serve):
    server = serve()
    load = Background(server.port, rate=400, seconds=2.0, deadline_s=30.0)  # one by one it could do 83/s
    bad = [ask(server.port, -1) for _ in range(3)]
    load = load.finish()
    assert [(record.status, error_of(record)["code"]) for record in bad] == [(500, "model_error")] * 3
    assert Counter(record.status for record in load.records) == {200: len(load.records)}
    assert all(json.loads(record.body) == record.nonce for record in load.records)
    seen, counted = batches(server)
    assert max(len(each) for each in seen) >= 8
    calls = server.statistics()["backends"]["Rows"]["calls"]
    again = calls["bounced"] + calls["re_executed"]  # 0, unless the machine stood still: then some are taken back
    assert len(load.records) <= sum(len(each) for each in seen) <= len(load.records) + again, "none is run twice"
    assert len(load.records) + 3 <= counted["calls"] <= len(load.records) + 3 + again
    assert sum(counted["sizes"].values()) == counted["sent"]
    assert sum(counted["waits"]["counts"].values()) == counted["calls"]


def test_where_nothing_may_be_run_twice_a_batch_fails_as_a_whole(serve):
    server = serve("--no-idempotent")
    records = []

    def all_at_once():
        with ThreadPoolExecutor(16) as callers:
            records.extend(callers.map(lambda nonce: ask(server.port, nonce), [*range(1, 16), -1, *range(16, 31)]))
        return any(record.status == 500 and record.nonce != -1 for record in records)

    wait_until(all_at_once, "the bad one goes in a batch with others", seconds=60)
    assert {error_of(record)["code"] for record in records if record.status != 200} == {"model_error"}
    seen, _ = batches(server)
    answered = Counter(record.nonce for record in records if record.status == 200)
    assert Counter(nonce for each in seen for nonce in each) == answered, "who was beside the bad one is not run again"


def test_one_caller_gets_batches_of_one_at_once(serve):
    server = serve()
    for number in range(20):
        assert ask(server.port, 1000 + number).status == 200
    seen, counted = batches(server)
    assert seen == [[1000 + number] for number in range(20)]
    waits = counted["waits"]["counts"]
    assert sum(count for bucket, count in waits.items() if int(bucket) < 189) >= 15, "most within 10 ms"


def test_a_target_bounds_the_batch(serve):
    server = serve("--slo", "p99=100ms", "--replicas", "1")
    load = Background(server.port, rate=200, seconds=2.0, deadline_s=30.0).finish()
    assert Counter(record.status for record in load.records) == {200: len(load.records)}
    wait_until(lambda: batches(server)[1]["limited_by"] in ("target", "unproven"), "a size", seconds=40)
    seen, counted = batches(server)
    took_s = sorted(record.done - record.sent for record in load.records)
    if took_s[-1] <= 0.1:  # who is late bounds nothing, and a machine that holds batches up makes them late
        assert max(len(each) for each in seen) <= 22, "two of 20 are 100 ms"
        assert counted["size_max"] <= 22


def test_two_clients_share_each_batch(serve):
    server = serve("--batch-max", "4", "--timeout", "5s")
    greedy = Background(server.port, rate=600, seconds=3.0, source="127.0.0.2")  # of some 220/s
    modest = Background(server.port, rate=40, seconds=3.0, deadline_s=30.0, source="127.0.0.3")
    modest, greedy = modest.finish(), greedy.finish()
    assert Counter(record.status for record in modest.records) == {200: len(modest.records)}
    assert Counter(record.status for record in greedy.records)[200] > 100
    took_s = sorted(record.done - record.sent for record in modest.records)
    assert took_s[len(took_s) // 5] < 0.5, "also if the machine stood still for most of the time"
