import textwrap

import pytest

from tests.replica.processes import Replica, as_coroutine


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


@pytest.fixture(params=["plain", "threads", "async"])
def start_kind(request, start):
    """As `start`, with each loop that runs a model; `source` is that of a plain one."""

    def start_kind(source, **config):
        if request.param == "async":
            source = as_coroutine(source)
        elif request.param == "threads":
            config["concurrency"] = 2
        return start(source, **config)

    return start_kind
