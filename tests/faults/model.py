"""The model under fault: echoes its nonce after 5 ms, keeps a ledger of executions, and misbehaves when told to.

It is copied beside the ledger before it is served, so that a test may edit it. Each line of the ledger is one write
to a file opened with O_APPEND: `nonce pid start|end`. A file `broken` beside it makes the constructor raise.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "one"


def spin(seconds):
    """An endless loop in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def hold_gil(seconds):
    """C code that does not give the interpreter back."""
    ctypes.PyDLL(None).sleep(int(seconds))


def hold(_):
    """Until the file `go` is there."""
    while not (HERE / "go").exists():
        time.sleep(0.01)


def segfault(_):
    os.kill(os.getpid(), signal.SIGSEGV)


class Mule:
    example = {"nonce": 0}

    def __init__(self):
        if (HERE / "broken").exists():
            print("the last words of a broken model", file=sys.stderr)
            raise RuntimeError("told not to load")
        self._ledger = os.open(HERE / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._kept = []

    def predict(self, nonce: int, do: str = "", amount: float = 0.0):
        self._note(nonce, "start")
        if do and do != "pad":
            self._misbehave(do, amount)
        time.sleep(0.005)
        return self._answer(nonce, do, amount)

    def _answer(self, nonce, do, amount):
        self._note(nonce, "end")
        return {"nonce": nonce, "pid": os.getpid(), "version": VERSION, "pad": "x" * int(amount if do == "pad" else 0)}

    def _note(self, nonce, what):
        os.write(self._ledger, f"{nonce} {os.getpid()} {what}\n".encode())

    def _misbehave(self, do, amount):
        if do == "leak":
            self._kept.append(b"\x01" * int(amount))
        elif do == "raise":
            raise ValueError("told to raise")
        elif do == "exit":
            os._exit(int(amount))
        else:
            {"sleep": time.sleep, "spin": spin, "gil": hold_gil, "hold": hold, "segv": segfault}[do](amount)


class Herd(Mule):
    """The same in batches: 20 ms, however many."""

    def predict_batch(self, inputs):
        for one in inputs:
            self._note(one["nonce"], "start")
            if one["do"] and one["do"] != "pad":
                self._misbehave(one["do"], one["amount"])
        time.sleep(0.02)
        return [self._answer(**one) for one in inputs]
