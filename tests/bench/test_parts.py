"""The parts of the benchmark that stand alone: figures and their verdicts, /proc, nginx and wrk."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

from bench import measure, nginx, report, wrk


def test_verdicts():
    assert report.Figure("x", 1.0, "s").reached is None
    assert report.Figure("x", 1.0, "s", target=1.0).reached
    assert not report.Figure("x", 1.1, "s", target=1.0).reached
    assert report.Figure("x", 1.1, "s", target=1.0, better="more").reached
    assert report.Figure("x", math.nan, "s", target=1.0, better="more").reached is False
    assert "missed" in report.Figure("x", 0.8, "s", target=1.0, better="more").verdict
    assert "20 %" in report.Figure("x", 0.8, "s", target=1.0, better="more").verdict
    assert "missed" in report.Figure("x", 3.0, "", target=0).verdict


def test_median():
    assert report.median([3, 1, 2]) == 2
    assert report.median([1, 2]) == 1.5
    assert math.isnan(report.median([]))


def test_both_files_hold_every_figure(tmp_path):
    section = report.Section("One", "A note.")
    section.add(
        report.Figure("speed", 1234.5, "/s", target=1000.0, better="more", rounds=(1.0, 2.0)),
        report.Figure("never", math.nan, "s"),
    )
    text, data = report.write(tmp_path / "results", "stem", {"cores": 2}, [section], ["a remark"])
    assert "| speed | 1,234 /s | 1 · 2 | ≥ 1,000: reached |" in text.read_text()
    assert "a remark" in text.read_text()
    found = json.loads(data.read_text())
    assert [figure["value"] for figure in found["figures"]] == [1234.5, None]
    assert found["figures"][0]["reached"] is True


def test_cpu_and_memory_of_a_process():
    code = "x = bytearray(50_000_000)\nimport time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint('x', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.read(1)
        assert 0.25 < measure.cpu_s([child.pid]) < 5
        assert 50e6 < measure.memory(child.pid).private <= measure.memory(child.pid).rss < 200e6
        assert child.pid in {process.pid for process in measure.descendants(os.getpid())}
        child.stdin.close()
    assert measure.cpu_s([child.pid]) == 0
    assert measure.descendants(child.pid) == []


@pytest.mark.skipif(
    not (wrk.available() and nginx.available()) and "CI" not in os.environ, reason=f"{wrk.MISSING}; {nginx.MISSING}"
)
def test_wrk_measures_nginx_and_nginx_ends(tmp_path):
    with nginx.Nginx(tmp_path) as server:
        figures = wrk.run(server.url, connections=2, seconds=3)
        children = measure.descendants(os.getpid())
        assert sum("nginx:" in process.command for process in children) >= 2
    assert figures.requests > 100
    assert figures.failed == 0
    assert 0 < figures.p50_us <= figures.p99_us <= figures.max_us
    assert not [p for p in measure.descendants(os.getpid()) if "nginx:" in p.command]


def test_a_busy_core_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            before, began = measure.cpu_s([child.pid]), time.monotonic()
            busy = measure.busy_share(0.5)
            share = (measure.cpu_s([child.pid]) - before) / (time.monotonic() - began)  # of a core that it got
            assert busy > 0.8 * share / len(os.sched_getaffinity(0))
        finally:
            child.kill()
