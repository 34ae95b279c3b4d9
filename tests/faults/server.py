"""A server of the real command line with the model under fault, and what is asked of it when it is quiet again."""

import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

from bench.server import Server, wait_until
from muleteer.supervise.rundir import read_lock
from tests.faults.load import Background, Ledger, executions_of

EXPECTED = "6ms"
"""Declared, so that admission knows it from the first request: a cold server lets only one call a slot wait."""
MODEL = Path(__file__).with_name("model.py")


class Rig(Server):
    """`muleteer serve model.py:Mule` in a folder of its own.

    Attributes:
        source: a patched copy of src to run instead of ours; the tests of the harness plant bugs there.
    """

    source = None

    def __init__(self, folder, *arguments, replicas=4, targets=("model.py:Mule",), **more):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        for target in targets:
            file = self.folder / target.partition(":")[0]
            file.parent.mkdir(exist_ok=True)
            shutil.copy(MODEL, file)
        env = {"PYTHONPATH": str(self.source)} if self.source else None
        super().__init__(
            self.folder, *targets, *arguments, "--replicas", str(replicas), "--expected", EXPECTED, env=env, **more
        )
        self.replicas = replicas
        self.at_most_once = "--no-idempotent" in arguments

    def load(self, size, rate, seconds, **more):
        more = {"deadline_s": size.deadline_s, "patient": size.patient} | more
        return Background(self.port, rate=rate, seconds=seconds, **more)

    def ledger(self, *loads):
        """The accounts of these loads, which end first."""
        loads = [load.finish() if isinstance(load, Background) else load for load in loads]
        return Ledger(
            [record for load in loads for record in load.records],
            self.executions(),
            sum(load.stray_bytes for load in loads),
            self.at_most_once,
        )

    def executions(self):
        file = self.folder / "ledger"
        return executions_of(file.read_text() if file.exists() else "")

    def backend(self, name="Mule"):
        """One backend as the gateway sees it."""
        return self.statistics()["backends"][name]

    def ready_pids(self, name="Mule"):
        """Pids of the replicas that the gateway has a ready link to."""
        try:
            replicas = self.backend(name)["replicas"].values()
        except (OSError, KeyError):
            return set()
        return {replica["pid"] for replica in replicas if replica["state"] == "ready"}

    def wait_replicas(self, count=None, *, without=(), seconds=60.0, name="Mule"):
        """Seconds until `count` replicas are ready and none of them has a pid of `without`."""
        count = self.replicas if count is None else count
        return wait_until(
            lambda: len(self.ready_pids(name)) == count and not self.ready_pids(name) & set(without),
            f"{count} ready replicas of {name}",
            seconds=seconds,
        )

    def lock_held(self):
        """Whether a live supervisor holds the run directory."""
        return read_lock(self.run_dir) is not None

    def debts(self, *, seconds=20.0):
        """What a quiet server still counts as open, after at most `seconds`: nothing, if the accounts are in order."""
        try:
            wait_until(lambda: not self._open(), "quiet", seconds=seconds)
        except TimeoutError:
            return self._open()
        return []

    def _open(self):
        found, statistics = [], self.statistics()
        http = statistics["http"]
        settled = sum(http["by_status"].values()) + http["client_gone"]
        if http["received"] != settled:
            found.append(f"received {http['received']} is not the {settled} outcomes")
        for name, backend in statistics["backends"].items():
            open_now = {
                "depth": backend["queue"]["depth"],
                "bytes": backend["queue"]["bytes"],
                "reading": backend["queue"]["reading"],
                "open_calls": backend["open_calls"],
                "retrying": backend["retrying"],
                "in_flight": sum(replica["in_flight"] for replica in backend["replicas"].values()),
            }
            found += [f"{name}: {key} {value}" for key, value in open_now.items() if value]
        return found


def becomes(condition, seconds=20.0):
    """Whether it is true, at once or soon: what one process has seen another may not have heard of yet."""
    try:
        wait_until(condition, "", seconds=seconds)
    except TimeoutError:
        return False
    return True


def log_of(rig, process):
    """What a process wrote."""
    file = rig.run_dir / "logs" / f"{process}.log"
    return file.read_text(errors="replace") if file.exists() else ""


@contextmanager
def raw(rig, data=b""):
    """A bare connection to the port."""
    with socket.create_connection(("127.0.0.1", rig.port), 10) as link:
        link.sendall(data)
        yield link


def request_bytes(payload, *, headers=""):
    """One POST as bytes."""
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n{headers}\r\n"
    return head.encode() + payload
