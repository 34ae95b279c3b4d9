"""The `served` fixture: a server whose books are checked when the test is over."""

import pytest

from tests.gateway.http.rig import Served


@pytest.fixture
def served():
    with Served() as server:
        yield server
