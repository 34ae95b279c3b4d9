"""`muleteer serve` and the verbs around it, with real processes: what a person types, sees, and is left with."""

import http.client
import json
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.cli.command import MULETEER, environment
from tests.processes import processes_of
from tests.waiting import until

DEADLINE_S = 60
LARGE = """
import time
class Large:
    def __init__(self):
        self.held = b"x" * 100_000_000
        time.sleep(60)  # it is weighed while it loads
    def predict(self):
        return len(self.held)
"""


def nothing_left(folder):
    until(lambda: not processes_of(folder.path), "the end of every process")
    sockets = [path for path in folder.run_dir.rglob("*") if path.is_socket()]
    assert sockets == []
    return True


def post(url, value, timeout=40):
    """Status and JSON of one POST."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request("POST", f"/{path}", json.dumps(value), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Foreground:
    """`muleteer serve` in the foreground of nobody: its lines are collected."""

    def __init__(self, folder, *arguments):
        self.lines = []
        self._queue = queue.Queue()
        self.process = subprocess.Popen(
            [*MULETEER, "serve", *arguments, "--run-dir", folder.run_dir, "--port", "0"],
            cwd=folder.path,
            env=environment(**folder.environment()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, pattern):
        """The first new line that holds `pattern`."""
        give_up = time.monotonic() + DEADLINE_S
        while (left := give_up - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))

    def url(self):
        """Where it serves, once it does; the curl lines are read too."""
        url = self.wait_for(r"(http://127\.0\.0\.1:\d+)/")[1]
        self.wait_for(r"^In another shell: ")
        return url

    def end(self, *signals):
        """Send the signals; its exit status and all its lines."""
        for number in signals:
            self.process.send_signal(number)
        status = self.process.wait(timeout=DEADLINE_S)
        self._reader.join()
        while (line := self._queue.get()) is not None:
            self.lines.append(line)
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()


@pytest.fixture
def serve(folder):
    started = []

    def start(*arguments):
        started.append(Foreground(folder, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()
    nothing_left(folder)


@pytest.fixture
def detached(folder):
    """Starts a detached server; stopped at the end."""

    def start(*arguments, **more):
        return folder.muleteer("serve", "-d", "--port", "0", *arguments, **more)

    yield start
    folder.muleteer("stop", "--now")
    nothing_left(folder)


def test_the_foreground_from_banner_to_ctrl_c(folder, serve):
    server = serve("fancy_model.py:FancyModel", "--route", "/predict")
    server.url()
    (curl,) = [line.strip() for line in server.lines if line.strip().startswith("curl")]
    words = shlex.split(curl)
    assert post(words[-1], json.loads(words[4])) == (200, "Can't tell anything smart about: tadaaam")
    assert server.end(signal.SIGINT) == 0
    text = "\n".join(server.lines)
    assert re.search(r"^muleteer [\d.]+  pid \d+  run directory ", text)
    assert re.search(r"FancyModel-1 +load took [\d.]+ m?s", text)
    assert re.search(r"FancyModel-1 +ready, [\d.]+ m?s after its start", text)
    assert re.search(r"ready after [\d.]+ s, try:", text)
    assert "SIGINT: finishing what is in flight; once more ends it at once" in text
    assert text.endswith("stopped")
    assert nothing_left(folder)


def test_several_targets_with_their_routes(serve):
    server = serve("fancy_model.py:FancyModel", "--route", "/predict", "fancy_model.py:shout", "--route", "/loud")
    url = server.url()
    assert post(f"{url}/predict", {"text": "x"}) == (200, "Can't tell anything smart about: x")
    assert post(f"{url}/loud", {"text": "x", "times": 2}) == (200, "XX")
    assert post(f"{url}/nowhere", {})[0] == 404
    assert server.wait_for(r"^shout-1 \| shouting x")
    assert server.end(signal.SIGTERM) == 0


def test_a_second_signal_does_not_wait_for_what_is_in_flight(folder, serve):
    (folder.path / "endless.py").write_text(
        "import time\ndef endless(text):\n    print('began', flush=True)\n    time.sleep(600)\n"
    )
    server = serve("endless.py:endless")
    url = server.url()
    host = url.removeprefix("http://")
    with socket.create_connection(tuple(host.split(":")), timeout=20) as client:
        body = b'{"text": "x"}'
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        server.wait_for("began")
        server.process.send_signal(signal.SIGINT)
        server.wait_for("SIGINT: finishing")
        time.sleep(0.3)  # one Ctrl-C may arrive twice; two within 0.2 s are one
        assert server.end(signal.SIGINT) == 1
    assert any("ending everything now" in line for line in server.lines)


def test_detached_it_returns_when_requests_are_served(folder, detached):
    done = detached("fancy_model.py:FancyModel", "--replicas", "2")
    assert (done.returncode, done.stderr) == (0, "")
    url = re.search(r"http://127\.0\.0\.1:\d+/predict", done.stdout)[0]
    assert post(url, {"text": "x"}) == (200, "Can't tell anything smart about: x")  # at once, without waiting

    status = json.loads(folder.muleteer("status", "--json").stdout)
    assert status["engine"] == "local"
    assert [(each["name"], each["route"], each["traffic"]) for each in status["endpoints"]] == [
        ("FancyModel", "/predict", {"FancyModel": 1.0})
    ]
    (backend,) = status["backends"]
    assert (backend["name"], backend["state"]) == ("FancyModel", "ready")
    assert backend["queue"]["depth"] == 0
    assert isinstance(backend["queue"]["bound"], int)
    for replica in backend["replicas"]:
        assert (replica["state"], replica["in_flight"], replica["restarts"]) == ("ready", 0, 0)
        assert replica["last_exit"] is None
        os.kill(replica["pid"], 0)
    assert len(backend["replicas"]) == 2

    table = folder.muleteer("status").stdout
    assert f"muleteer  pid {status['pid']}  http://127.0.0.1:" in table
    assert re.search(r"^FancyModel +ready +0/\d+ +FancyModel-1 +\d+ +ready +0 +[\d.]+MiB +0 +-$", table, re.MULTILINE)

    stopped = folder.muleteer("stop")
    assert stopped.returncode == 0
    assert re.fullmatch(r"stopping muleteer, pid \d+ …\nstopped after [\d.]+ s\n", stopped.stdout)
    assert nothing_left(folder)
    assert folder.muleteer("status").returncode == 5
    assert folder.muleteer("stop").returncode == 5
    logs = folder.muleteer("logs", "supervisor").stdout  # also after the end
    assert "supervisor | stopped" in logs


def test_a_replica_that_is_killed_comes_back_and_status_tells(folder, detached):
    detached("fancy_model.py:FancyModel")

    def replica():
        return json.loads(folder.muleteer("status", "--json").stdout)["backends"][0]["replicas"][0]

    before = replica()
    os.kill(before["pid"], signal.SIGKILL)
    after = until(lambda: (now := replica())["restarts"] == 1 and now["state"] == "ready" and now, "the restart")
    assert after["pid"] != before["pid"]
    assert (after["last_exit"]["reason"], after["last_exit"]["signal"]) == ("killed", "SIGKILL")


def test_status_waits_for_a_controller_that_is_being_restarted(folder, detached):
    detached("fancy_model.py:FancyModel")
    status = json.loads(folder.muleteer("status", "--json").stdout)
    controller = next(each["pid"] for each in status["processes"] if each["id"] == "controller")
    os.kill(controller, signal.SIGKILL)
    done = folder.muleteer("status", "--json")
    if done.returncode == 1:  # a controller that takes longer than it is waited for is named
        assert "does not answer; muleteer logs controller" in done.stderr
        done = until(lambda: (again := folder.muleteer("status", "--json")).returncode == 0 and again, "the controller")
    after = json.loads(done.stdout)
    assert [each["pid"] for each in after["backends"][0]["replicas"]] == [
        each["pid"] for each in status["backends"][0]["replicas"]
    ]


def test_the_routes_of_an_earlier_server_are_forgotten(folder, detached):
    detached("fancy_model.py:FancyModel", "--route", "/early")
    folder.muleteer("stop")
    url = re.search(r"http://[\d.:]+/late", detached("fancy_model.py:shout", "--route", "/late").stdout)[0]
    assert post(url, {"text": "x"}) == (200, "X")
    assert post(url.replace("/late", "/early"), {"text": "x"})[0] == 404


def test_started_twice(folder, detached):
    first = detached("fancy_model.py:FancyModel")
    pid = re.search(r"pid (\d+)", first.stdout)[1]
    port = re.search(r"127\.0\.0\.1:(\d+)/", first.stdout)[1]
    for again in (("serve", "-d"), ("serve",)):
        done = folder.muleteer(*again, "fancy_model.py:FancyModel")
        assert done.returncode == 4
        assert done.stdout == ""
        assert re.fullmatch(
            rf"muleteer: a muleteer is already running in {folder.run_dir}: pid {pid} on .*:{port} .*\n", done.stderr
        )
    assert json.loads(folder.muleteer("status", "--json").stdout)["pid"] == int(pid)


def test_the_port_is_in_use(folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for detach in ((), ("-d",)):
            done = folder.muleteer("serve", "fancy_model.py:FancyModel", "--port", port, *detach)
            assert (done.returncode, done.stdout) == (3, "")
            assert done.stderr.startswith(f"muleteer: port {port} on 127.0.0.1 is in use by pid {os.getpid()} (")
            assert done.stderr.count("\n") == 1
    assert nothing_left(folder)


@pytest.mark.parametrize("detach", [(), ("-d",)], ids=["foreground", "detached"])
@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("broken_model.py:Model", "import_error: cannot import broken_model.py: ModuleNotFoundError"),
        ("raising_model.py:Model", "constructor_raised: Model() raised ValueError: no weights here"),
    ],
)
def test_a_model_that_cannot_be_served_ends_everything(folder, target, line, detach):
    done = folder.muleteer("serve", "fancy_model.py:FancyModel", target, "--port", "0", *detach)
    assert done.returncode == 6
    shown = done.stderr[done.stderr.index("muleteer: cannot serve") :]
    assert shown.startswith(f"muleteer: cannot serve {target}: {line}")
    assert str(folder.path / target.partition(":")[0]) in shown  # the user's own frame
    assert "src/muleteer" not in shown
    assert nothing_left(folder)
    assert folder.muleteer("status").returncode == 5


@pytest.mark.parametrize("detach", [(), ("-d",)], ids=["foreground", "detached"])
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ("--replicas", "1:4", "--memory-budget", "50MiB"),
            r"a replica takes .*, and all that replicas may hold is .*: of the memory_budget of 50MiB, the .* hold .*",
        ),
        (("--gpus", "40"), r"a replica takes 40 GPUs, and there are .*"),
    ],
    ids=["memory", "gpu"],
)
def test_a_model_that_never_fits_ends_everything(folder, flags, line, detach):
    (folder.path / "large.py").write_text(LARGE)
    done = folder.muleteer("serve", "large.py:Large", "--port", "0", *flags, *detach)
    assert done.returncode == 6
    assert re.search(rf"controller +Large cannot be served: {line}\n", done.stdout)
    assert re.search(rf"^muleteer: cannot serve large.py:Large: no_room: {line}$", done.stderr, re.MULTILINE)
    assert nothing_left(folder)


@pytest.mark.parametrize(("module", "detach"), [("gateway", ("-d",)), ("control", ())], ids=["gateway", "controller"])
def test_a_process_of_ours_that_cannot_start_ends_everything(folder, module, detach):
    broken = folder.path / "broken_installation"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        f"import sys\nif 'muleteer.{module}' in sys.orig_argv:\n    print('no such library')\n    sys.exit(3)\n"
    )
    arguments = ("serve", "fancy_model.py:FancyModel", "--port", "0", *detach)
    done = folder.muleteer(*arguments, PYTHONPATH=str(broken))
    assert done.returncode == 1
    name = {"gateway": "gateway-0", "control": "controller"}[module]
    assert f"muleteer: {name} did not start, 5 times in a row: exited with status" in done.stderr
    assert "no such library" in done.stderr
    assert nothing_left(folder)


TOKEN = "a-token-of-enough-characters"


def test_the_admin_token_is_inherited_by_no_process(folder, detached):
    (folder.path / "nosy.py").write_text(
        "import os\nclass Nosy:\n    example = {}\n    def predict(self):\n        return sorted(os.environ)\n"
    )
    done = detached("nosy.py:Nosy", "--admin-port", "0", MULETEER_ADMIN_TOKEN=TOKEN)
    status, names = post(re.search(r"http://[\d.:]+/predict", done.stdout)[0], {})
    assert status == 200
    assert "PATH" in names
    assert "MULETEER_ADMIN_TOKEN" not in names
    supervisor = json.loads((folder.run_dir / "lock").read_text())["pid"]
    children = [pid for pid in processes_of(folder.path) if pid != supervisor]
    assert len(children) == 3
    assert not [pid for pid in children if TOKEN.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    checked = folder.muleteer("check", "nosy.py:Nosy", MULETEER_ADMIN_TOKEN=TOKEN)
    assert checked.returncode == 0
    assert "MULETEER_ADMIN_TOKEN" not in checked.stdout


def test_an_admin_port_without_a_token_is_refused(folder):
    (folder.path / "muleteer.yaml").write_text("server:\n  admin_port: 0\n")
    for arguments in (("--empty", "--admin-port", "0"), ("-c", "muleteer.yaml")):
        done = folder.muleteer("serve", *arguments, "--port", "0")
        assert (done.returncode, done.stdout) == (2, "")
        assert "--admin-port needs a token: set MULETEER_ADMIN_TOKEN" in done.stderr
    assert nothing_left(folder)


def test_reload_replaces_the_model_without_a_failed_request(folder, detached):
    model = folder.path / "changing.py"
    source = "class Changing:\n    def predict(self, text: str):\n        return 'VERSION'\n"
    model.write_text(source.replace("VERSION", "one"))
    url = re.search(r"http://[\d.:]+/predict", detached("changing.py:Changing", "--reload").stdout)[0]
    assert post(url, {"text": "x"}) == (200, "one")
    seen = []

    def answer():
        status, value = post(url, {"text": "x"})
        assert status == 200, value
        seen.append(value)
        return value

    answer()
    model.write_text(source.replace("VERSION", "two"))
    until(lambda: answer() == "two", "the new version")
    assert set(seen) == {"one", "two"}
    assert "supervisor |" in folder.muleteer("logs", "supervisor").stdout
    until(lambda: "changing.py" in folder.muleteer("logs", "supervisor").stdout, "the line that says so")

    model.write_text("class Changing\n")  # does not parse: the old one goes on
    until(
        lambda: "SyntaxError" in folder.muleteer("status").stdout + folder.muleteer("logs", "supervisor").stdout,
        "the failed change",
    )
    assert answer() == "two"

    model.write_text(source.replace("VERSION", "three"))
    until(lambda: answer() == "three", "the mended version")


def test_with_reload_a_model_that_is_broken_at_the_start_is_served_once_it_is_mended(folder, serve):
    model = folder.path / "late.py"
    model.write_text("import nonexistent_package\nclass Late: ...\n")
    server = serve("late.py:Late", "--reload")
    server.wait_for("a change of its file is tried at once")
    model.write_text("class Late:\n    def predict(self, text: str):\n        return 'mended'\n")
    server.wait_for("^In another shell: ")
    (curl,) = [line for line in server.lines if line.strip().startswith("curl")]
    assert post(shlex.split(curl)[-1], {"text": "x"}) == (200, "mended")
    assert server.end(signal.SIGTERM) == 0


def test_ctrl_c_while_a_detached_server_starts_gives_it_up(folder):
    (folder.path / "slow.py").write_text(
        "import time\nclass Slow:\n    def __init__(self): time.sleep(600)\n    def predict(self): ...\n"
    )
    process = subprocess.Popen(
        [*MULETEER, "serve", "-d", "slow.py:Slow", "--run-dir", folder.run_dir, "--port", "0"],
        cwd=folder.path,
        env=environment(**folder.environment()),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process.stdout:
        until(lambda: "took" in process.stdout.readline(), "the first stage")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=DEADLINE_S) == 130
    assert nothing_left(folder)


def test_a_full_run_directory_is_one_clear_line(folder):
    folder.run_dir.mkdir(mode=0o700)
    (folder.run_dir / "declared.tmp").mkdir()  # in the way
    done = folder.muleteer("serve", "fancy_model.py:FancyModel", "--port", "0")
    assert done.returncode == 2
    assert done.stderr == f"muleteer: cannot write to the run directory {folder.run_dir}: Is a directory\n"
    assert nothing_left(folder)
