import pytest

from tests.cli.command import Folder


@pytest.fixture
def folder():
    made = Folder()
    yield made
    made.close()
