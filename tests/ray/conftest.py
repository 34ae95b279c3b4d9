"""One cluster for all tests of this room: it takes ten seconds to start."""

from pathlib import Path

import pytest

from tests.ray.cluster import RayCluster

HUNG_S = 600
"""Of a test, its cluster included: dozens of processes start, each of which takes seconds of two cores."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(HUNG_S))


@pytest.fixture(scope="session")
def cluster():
    found = RayCluster()
    try:
        found.start()
        yield found
    finally:
        found.stop()
