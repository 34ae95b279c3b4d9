"""One cluster for all tests of this room: it takes ten seconds to start."""

import pytest

from tests.ray.cluster import RayCluster


@pytest.fixture(scope="session")
def cluster():
    found = RayCluster()
    try:
        found.start()
        yield found
    finally:
        found.stop()
