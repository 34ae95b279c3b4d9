"""The harness is broken if it does not see these: each test plants one bug in a copy of the source and runs a fault."""

import shutil

import pytest

from tests.faults.faults import strike
from tests.faults.report import Size
from tests.faults.server import Rig
from tests.tidy.tree import SRC

BUGS = {
    "a call that may run once is run again": (
        "kills_at_most_once",
        "gateway/rerun.py",
        "if not self._gate.route.idempotent:",
        "if False:",
        ("0 crossed, double", "run 2 times"),
        2,
    ),
    "a call that is run again gets another's answer": (
        "kills",
        "gateway/ending.py",
        "        call.counts.answered += 1\n",
        "        if call.attempts > 1:\n            body = Endings.stale\n        Endings.stale = body\n        call.counts.answered += 1\n",
        ("0 crossed, double", "crossed, answered with"),
        2,
    ),
    "calls of a dead replica are forgotten": (
        "kills",
        "gateway/links.py",
        "            if call.state is not SETTLED:\n                self._binder.wait(call, front=True)\n",
        "            pass\n",
        ("no failures but none", "'deadline'"),
        2,
    ),
    "a slot leaks when a client leaves": (
        "leaves_a_running_call",
        "gateway/links.py",
        "        self._slots.moved(link)\n        if self._queue",
        "        if call.state is SETTLED:\n            self._slots.remove(link)\n        self._slots.moved(link)\n        if self._queue",
        ("no slot leaked", ""),
        1,
    ),
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS)
def test_the_harness_sees(bug, tmp_path_factory, monkeypatch):
    fault, file, healthy, sick, (promise, sign), times = BUGS[bug]
    source = tmp_path_factory.mktemp("src")
    shutil.copytree(SRC / "muleteer", source / "muleteer", ignore=shutil.ignore_patterns("__pycache__"))
    patched = source / "muleteer" / file
    text = patched.read_text()
    assert text.count(healthy) == 1, f"{file} has changed: plant the bug elsewhere"
    patched.write_text(text.replace(healthy, sick))
    monkeypatch.setattr(Rig, "source", source)
    report = strike(fault, tmp_path_factory.mktemp("f"), Size(times=times))
    assert any(promise in finding.promise and sign in finding.observed for finding in report.broken), report.findings
