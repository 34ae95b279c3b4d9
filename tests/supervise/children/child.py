"""A child that does what its arguments say, word by word, and speaks the control protocol. Standard library only."""

import contextlib
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

FDS = json.loads(os.environ["MULETEER_FDS"])
control = socket.socket(fileno=FDS["control"])


def say(**message):
    control.sendall(json.dumps(message).encode() + b"\n")


def bridge(path):
    """Let the test play our part of the control channel."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)

    def copy(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        os._exit(0)

    threading.Thread(target=copy, args=(control, peer)).start()
    copy(peer, control)


def serve(name):
    listener = socket.socket(fileno=FDS[name])
    while True:
        with listener.accept()[0] as peer:
            if peer.recv(100) == b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            peer.sendall(str(os.getpid()).encode())


def drain(seconds):
    def on_term(*_):
        time.sleep(float(seconds))
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)


def drain_until(path):
    def on_term(*_):
        when(path)
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)


def deaf():
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def spin():
    while True:
        pass


def endless():
    while True:
        control.sendall(b"x" * 65536)


def flood():
    block = b"x" * 79 + b"\n"
    while True:
        os.write(1, block * 512)


held = []


def hold(size):
    """So many MB of memory, touched."""
    held.append(b"x" * (int(size) * 1000 * 1000))


def when(path):
    """Go on once there is such a file."""
    while not Path(path).exists():
        time.sleep(0.01)


def grow():
    while True:
        hold(1)


def first_lives(count, path):
    """Exit 7 in the first `count` lives."""
    with Path(path).open("ab") as lives:
        lives.write(b".")
    if Path(path).stat().st_size <= int(count):
        print("not in this life", flush=True)
        os._exit(7)


def descriptors():
    found = {}
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found[link.name] = str(link.readlink())
    about = {"sid": os.getsid(0), "cwd": str(Path.cwd()), "env": dict(os.environ)}
    say(type="ready", info={"fds": found, "named": FDS, **about})


def grandchild(new_session):
    grand = subprocess.Popen(
        ["sleep", "1000"], start_new_session=new_session == "own", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    say(type="notice", text=f"grandchild {grand.pid}")


WORDS = {
    "ready": lambda *info: say(type="ready", info=json.loads(":".join(info) or "{}")),
    "stage": lambda name: say(type="stage", stage=name, seconds=0.25),
    "fail": lambda reason, message: say(type="failed", reason=reason, message=message),
    "notice": lambda text: say(type="notice", text=text),
    "raw": lambda *text: control.sendall(":".join(text).encode() + b"\n"),
    "big_ready": lambda size: say(type="ready", info={"x": "x" * int(size)}),
    "print": lambda *text: print(":".join(text), flush=True),
    "stderr": lambda *text: print(":".join(text), file=sys.stderr, flush=True),
    "exit": lambda code: os._exit(int(code)),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "wait": lambda: control.recv(1 << 20) and WORDS["wait"](),
    "sleep": lambda: time.sleep(1000),
    "close": lambda: control.close(),
    "faulthandler": faulthandler.enable,
    "drain": drain,
    "drain_until": drain_until,
    "deaf": deaf,
    "spin": spin,
    "endless": endless,
    "flood": flood,
    "flood_some": lambda size: os.write(1, (b"x" * 79 + b"\n") * (int(size) // 80)),
    "serve": serve,
    "bridge": bridge,
    "first_lives": first_lives,
    "hold": hold,
    "grow": grow,
    "when": when,
    "descriptors": descriptors,
    "grandchild": grandchild,
}

for word in sys.argv[1:]:
    name, *arguments = word.split(":")
    WORDS[name](*arguments)
