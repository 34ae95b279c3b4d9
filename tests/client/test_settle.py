"""When waiting for what was declared is over because it will not come."""

import pytest

from muleteer.client.settle import PLACE_S, start_failure


@pytest.mark.parametrize(
    ("reason", "state_s", "failed"),
    [("unplaced", 0.5, False), ("unplaced", PLACE_S, True), ("import_error", 0.5, True), ("exited", 99.0, False)],
)
def test_a_replica_may_wait_a_while_for_a_place_and_not_for_a_module(reason, state_s, failed):
    last_exit = {"reason": reason, "was_ready": False}
    replica = {"generation": 2, "state": "backoff", "state_s": state_s, "last_exit": last_exit}
    backend = {"state": "degraded", "generation": 2, "reason": "why", "replicas": [replica]}
    assert start_failure(backend) == ("why" if failed else None)
