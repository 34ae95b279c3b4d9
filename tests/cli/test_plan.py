"""`muleteer plan` with real replicas. Times are of this machine, so only what no machine changes is compared: the target
is out of the reach of a machine that stands still for seconds.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from muleteer.cli.plan_text import show_measured
from muleteer.spec.file import load_file
from muleteer.trial.measure import Alone, Beside, Measured
from tests.cli.command import MULETEER, environment

MODELS = """\
import time

class Sleeps:
    example = {"seconds": 0.01}
    def predict(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

class Batched:
    example = 1
    def predict_batch(self, inputs):
        time.sleep(0.024 + 0.006 * len(inputs))
        return inputs

class Computes:
    example = 30_000
    def predict(self, count: int) -> int:
        return sum(each * each for each in range(count))

class Chatty:
    def predict(self, count: int) -> None:
        for _ in range(4):
            print("y" * 9999)  # in three calls more than a pipe holds

class Grows:
    example = 1
    held = []
    def predict(self, count: int) -> None:
        Grows.held.append(b"x" * 1_000_000)
        time.sleep(0.01)

class Divides:
    example = {"by": 1}
    def predict(self, by: int) -> float:
        return 1 / by

class Dies:
    example = {"n": 0}
    calls = 0
    def predict(self, n: int) -> int:
        Dies.calls += 1
        if Dies.calls > 5:
            import os
            print("so long", flush=True)
            os._exit(3)
        return n
"""


@pytest.fixture
def plan(folder, tmp_path):
    (folder.path / "planned.py").write_text(MODELS)

    def run(target, *flags, **more):
        return folder.muleteer("plan", f"planned.py:{target}", "--slo", "p99=10s", *flags, TMPDIR=str(tmp_path), **more)

    yield run
    assert list(tmp_path.iterdir()) == []
    assert replicas(tmp_path) == []


def replicas(tmp_path):
    return [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"muleteer.replica" in (line := read(path)) and bytes(tmp_path) in line
    ]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_model_is_measured_and_answered_for(plan):
    done = plan("Sleeps", "--rate", "15", "--seconds", "3", "--input", '{"seconds": 0.1}', "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    measured, answer = found["measured"], found["plan"]
    assert 0.1 <= measured["mean_s"] <= 0.2
    assert measured["p99_s"] >= measured["mean_s"]
    assert 0 < measured["cpu_s"] < 0.05
    assert all(start_s > 0.01 for start_s in measured["startup_s"])
    assert 0 < measured["next_bytes"] <= measured["first_bytes"] * 1.2
    two = measured["two_at_once"]
    assert 0.5 < two["service"] < 2  # of medians; a rate counts the time in which all stood still
    assert 1.3 < two["rate"] < 3.0 or measured["p99_s"] > 0.2 or two["rate"] * two["service"] < 1.7
    assert answer["replicas"] >= 15 * measured["mean_s"]
    assert answer["p50_s"] <= answer["p99_s"] <= 10
    assert answer["problems"] == []
    assert 0 < found["question"]["cores"] <= len(os.sched_getaffinity(0))


def test_the_cpu_of_a_few_short_calls_is_measured(plan):
    found = json.loads(plan("Sleeps", "--rate", "20", "--seconds", "0.01", "--json").stdout)["measured"]
    assert found["calls"] < 10
    assert found["cpu_s"] > 0
    assert found["two_at_once"]["cpu"] > 0


@pytest.mark.parametrize(
    ("mean_s", "cpu_s", "shown"),
    [
        (0.01, 226e-6, "226us a call: 2.3 % of it"),
        (0.01, 8e-3, "8ms a call: 80 % of it"),
        (0.01, 20e-6, "20us a call: 0.2 % of it"),
        (10.0, 20e-6, "20us a call: less than 0.01 % of it"),
        (0.01, 0.0, "less than 1ms a call, which is the least that this system can tell of 10 calls"),
    ],
)
def test_no_cpu_is_shown_as_nothing(capsys, mean_s, cpu_s, shown):
    alone = Alone((mean_s,) * 10, mean_s, 0.01, cpu_s, 0.0, 1 / mean_s)
    measured = Measured(
        startup_s=(0.1, 0.1), first_bytes=1, next_bytes=1, concurrency=1, alone=alone, beside=Beside(2.0, 1.02, 1.0)
    )
    show_measured(measured)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"cpu         {shown}" in lines
    more = ", 1.02 times the CPU of a call" if cpu_s else ""
    assert f"two at once 2.00 times the calls/s of one{more}" in lines


def test_the_whole_text(plan):
    done = plan("Sleeps", "--rate", "2", "--seconds", "1", "--name", "sleepy:v1", "--timeout", "20s")
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\b\d[\d,.]*(?:e[+-]\d+)?(us|ms|s)\b", "T", done.stdout)
    text = re.sub(r"\b\d[\d,.]*MiB", "M", text)
    text = re.sub(r"(?<![.:vp\d])\d[\d,.]*\b", "N", text)
    text = re.sub(r" {14}T of a call waited for a core.*\n", "", text)  # if others use this machine
    text = text.replace("too few calls to tell how sure", "± N %")
    nothing = r"nothing gained for M more memory: (calls hardly wait|N cores are shared already)"
    text = re.sub(nothing, "p99 T instead of T, for M more memory", text)
    assert (
        text
        == """\
planned.py:Sleeps
  start       T, a second one T
  call        T mean (± N %, N calls), p99 T, variation c² N
  cpu         T a call: N % of it
  memory      M, each further replica M
  two at once N times the calls/s of one, N times the CPU of a call
N calls/s with p99 T
  replicas    N, N % busy
  expected    p50 T, p99 T
  memory      M
  cores       N: N are busy on average, the gateway included
  queue       N may wait: of the deadline of T, T are kept for the call itself (p99); in the other T N slot takes N calls of T (mean)
  breaks      N at N calls/s, N at N calls/s
  one more    with N: p99 T instead of T, for M more memory

# N calls/s with p99 T: N replica, M, N core
backends:
  "sleepy:v1":
    model: "planned.py:Sleeps"
    replicas: {min: N, max: N}
    slo: {p99: T}
    timeout: T
endpoints:
  "sleepy:v1":
    route: /predict
    backend: "sleepy:v1"
"""
    )


def test_batches_are_measured_until_one_is_too_long(plan):
    began = time.monotonic()
    found = json.loads(plan("Batched", "--rate", "400", "--seconds", "6", "--batch-max", "16", "--json").stdout)
    late = time.monotonic() - began - sum(found["measured"]["startup_s"]) > 7.5  # some 6 where nothing is in the way
    curve = found["measured"]["curve"]
    assert curve["base_s"] == pytest.approx(0.024, rel=0.8)
    assert curve["item_s"] == pytest.approx(0.006, rel=0.6)
    sizes = [each["size"] for each in found["measured"]["batches"]]
    assert sizes == [1, 2, 4, 8, 16] or (late and sizes in ([1, 2], [1, 2, 4], [1, 2, 4, 8]))  # there was time for
    assert 1 < found["plan"]["batch_max"] <= 16
    assert found["plan"]["replicas"] < 400 * 0.03


def test_a_model_that_computes_keeps_the_threads_it_was_measured_with(plan):
    asked = ("--rate", "5", "--seconds", "0.5", "--cores", "4")
    assert "    cpus: 1\n" in plan("Computes", *asked).stdout
    assert "    cpus: 2\n" in plan("Computes", *asked, "--cpus", "2").stdout


def test_what_is_out_of_reach_says_what_would_do(plan):
    done = plan("Sleeps", "--rate", "500", "--seconds", "1", "--memory", "1MB")
    assert done.returncode == 1
    assert re.search(
        r"too little {2}\S+MiB needed for \d+ replicas?, and there are 976.6KiB, which hold 0\. In", done.stdout
    )
    assert "backends:" not in done.stdout


def test_the_file_is_written_once(plan, folder):
    file = folder.path / "sub" / "muleteer.yaml"
    missing = plan("Sleeps", "--rate", "50", "--write", str(file))
    assert (missing.returncode, "there is no folder" in missing.stderr) == (2, True)
    file.parent.mkdir()
    done = plan("Sleeps", "--rate", "50", "--seconds", "0.5", "--route", "/sleep", "--write", str(file))
    assert f"written: {file}; muleteer serve -c {file}" in done.stdout
    (backend,), (endpoint,) = (declared := load_file(file)).backends, declared.endpoints
    assert (backend.name, backend.settings.slo.p99, endpoint.route) == ("Sleeps", 10, "/sleep")
    again = plan("Sleeps", "--rate", "50", "--write", str(file))
    assert (again.returncode, again.stdout) == (2, "")
    assert "it exists; --force overwrites it" in again.stderr
    assert plan("Sleeps", "--rate", "90", "--seconds", "0.5", "--write", str(file), "--force").returncode == 0
    assert "90 calls/s" in file.read_text()


def test_inputs_come_from_files_or_the_command_line_and_a_chatty_model_is_read(plan, folder):
    (folder.path / "count.json").write_text('{"count": 1}')
    done = plan(
        "Chatty", "--rate", "5", "--seconds", "0.5", "--input", "count.json", "--input", '{"count": 2}', "--json"
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["measured"]["calls"] >= 3
    shown = done.stderr.splitlines()
    assert len(shown) == 21
    assert shown[0].startswith("Chatty | yyy")
    assert re.fullmatch(r"Chatty \| … [\d,]+ more lines are not shown", shown[-1])


def test_large_numbers_are_plain_digits_and_growth_is_said(plan):
    done = plan("Grows", "--rate", "2000000", "--seconds", "1", "--memory", "64GiB")
    assert re.search(r"^2,000,000 calls/s with p99 10s$", done.stdout, re.MULTILINE)
    assert re.search(r"^  cores +[\d,]+: [\d,.]+ are busy", done.stdout, re.MULTILINE)
    assert not re.search(r"\de[+]\d", done.stdout)
    assert re.search(r"^ +a replica grew by [\d.]+MiB while it was measured", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("target", "flags", "status", "line"),
    [
        ("Chatty", ("--rate", "5"), 2, "muleteer: there is nothing to call the model with: give its class an `example`"),
        ("Divides", ("--rate", "5", "--input", "nothing.json"), 2, "muleteer: --input 'nothing.json' is neither a file"),
        ("Divides", ("--rate", "0"), 2, "muleteer: argument --rate: '0' is not a number above 0"),
        (
            "Divides",
            ("--rate", "5", "--input", '{"by": 1}', "--input", '{"by": 0}'),
            6,
            'muleteer: the call on --input {"by": 0} failed: ZeroDivisionError: division by zero',
        ),
        ("Dies", ("--rate", "5"), 6, "muleteer: planned.py:Dies did not answer a call: the replica died\n  so long"),
        ("Nothing", ("--rate", "5"), 2, "muleteer: target 'planned.py:Nothing'"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_named(plan, target, flags, status, line):
    done = plan(target, *flags)
    assert done.returncode == status, done.stderr
    assert line in done.stderr
    assert "src/muleteer" not in done.stderr


def test_a_target_for_the_response_is_needed(folder):
    done = folder.muleteer("plan", "fancy_model.py:FancyModel", "--rate", "5")
    assert (done.returncode, done.stderr) == (
        2,
        "muleteer: --slo is missing: which response time must hold? E.g. --slo p99=100ms\n",
    )


def test_ctrl_c_leaves_nothing_behind(folder):
    (folder.path / "planned.py").write_text(MODELS)
    with tempfile.TemporaryDirectory(prefix="mt-") as own:
        command = [*MULETEER, "plan", "planned.py:Chatty", "--slo", "p99=1s", "--rate", "1", "--input", '{"count": 1}']
        process = subprocess.Popen(
            command, cwd=folder.path, env=environment(TMPDIR=own), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        with process:
            process.stderr.readline()  # it is being called
            seen = children(process.pid)
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            assert process.wait(60) == 130
        assert len(seen) >= 1
        assert [pid for pid in seen if Path(f"/proc/{pid}").exists()] == []
        assert list(Path(own).iterdir()) == []


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
