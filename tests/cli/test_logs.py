"""`muleteer logs`: real log files, written by the supervisor's own LogFile, rotated under the reader."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from muleteer.cli.logs import Tail
from muleteer.supervise.output import LogFile
from tests.cli.command import MULETEER, environment


@pytest.fixture
def logs(folder):
    directory = folder.run_dir / "logs"
    directory.mkdir(parents=True)
    return directory


def test_lines_before_and_after_a_rotation_are_each_read_once(logs):
    log, tail = LogFile(logs / "a.log", bytes_max=100), Tail(logs / "a.log")
    read = []
    for number in range(50):
        log.write(f"line {number}\n".encode())
        if number % 7 == 0:
            read += tail.more()
    read += tail.more()
    log.close()
    tail.close()
    assert read == [f"line {number}" for number in range(50)]


def test_a_line_is_read_when_it_is_complete(logs):
    log, tail = LogFile(logs / "a.log"), Tail(logs / "a.log")
    assert list(tail.more()) == []
    log.write(b"half ")
    assert (list(tail.more()), tail.rest()) == ([], "half ")
    log.write(b"a line\nnext")
    assert (list(tail.more()), tail.rest()) == (["half a line"], "next")
    log.close()
    tail.close()


def test_the_last_lines_of_every_process_or_of_one(folder, logs):
    (logs / "gateway-0.log").write_text("one\ntwo\nthree\n")
    (logs / "Model-1.log").write_text("hello\nforged \x1b[2J\ncut off")
    done = folder.muleteer("logs", "-n", "2")
    assert done.stdout == (
        "Model-1 | hello\nModel-1 | forged \\x1b[2J\nModel-1 | cut off\ngateway-0 | two\ngateway-0 | three\n"
    )
    assert folder.muleteer("logs", "gateway-0").stdout == "gateway-0 | one\ngateway-0 | two\ngateway-0 | three\n"


def test_an_unknown_process_is_answered_with_the_nearest(folder, logs):
    (logs / "Model-1.log").write_text("")
    done = folder.muleteer("logs", "Modle-1")
    assert (done.returncode, done.stderr) == (
        2,
        "muleteer: no process called Modle-1 has a log; did you mean Model-1?\n",
    )


def test_following_sees_new_lines_rotation_and_new_processes(folder, logs):
    log = LogFile(logs / "a.log", bytes_max=30)
    log.write(b"first\n")
    process = subprocess.Popen(
        [*MULETEER, "logs", "-f", "--run-dir", folder.run_dir], stdout=subprocess.PIPE, text=True, env=environment()
    )
    with process.stdout:
        assert process.stdout.readline() == "a | first\n"
        log.write(b"x" * 29 + b"\n")  # over the size: rotated
        assert process.stdout.readline() == f"a | {'x' * 29}\n"
        (logs / "b.log").write_text("new\n")
        assert process.stdout.readline() == "b | new\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    log.close()


def test_following_does_not_spin(folder, logs):
    (logs / "a.log").write_text("first\n")
    process = subprocess.Popen(
        [*MULETEER, "logs", "-f", "--run-dir", folder.run_dir], stdout=subprocess.PIPE, text=True, env=environment()
    )
    with process.stdout:
        process.stdout.readline()
        ticks = os.sysconf("SC_CLK_TCK")

        def cpu_s():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / ticks

        before = cpu_s()
        time.sleep(1)  # the thing measured is CPU over time
        assert cpu_s() - before < 0.2
        process.terminate()
        process.wait(timeout=60)
