"""What a replica is told about its share of the cores."""

from __future__ import annotations

import pytest

from muleteer.engine.threads import environment, nice, threads
from muleteer.spec.settings import BackendSettings, Replicas


@pytest.mark.parametrize(
    ("settings", "cores", "count"),
    [
        ({}, 8, 8),
        ({"replicas": 3}, 8, 2),
        ({"replicas": 16}, 8, 1),
        ({"replicas": Replicas(0, 2)}, 8, 4),
        ({"replicas": Replicas(1, 1024)}, 8, 1),
        ({"replicas": 0}, 8, 8),
        ({"cpus": 2.5, "replicas": 8}, 8, 3),
        ({"cpus": 0.25}, 8, 1),
        ({}, 0.5, 1),
    ],
)
def test_threads_of_one_replica(settings, cores, count) -> None:
    assert threads(BackendSettings(**settings), cores) == count


def test_every_pool_has_its_share() -> None:
    found = environment(BackendSettings(replicas=2), 4, {})
    assert set(found.values()) == {"2"}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "MODEL_CPUS"} <= set(
        found
    )


def test_what_the_user_said_stands() -> None:
    assert "OPENBLAS_NUM_THREADS" not in environment(BackendSettings(), 4, {"OPENBLAS_NUM_THREADS": "3"})
    found = environment(BackendSettings(), 4, {"OMP_NUM_THREADS": "3"})
    assert set(found) == {"VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS", "MODEL_CPUS"}, "the rest fall back on it"


def test_priority_follows_weight_by_replica() -> None:
    alone = nice(BackendSettings())
    assert 1.25 ** (alone - nice(BackendSettings(weight=2))) == pytest.approx(2, rel=0.15)
    assert nice(BackendSettings(replicas=2)) > alone
    assert nice(BackendSettings(replicas=2, weight=2)) == alone
    assert nice(BackendSettings(replicas=Replicas(0, 9))) == alone
    assert (nice(BackendSettings(weight=1000)), nice(BackendSettings(weight=0.001))) == (0, 19)
