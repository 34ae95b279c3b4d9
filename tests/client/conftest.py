import pytest

from tests.client.place import Place


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()


@pytest.fixture
def client(place):
    """Of a detached server with nothing declared."""
    with place.settings():
        import muleteer

        made = muleteer.start(detached=True, http_options={"port": 0})
    yield made
