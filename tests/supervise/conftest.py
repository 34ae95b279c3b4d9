"""A real supervisor with real children, watched through its events; and the test itself in the controller's place."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest

from muleteer.supervise.process import ProcessSpec
from muleteer.wire.lines import LineDecoder, encode_line
from tests.waiting import until

CHILDREN = Path(__file__).parent / "children"
PATIENCE_S = 30.0


def child(id, *words, **fields):
    """The spec of a child that does what `words` say (children/child.py)."""
    return ProcessSpec(id=id, argv=(sys.executable, "-S", str(CHILDREN / "child.py"), *words), **fields)


def alive(pid):
    """Whether `pid` runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class Tree:
    """One supervisor. `events` holds all that it told so far."""

    def __init__(self, run_dir, processes, **order):
        self.run_dir = run_dir
        order = {"run_dir": str(run_dir), "processes": processes, **order}
        self.process = subprocess.Popen(
            [sys.executable, str(CHILDREN / "host.py"), msgspec.json.encode(order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.events = []
        self._news = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._next = 0

    def _read(self):
        for line in self.process.stdout:
            self._news.put(json.loads(line))
        self._news.put(None)

    def wait(self, event, id=None, patience_s=PATIENCE_S, **fields):
        """The next event of this kind, after the last one that was waited for."""
        deadline = time.monotonic() + patience_s
        wanted = {"event": event, **({} if id is None else {"id": id}), **fields}
        while True:
            while self._next < len(self.events):
                found = self.events[self._next]
                self._next += 1
                if wanted.items() <= found.items():
                    return found
            try:
                news = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                news = None
            assert news is not None, f"no {wanted} in {self.events[-20:]}"
            self.events.append(news)

    def told(self):
        """All events so far."""
        while not self._news.empty() and (news := self._news.get()) is not None:
            self.events.append(news)
        return self.events

    def wait_ready(self, count):
        """Until so many processes have said that they are ready."""
        until(lambda: sum(event["event"] == "Ready" for event in self.told()) >= count, f"{count} ready")

    def count(self, event, id):
        return sum(found["event"] == event and found.get("id") == id for found in self.told())

    def end(self, patience_s=PATIENCE_S):
        """The exit status, once it ended; all events are in `events` then."""
        status = self.process.wait(patience_s)
        self._reader.join()
        self.told()
        return status

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()


def abort(started, controller, id, hang):
    """Abort process `id` as hung, once `hang(pid)` has made it so: (pid, last exit).

    A process that stands still for half a second for want of time is killed before its stacks are out. Not each of
    three lives does, one after the other.
    """
    for _ in range(3):
        pid = controller.hear("process", id, "ready")["process"]["pid"]
        hang(pid)
        controller.say(type="abort", process=id, pid=pid + 1, reason="another life: nothing happens")
        controller.say(type="abort", process=id, pid=pid, reason="hung")
        last_exit = started.wait("Exited", id)["last_exit"]
        assert last_exit["reason"] == "hung"
        if last_exit["signal"] == "SIGABRT":
            break
    return pid, last_exit


class Controller:
    """The test in the controller's place: its control channel, bridged by a child (word `bridge`)."""

    def __init__(self, path):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)
        self.spec = child("controller", f"bridge:{path}", stop_rank=9)
        self._peer = None

    def accept(self):
        """A new life of the controller begins."""
        if self._peer is not None:
            self._peer.close()
        self._peer = self._listener.accept()[0]
        self._peer.settimeout(PATIENCE_S)
        self._decoder = LineDecoder()
        self._received = []

    def say(self, **message):
        self._peer.sendall(encode_line(message))

    def hear(self, type, id=None, state=None):
        """The next message of this kind."""
        while True:
            while self._received:
                message = self._received.pop(0)
                if message["type"] != type:
                    continue
                if id is not None and message["process"]["id"] != id:
                    continue
                if state is None or message["process"]["state"] == state:
                    return message
            data = self._peer.recv(65536)
            assert data, f"the channel ended before {type} {id} {state}"
            self._received += self._decoder.feed(data)

    def close(self):
        if self._peer is not None:
            self._peer.close()
        self._listener.close()


@pytest.fixture
def place():
    """A short private directory: socket paths are limited to 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="mule-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tree(place):
    """Start a supervisor over the given specs; everything is killed after the test."""
    trees = []

    def start(*processes, run_dir=None, **order):
        trees.append(Tree(run_dir or place / "run", processes, **order))
        return trees[-1]

    yield start
    for started in trees:
        started.close()


@pytest.fixture
def controller(place):
    """The test as the controller; its `spec` is to be given to the tree."""
    bridge = Controller(str(place / "bridge.sock"))
    yield bridge
    bridge.close()


@pytest.fixture
def make():
    """`child(id, *words, **fields)`, `until`, `alive` and `abort`, for test modules (which cannot import this one)."""

    class Make:
        child = staticmethod(child)
        builtins = staticmethod(msgspec.to_builtins)
        until = staticmethod(until)
        alive = staticmethod(alive)
        abort = staticmethod(abort)

    return Make


def pytest_configure():
    os.environ.pop("MULETEER_FDS", None)
