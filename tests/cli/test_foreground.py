"""Lines for a person who reads, reads late, or has gone; and a server whose terminal stands still."""

import json
import os
import pty
import signal
import subprocess
import threading
from urllib.request import Request, urlopen

import pytest

from muleteer.base.limits import FOREGROUND_BYTES_MAX
from muleteer.cli.foreground import Foreground
from tests.cli.command import MULETEER, environment


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as ours, os.fdopen(writing, "w", encoding="ascii") as theirs:
        yield ours, theirs


def drained(file):
    os.set_blocking(file.fileno(), False)
    return (file.read() or b"").decode()


def test_what_is_not_read_waits_and_goes_out_in_order(pipe):
    ours, theirs = pipe
    due = []
    foreground = Foreground(theirs)
    foreground.lend_timer(lambda seconds, call: due.append(call))
    lines = [f"line {number} " + "x" * 1000 for number in range(200)]
    for line in lines:
        foreground.say(line)
    assert len(due) == 1, "one timer at a time"
    got = ""
    while due:
        got += drained(ours)
        due.pop()()
    assert (got + drained(ours)).splitlines() == lines
    foreground.close()
    assert os.get_blocking(theirs.fileno()), "the flags that others share are as they were"


def test_beyond_the_bound_lines_are_left_out_and_counted(pipe):
    ours, theirs = pipe
    foreground = Foreground(theirs)
    line = "y" * 10_000
    said = FOREGROUND_BYTES_MAX // len(line) + 50
    for _ in range(said):
        foreground.say(line)
    reader = []
    thread = threading.Thread(target=lambda: reader.append(ours.read()))
    thread.start()
    foreground.close()
    theirs.close()
    thread.join()
    *shown, last = reader[0].decode("ascii").splitlines()
    assert last == f"\\u2026 {said - len(shown)} lines were not shown, as nobody read them; muleteer logs has them"
    assert set(shown) == {line}


def test_who_has_gone_is_told_nothing_more(pipe):
    ours, theirs = pipe
    foreground = Foreground(theirs)
    ours.close()
    foreground.say("one")
    foreground.say("two")
    foreground.close()


def test_a_file_is_appended_to_where_it_stood(tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        file.write("before\n")
        foreground = Foreground(file)
        foreground.say("über" * 1000)
        foreground.close()
        file.write("after\n")
    assert (tmp_path / "out").read_text("utf-8").splitlines() == ["before", "über" * 1000, "after"]


def test_a_terminal_that_stands_still_holds_up_nothing(folder):
    (folder.path / "chatty.py").write_text(
        "import os\n"
        "class Chatty:\n"
        "    def predict(self):\n"
        "        for _ in range(40): print('x' * 5000)\n"
        "        return os.getpid()\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MULETEER, "serve", "chatty.py:Chatty", "--run-dir", folder.run_dir, "--port", "0"],
        cwd=folder.path,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        seen = b""
        while b"In another shell" not in seen:
            seen += terminal.read(4096)
        port = json.loads((folder.run_dir / "lock").read_text())["port"]

        def call():
            request = Request(f"http://127.0.0.1:{port}/predict", b"{}", {"content-type": "application/json"})
            with urlopen(request, timeout=40) as answer:
                return int(answer.read())

        pids = {call() for _ in range(5)}  # a megabyte, of which the terminal took nothing
        assert len(pids) == 1
        os.kill(*pids, signal.SIGKILL)
        assert call() not in pids, "restarts go on"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_end_of_the_terminal_is_an_orderly_stop(folder):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder.path)
        os.execve(
            MULETEER[0],
            [*MULETEER, "serve", "fancy_model.py:FancyModel", "--run-dir", str(folder.run_dir), "--port", "0"],
            environment(),
        )
    seen = b""
    while b"In another shell" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_standard_streams_are_replaced_before_a_socket_takes_their_number(folder, closed):
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    command = " ".join(MULETEER)
    flags = f"--run-dir {folder.run_dir} --port 0"
    done = subprocess.run(
        f"{command} serve -d fancy_model.py:FancyModel {flags} {redirections}",
        shell=True,
        cwd=folder.path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert folder.muleteer("status").returncode == 0
    assert folder.muleteer("stop").returncode == 0


def test_a_terminal_without_the_letters_gets_escapes(folder):
    done = folder.muleteer("serve", "fancy_model.py:Nöpe", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "defines no 'N\\xf6pe'" in done.stderr
    done = folder.muleteer("serve", "-d", "fancy_model.py:FancyModel", "--port", "0", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2190" in done.stdout
    assert folder.muleteer("stop", PYTHONIOENCODING="ascii").returncode == 0
