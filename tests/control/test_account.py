"""The sum of what replicas take."""

from __future__ import annotations

from muleteer.control.account import ReplicaAccount, Total, account
from muleteer.control.share import MEMORY_UNBOUND, Budget


def test_what_replicas_take_is_added_up() -> None:
    rows = [
        ("a-1", ReplicaAccount(memory_bytes=100, measured_bytes=90, cpus=0.5, gpus=("0", "1"), gpu_part=1.0)),
        ("b-1", ReplicaAccount(memory_bytes=50, cpus=0.25, gpus=("2",), gpu_part=0.3)),
    ]
    found = account(Budget(1000, 4.0, 3.0), 70, rows)
    assert found.used == Total(220, 0.75, 2.3)
    assert found.budget == Total(1070, 4.0, 3.0), "what is declared is for the whole server"
    assert set(found.replicas) == {"a-1", "b-1"}


def test_an_unknown_bound_is_said_to_be_unknown() -> None:
    assert account(Budget(MEMORY_UNBOUND, 4.0), 70, []).budget.memory_bytes is None
