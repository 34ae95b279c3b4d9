"""What Ray says of a failure is cut to what a person needs, and tells whether to ask again. No Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from muleteer.engine.ray import cluster
from muleteer.engine.ray.cluster import Hung, Refused, Unreachable, sentence

STACK = '  File "/ray/pip.py", line {}, in create\n    await task\n    ^^^^^^^^^^\n'
PIP = (
    "Failed to set up runtime environment.\n[Node 10.0.0.1] Traceback (most recent call last):\n"
    + "".join(STACK.format(line) for line in range(60))
    + "ray.SubprocessCalledProcessError: Run cmd[8] failed with the following details.\n"
    + "Command '['python', '-m', 'pip', 'install']' returned non-zero exit status 1.\n"
    + "Last 50 lines of stdout:\n"
    + "    Processing ./tiny.whl\n"
    + "    ERROR: Could not install packages due to an OSError: no such file: tiny.whl\n"
)


def test_stacks_are_left_out_and_the_cause_is_not():
    assert sentence(RuntimeError(PIP)) == (
        "Failed to set up runtime environment. [Node 10.0.0.1] ray.SubprocessCalledProcessError: Run cmd[8] failed with "
        "the following details. Command '['python', '-m', 'pip', 'install']' returned non-zero exit status 1. Last 50 "
        "lines of stdout: Processing ./tiny.whl ERROR: Could not install packages due to an OSError: no such file: "
        "tiny.whl"
    )


def test_what_is_long_loses_its_middle():
    text = sentence(RuntimeError("begins" + 5000 * "x" + "the cause"))
    assert text.startswith("beginsx") and text.endswith("xthe cause")
    assert len(text) <= 2000


def test_without_words_it_is_the_name():
    assert sentence(KeyError()) == "KeyError"
    assert sentence(RuntimeError("gone\n\tclass_name: Keeper\n\tactor_id: 1")) == "gone"


class Rpc(Exception):
    """As of gRPC: what Ray raises through ray:// once the head knows nothing of the connection any more."""

    def code(self):
        return SimpleNamespace(name=str(self))


@pytest.mark.parametrize(
    ("cause", "error", "word"),
    [
        (None, ValueError("no such option"), Refused),
        (ValueError("larger than 512 MiB"), RuntimeError("cannot upload: larger than 512 MiB"), Refused),
        (OSError("reset"), RuntimeError("cannot upload: reset"), Unreachable),
        (None, ConnectionError("the client is shut down"), Hung),
        (None, Rpc("UNAVAILABLE"), Unreachable),
        (None, Rpc("NOT_FOUND"), Hung),
    ],
)
def test_what_is_asked_again_is_what_may_change(cause, error, word):
    class Broken(cluster.Cluster):
        async def ask(self):
            await self._call(self._fail)

        def _fail(self):
            raise error from cause

    with pytest.raises(word) as told:
        asyncio.run(Broken("nowhere").ask())
    assert type(told.value) is word
