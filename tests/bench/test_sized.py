"""What the benchmarks of sizing are made of: traces, windows, the watch beside a server."""

import random
import subprocess
import sys

import pytest

from bench.load import Record
from bench.many import Several, _outcomes
from bench.slo import SETTLING_S, Run, Trace, _calls
from bench.watch import Sample, Watch
from muleteer.testing.arrivals import poisson
from muleteer.testing.simulation import Call, Course
from tests.waiting import until


def test_a_trace_changes_its_rate_where_a_part_begins():
    trace = Trace((0.1, 0.9, 0.9), 5.0)
    rate = trace.rate_at(100)
    assert [rate(at) for at in (0.0, 4.9, 5.0, 14.9)] == [10, 10, 90, 90]
    times = poisson(rate, 100, trace.seconds, random.Random(1))
    assert 30 < sum(at < 5 for at in times) < 70
    assert 800 < sum(at >= 5 for at in times) < 1000


def test_windows_count_once_the_rate_has_settled():
    trace = Trace((0.1, 0.9), SETTLING_S + 2)
    late = {0.5, SETTLING_S + 0.5}  # the first while it settles
    times = [part * (SETTLING_S + 2) + second + 0.5 for part in (0, 1) for second in range(int(SETTLING_S) + 2)]
    course = Course(tuple(Call(at, 0.01, 0.2 if at in late else 0.01) for at in times), 0.0, ())
    assert Run(trace, course, 1.0, 0.0).settled(0.1) == [False, True, True, True]


def test_a_refused_call_is_late_for_ever():
    answered = Record(1, due=10.0, sent=10.1, done=10.3, status=200, body=b'{"nonce":1,"took_us":20000}')
    refused = Record(2, due=11.0, sent=11.0, done=11.1, status=503, body=b"{}")
    assert _calls([answered, refused], 10.0) == (
        Call(0.0, 0.02, pytest.approx(0.2)),
        Call(1.0, 0.02, float("inf")),
    )


def test_replica_seconds_are_cut_at_both_ends(tmp_path):
    watch = Watch(0, tmp_path)
    watch.samples = [Sample(0.0, 5, 0, 0), Sample(1.0, 1, 0, 0), Sample(2.0, 3, 0, 0), Sample(9.0, 7, 0, 0)]
    assert watch.replica_seconds(0.5, 3.0) == 0.5 * 1 + 1.0 * 3 + 1.0 * 7


def test_the_watch_sees_a_tree_and_ends(tmp_path):
    code = "import time, subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input() # replica'], stdin=subprocess.PIPE); x = bytearray(b'1') * 50_000_000; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as root:
        root.stdout.readline()
        with Watch(root.pid, tmp_path) as watch:
            file = tmp_path / f"watch-{root.pid}"
            until(
                lambda: watch._process.poll() is not None or (file.exists() and file.read_text().count("\n") > 1), "it"
            )
            assert watch._process.poll() is None
        assert watch._process.poll() is not None
        root.stdin.close()
    assert watch.samples[-1].replicas == 1
    assert 50e6 < watch.samples[-1].whole < 200e6
    assert 0 < watch.samples[-1].held < 50e6


def test_each_request_goes_to_its_own_endpoint():
    target = Several(80, "", lambda nonce: b"%d" % nonce, routes=["/a", "/b"])
    assert [target.request(nonce).split()[1] for nonce in (1, 2)] == [b"/a", b"/b"]


def test_documented_refusals_are_no_failures():
    records = [
        Record(1, 0.0, status=200),
        Record(2, 0.0, status=503, body=b'{"code":"memory"}'),
        Record(3, 0.0, status=502, body=b'{"code":"replica_died"}'),
        Record(4, 0.0, failure="timeout"),
    ]
    *refused, failed = _outcomes("", records)
    assert [(figure.name, figure.value) for figure in refused] == [("503 memory", 25.0)]
    assert failed.value == 2
    assert "1 502 replica_died" in failed.name
    assert "1 timeout" in failed.name
