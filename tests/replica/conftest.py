import textwrap

import pytest

from tests.replica.processes import Replica


@pytest.fixture
def start(tmp_path):
    """`start(source, name="Model", **config)` → a running replica of the model in `source`; all end with the test."""
    running = []

    def start(source, *, name="Model", ready=True, **config):
        file = tmp_path / "model.py"
        file.write_text(textwrap.dedent(source))
        replica = Replica(tmp_path, f"model.py:{name}", **config)
        running.append(replica)
        if ready:
            replica.wait_ready()
        return replica

    yield start
    for replica in running:
        replica.close()
