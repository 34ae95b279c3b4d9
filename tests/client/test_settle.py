"""When waiting for what was declared is over because it will not come."""

import pytest

from muleteer.client.errors import StartFailed
from muleteer.client.settle import PLACE_S, start_failure, unsettled


@pytest.mark.parametrize(
    ("reason", "state_s", "failed"),
    [("unplaced", 0.5, False), ("unplaced", PLACE_S, True), ("import_error", 0.5, True), ("exited", 99.0, False)],
)
def test_a_replica_may_wait_a_while_for_a_place_and_not_for_a_module(reason, state_s, failed):
    last_exit = {"reason": reason, "was_ready": False}
    replica = {"generation": 2, "state": "backoff", "state_s": state_s, "last_exit": last_exit}
    backend = {"state": "degraded", "generation": 2, "reason": "why", "replicas": [replica]}
    assert start_failure(backend) == ("why" if failed else None)


def told(*ready):
    """What is said of a backend in generation 2, of whose replicas these are ready, by generation, and one waits."""
    last_exit = {"reason": "unplaced", "was_ready": False}
    waits = {"generation": 2, "state": "backoff", "state_s": PLACE_S, "last_exit": last_exit}
    replicas = [{"generation": generation, "state": "ready", "last_exit": None} for generation in ready]
    backend = {"name": "b", "state": "degraded", "generation": 2, "wanted": 4, "reason": "why", "settled": False}
    status = {"backends": [backend | {"replicas": [*replicas, waits]}], "gateways": {}, "snapshot": 1}
    with pytest.raises(StartFailed) as failed:
        unsettled(status, {"b"})
    return str(failed.value)


def test_what_serves_is_told_with_what_does_not_start():
    assert told() == "b does not start: why"
    assert told(1, 1) == "b does not start, and the old version goes on serving: why"


def test_where_only_more_replicas_do_not_start_there_is_no_old_version():
    assert told(2) == "b serves with 1 of 4 replicas, and no more start: why"
    assert told(2, 2, 2) == "b serves with 3 of 4 replicas, and no more start: why"


def test_an_update_that_is_stuck_half_way_says_that_both_versions_serve():
    assert told(1, 2, 2) == "b serves with 2 of 4 replicas, beside the old version, and no more start: why"


@pytest.mark.parametrize(
    ("gateway", "waiting"),
    [
        ({"revision": 3, "answers": True}, []),
        ({"revision": 2, "answers": True}, ["gateway-0"]),
        ({"revision": 3, "answers": False}, ["gateway-0"]),
    ],
)
def test_a_gateway_is_waited_for_until_it_routes_as_declared_and_tells_so(gateway, waiting):
    backend = {"name": "a", "state": "ready", "generation": 1, "reason": None, "replicas": [], "settled": True}
    status = {"backends": [backend], "gateways": {"gateway-0": gateway}, "snapshot": 3}
    assert unsettled(status, {"a"}) == waiting
