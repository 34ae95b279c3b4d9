"""Real replicas for tests: the supervisor's end of the control channel, and a gateway's end of a link."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from muleteer.wire.connection import Connection, Role
from muleteer.wire.frames import Flag, FrameType, join_payload, split_payload
from muleteer.wire.lines import LineDecoder
from tests.waiting import until

DEADLINE_S = 40.0  # generous: it only ends a test that has failed
PAYLOAD_MAX = 64 * 1024 * 1024


class Link:
    """The gateway's end of one link, blocking, with every frame kept that arrived.

    Attributes:
        service_s: of each outcome so far, by id.
    """

    def __init__(self, address, seal=lambda channel: channel):
        channel = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        channel.settimeout(DEADLINE_S)
        channel.connect(address)
        self.channel = seal(channel)
        self.connection = Connection(Role.GATEWAY, payload_max=PAYLOAD_MAX)
        self.frames = []
        self.service_s = {}
        self.ids = 0

    def send(self, kind, **fields):
        self.channel.sendall(self.connection.send(kind, **fields))

    def greet(self):
        self.send(FrameType.HELLO, payload=b'{"protocol":1,"gateway":"gateway-0"}')
        return json.loads(self.wait_for(lambda frame: frame.type is FrameType.READY).payload)

    def call_bytes(self, value, *, budget_ms=10_000, raw=None, flags=0):
        self.ids += 1
        body = json.dumps(value).encode() if raw is None else raw
        payload = join_payload(json.dumps({"id": f"r{self.ids}"}).encode(), body)
        data = self.connection.send(FrameType.CALL, id=self.ids, budget=budget_ms, flags=flags, payload=payload)
        return self.ids, data

    def call(self, value, **how):
        id, data = self.call_bytes(value, **how)
        self.channel.sendall(data)
        return id

    def batch(self, *bodies, budgets_ms=None):
        """Send one batch of raw bodies; returns their ids."""
        ids, whole = [], b""
        for place, body in enumerate(bodies):
            more = Flag.MORE if place < len(bodies) - 1 else 0
            budget_ms = 10_000 if budgets_ms is None else budgets_ms[place]
            id, data = self.call_bytes(None, raw=body, flags=more, budget_ms=budget_ms)
            ids.append(id)
            whole += data
        self.channel.sendall(whole)
        return ids

    def outcomes(self, ids):
        """For each id: its value, or the code of its error."""
        found = []
        for id in ids:
            value, error = self.outcome(id)
            found.append(value if error is None else error["code"])
        return found

    def cancel(self, id):
        self.send(FrameType.CANCEL, id=id)

    def read(self):
        """One read. False at the end of the stream."""
        data = self.channel.recv(65536)
        if data:
            self.frames += self.connection.receive(data)
        return bool(data)

    def wait_for(self, wanted):
        """The first frame, of all that arrived, that `wanted` accepts; it is taken out."""
        while True:
            for frame in self.frames:
                if wanted(frame):
                    self.frames.remove(frame)
                    return frame
            assert self.read(), f"the link ended; left over: {self.frames}"

    def outcome(self, id):
        """(value, None) of a REPLY, (None, payload) of an ERROR."""
        frame = self.wait_for(lambda frame: frame.id == id)
        self.service_s[id] = frame.budget / 1e6
        if frame.type is FrameType.REPLY:
            return json.loads(split_payload(frame.payload)[1]), None
        assert frame.type is FrameType.ERROR
        return None, json.loads(frame.payload)

    def ask(self, value=None, **how):
        return self.outcome(self.call(value, **how))

    def wait_for_end(self):
        while self.read():
            pass

    def close(self):
        self.channel.close()


class Replica:
    """A running `python -m muleteer.replica`."""

    def __init__(self, folder, target, *, env=None, tcp=False, **config):
        self.folder = folder
        self.sockets = tempfile.mkdtemp(prefix="mt-")  # a short path: they end at 107 bytes
        self.listener = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self.listener.bind(("127.0.0.1", 0) if tcp else f"{self.sockets}/s")
        self.listener.listen(128)
        self.address = self.listener.getsockname()
        self.control, theirs = socket.socketpair()
        self.control.settimeout(DEADLINE_S)
        self.messages = []
        self.lines = LineDecoder()
        self.stderr_path = Path(self.sockets, "stderr")
        settings = {"backend": "m", "replica": "m-0", "target": target, "base_dir": str(folder), **config}
        numbers = {"control": theirs.fileno(), "link": self.listener.fileno()}
        with theirs, self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "muleteer.replica", json.dumps(settings)],
                env={**os.environ, **(env or {}), "MULETEER_FDS": json.dumps(numbers)},
                pass_fds=list(numbers.values()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd="/",
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.process.pid

    def wait_message(self, kind):
        """The first control message of a type; it stays in `messages`."""
        while True:
            for message in self.messages:
                if message["type"] == kind:
                    return message
            data = self.control.recv(65536)
            assert data, f"the replica ended without {kind!r}: {self.messages}\n{self.stderr()}"
            self.messages += self.lines.feed(data)

    def wait_ready(self):
        return self.wait_message("ready")["info"]

    def link(self):
        link = Link(self.address)
        link.greet()
        return link

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def wait_stderr(self, text):
        until(lambda: text in self.stderr(), self.stderr)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self):
        return self.process.wait(DEADLINE_S)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.control.close()
        self.listener.close()
        with contextlib.suppress(OSError):
            for path in Path(self.sockets).iterdir():
                path.unlink()
            Path(self.sockets).rmdir()


def as_coroutine(source):
    """The same model with a coroutine for each method that is called, so that several calls run at once."""
    source = source.replace("def predict", "async def predict").replace("time.sleep", "await asyncio.sleep")
    return f"import asyncio\n{source}"
