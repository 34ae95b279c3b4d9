"""What `muleteer rollout` sends and shows, without a server; and the live view on a terminal, with one that answers."""

import io
import json
import os
import pty
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer

import pytest

from muleteer.cli.output import Paint
from muleteer.cli.rollout import _parse, read_policy, render
from tests.cli.command import MULETEER, environment

VIEW = {
    "endpoint": "fancy",
    "old": "lr:v1",
    "new": "lr:v2",
    "phase": "stepping",
    "ended": False,
    "reason": "at 10 %: 48 s left, 120 of 200 requests of lr:v2",
    "share": 10.0,
    "step": 2,
    "steps": [1, 10, 50, 100],
    "waited_s": 12.3,
    "interval_s": 60.0,
    "min_requests": 200,
    "windows": {
        "lr:v1": {"requests": 1080, "errors": 1, "p50_s": 0.0051, "p99_s": 0.0123},
        "lr:v2": {"requests": 120, "errors": 0, "p50_s": None, "p99_s": None},
    },
}


def test_where_a_rollout_is():
    assert (
        render(VIEW, Paint(io.StringIO()))
        == """\
fancy: lr:v1 → lr:v2  stepping
████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░ 10 %  step 2 of 4  12 of at least 60 s
VERSION  REQUESTS  ERRORS  P50     P99
lr:v1    1080      1       5.1 ms  12.3 ms
lr:v2    120       0       -       -
at 10 %: 48 s left, 120 of 200 requests of lr:v2"""
    )


def test_what_was_given_up_has_no_share():
    lines = render({**VIEW, "phase": "rolled_back", "ended": True}, Paint(io.StringIO())).splitlines()
    assert lines[:2] == ["fancy: lr:v1 → lr:v2  rolled_back", "░" * 40 + " 0 %  step 2 of 4"]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ("e --to b", {"to": "b"}),
        (
            (
                "e --to b --steps 1,10,50%,100 --interval 2min --max-error-increase 0.5% --max-p99-ratio 1.5 "
                "--min-requests 50 --shadow-first"
            ),
            {
                "to": "b",
                "steps": [1, 10, 50, 100],
                "interval_s": 120,
                "max_error_increase": 0.005,
                "max_p99_ratio": 1.5,
                "min_requests": 50,
                "shadow_first": True,
            },
        ),
    ],
)
def test_only_what_was_given_is_sent(arguments, body):
    assert read_policy(_parse(arguments.split())) == body


class Answers(BaseHTTPRequestHandler):
    """An admin API that has one rollout, two looks before its end."""

    views = []

    def do_GET(self):
        view = self.views.pop(0)
        body = json.dumps(view).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return ""

    def log_message(self, *_):
        pass


def test_on_a_terminal_it_is_redrawn_until_it_has_ended(folder):
    folder.run_dir.mkdir()
    Answers.views = [VIEW, {**VIEW, "share": 50.0}, {**VIEW, "share": 100.0, "phase": "completed", "ended": True}]
    ours, theirs = pty.openpty()
    with ThreadingUnixStreamServer(str(folder.run_dir / "admin.sock"), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        process = subprocess.Popen(
            [*MULETEER, "rollout", "fancy", "--watch"],
            env=environment(**folder.environment(), TERM="xterm"),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
        )
        os.close(theirs)
        try:
            assert process.wait(timeout=60) == 0
        finally:
            server.shutdown()
    text = b""
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:  # the terminal has no other end any more
            break
    os.close(ours)
    drawings = text.decode().replace("\r\n", "\n").split("\x1b[6F\x1b[J")
    assert [drawing.splitlines()[1].split(" ")[1] for drawing in drawings] == ["10", "50", "100"]
    assert all(len(drawing.splitlines()) == 6 for drawing in drawings)
