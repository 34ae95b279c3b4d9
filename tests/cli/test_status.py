"""`muleteer status`: the tables, and a controller that is away."""

import io
import threading
import time

import pytest

from muleteer.base.errors import NoAnswerError, NotRunningError
from muleteer.cli.output import Paint
from muleteer.cli.status import read_status, render
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.sockets import listen_unix

STATUS = {
    "pid": 4711,
    "engine": "local",
    "address": "http://127.0.0.1:8000",
    "endpoints": [
        {"name": "FancyModel", "route": "/predict", "traffic": {"FancyModel": 1.0}},
        {"name": "mixed", "route": "/mixed", "traffic": {"lr:v1": 90, "lr:v2": 10}},
    ],
    "backends": [
        {
            "name": "FancyModel",
            "state": "ready",
            "replicas": [
                {
                    "id": "FancyModel-1",
                    "pid": 11,
                    "state": "ready",
                    "in_flight": 1,
                    "restarts": 0,
                    "last_exit": None,
                    "rss_bytes": 25165824,
                },
                {
                    "id": "FancyModel-2",
                    "pid": 12,
                    "state": "ready",
                    "in_flight": 0,
                    "restarts": 3,
                    "last_exit": {"reason": "killed", "code": None, "signal": "SIGKILL"},
                    "rss_bytes": 25165824,
                    "measured_bytes": 7340032,
                },
            ],
            "queue": {"depth": 2, "bound": 40},
        },
        {
            "name": "lr:v1",
            "state": "failed",
            "replicas": [
                {
                    "id": "lr:v1-1",
                    "pid": None,
                    "state": "failed",
                    "in_flight": 0,
                    "restarts": 4,
                    "last_exit": {"reason": "exited", "code": 3, "signal": None, "log_tail": "boom\n\x1b[2Jbang\n"},
                }
            ],
            "queue": {"depth": 0, "bound": 0},
        },
        {
            "name": "lr:v2",
            "state": "loading",
            "replicas": [],
            "queue": {"depth": 0, "bound": 0},
            "reason": "import_error: x",
        },
    ],
    "processes": [
        {"id": "gateway-0", "pid": 9, "state": "ready", "restarts": 0, "last_exit": None},
        {
            "id": "controller",
            "pid": 8,
            "state": "ready",
            "restarts": 1,
            "last_exit": {"reason": "killed", "signal": "SIGKILL"},
        },
    ],
    "problems": {"snapshot.json": "cannot write snapshot.json: No space left on device"},
}


def test_tables():
    assert (
        render(STATUS, Paint(io.StringIO()))
        == """\
muleteer  pid 4711  http://127.0.0.1:8000  engine local

ROUTE     ENDPOINT    TRAFFIC
/predict  FancyModel  FancyModel 100%
/mixed    mixed       lr:v1 90%, lr:v2 10%

BACKEND     STATE    QUEUE  REPLICA       PID  STATE   IN FLIGHT  MEMORY  RESTARTS  LAST EXIT
FancyModel  ready    2/40   FancyModel-1  11   ready   1          24MiB   0         -
FancyModel  ready    2/40   FancyModel-2  12   ready   0          7MiB    3         killed (SIGKILL)
lr:v1       failed   0/0    lr:v1-1       -    failed  0          -       4         exited (3)
lr:v2       loading  0/0    -             -    -       -          -       -         -

PROCESS     PID  STATE  RESTARTS  LAST EXIT
gateway-0   9    ready  0         -
controller  8    ready  1         killed (SIGKILL)

lr:v1-1 is failed: exited (3)
  boom
  \\x1b[2Jbang

lr:v2: import_error: x

controller: cannot write snapshot.json: No space left on device"""
    )


def test_nobody_runs(folder):
    with pytest.raises(NotRunningError, match="start one with muleteer serve"):
        read_status(folder.run_dir)


@pytest.fixture
def locked(folder):
    directory = RunDirectory(folder.run_dir)
    directory.open()
    yield directory
    directory.close()


def test_it_waits_for_a_controller_that_is_being_restarted_and_says_so(locked, capsys):
    said = ""

    def come_back():
        nonlocal said
        give_up = time.monotonic() + 20
        while not said and time.monotonic() < give_up:  # it has not been there yet
            said += capsys.readouterr().err
            time.sleep(0.01)
        with listen_unix(str(locked.path / "admin.sock")) as listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"pid": 7}')

    thread = threading.Thread(target=come_back)
    thread.start()
    assert read_status(locked.path, patience_s=20) == {"pid": 7}
    thread.join()
    assert (
        said + capsys.readouterr().err
        == "the controller is being restarted; requests are served meanwhile; waiting for it …\n"
    )


def test_a_controller_that_does_not_come_back_is_named(locked):
    with pytest.raises(NoAnswerError, match=r"does not answer; muleteer logs controller"):
        read_status(locked.path, patience_s=0.2)


def test_an_error_of_the_admin_api_is_passed_on(locked):
    def refuse():
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b'HTTP/1.1 503 No\r\ncontent-length: 25\r\n\r\n{"error": "not just now"}\n')

    with listen_unix(str(locked.path / "admin.sock")) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(NoAnswerError, match="the controller refused: not just now"):
            read_status(locked.path)
        thread.join()
