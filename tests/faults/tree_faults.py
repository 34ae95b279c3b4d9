"""Faults of the process tree: controller, gateway, supervisor, everything; starts, stops, and a machine that runs out."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from bench import measure
from bench.load import quantile
from bench.server import COMMAND, wait_until
from tests.faults.load import ask, error_of
from tests.faults.report import SkipFault
from tests.faults.server import Rig, becomes, raw, request_bytes


def controller_killed(folder, size, report):
    """SIGKILL of the controller under load."""
    with Rig(folder) as rig:
        rig.wait_replicas()
        replicas = rig.pids("replica")
        load = rig.load(size, size.rate, size.seconds)
        for _ in range(max(1, size.times // 3)):
            (pid,) = rig.pids("controller")
            rig.kill(pid)
            begun = time.monotonic()
            wait_until(lambda old=pid: rig.pids("controller") not in ([], [old]), "another controller", seconds=60)
            wait_until(lambda: answers(rig), "the admin API", seconds=60)
            report.expect_within("back", time.monotonic() - begun, 5.0, size)
        report.expect_accounts(rig.ledger(load), rig)
        report.expect("same replica pids", rig.pids("replica") == replicas, rig.pids("replica"))
        report.expect("it adopted them", becomes(lambda: states(rig) == ["ready"] * 4), states(rig))


def states(rig):
    return [replica["state"] for backend in rig.status()["backends"] for replica in backend["replicas"]]


def answers(rig):
    """Whether the controller tells its status."""
    try:
        return rig.status()["backends"][0]["state"] == "ready"
    except Exception:
        return False


def gateway_killed(folder, size, report):
    """SIGKILL of the gateway under load."""
    with Rig(folder) as rig:
        rig.wait_replicas()
        replicas = rig.pids("replica")
        load = rig.load(size, size.rate, size.seconds + 1)
        wait_until(lambda: load.answers(50), "some answers")
        (pid,) = rig.pids("gateway")
        begun = time.monotonic()
        rig.kill(pid)
        with raw(rig, request_bytes(b'{"nonce": 1}')) as link:  # the port is bound: this waits in the backlog
            link.settimeout(60)
            head = link.recv(4096)
        report.expect("the port stays bound: who waits is answered", head.startswith(b"HTTP/1.1 "), head[:60])
        wait_until(lambda: ask(rig.port).status == 200, "serving again", seconds=60)
        took = time.monotonic() - begun
        report.expect_within("serving again", took, 2.0, size)
        ledger = rig.ledger(load)
        lies = ledger.lies()
        report.expect("0 crossed, double or malformed answers", not lies, lies[:3])
        broken = [record for record in ledger.records if record.status != 200]
        late = [r for r in broken if r.sent > begun + took or r.done < begun]
        report.expect("only its own connections break", not late, ledger.codes())
        report.expect("the new one has its replicas before it accepts", not ledger.codes()["loading"], ledger.codes())
        report.expect("nobody is refused a connection", not ledger.unreceived, ledger.codes())
        report.expect("same replica pids", rig.pids("replica") == replicas)
        debts = rig.debts()
        report.expect("nothing stays open", not debts, debts)
        rig.wait_replicas()
        after = rig.ledger(rig.load(size, size.rate, 1.0))
        report.expect_accounts(after, rig)
        used = {pid for record in after.ok for pid in after.executions[record.nonce].finished}
        report.expect("no slot leaked: all replicas work", used == set(replicas), used)


def supervisor_killed(folder, size, report):
    """SIGKILL of the supervisor; then a start in the same place."""
    killed(folder, size, report, lambda rig: [rig.pid])


def everything_killed(folder, size, report):
    """SIGKILL of everything at once; then a start in the same place."""
    killed(folder, size, report, lambda rig: [process.pid for process in rig.tree()])


def killed(folder, size, report, victims):
    """Kill under load; nothing lives on; the next start needs no cleaning."""
    with Rig(folder) as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate, 1.5)
        wait_until(lambda: load.answers(50), "some answers")
        rig.tree()
        rig.kill(*victims(rig))
        begun = time.monotonic()
        wait_until(lambda: not rig.orphans(), "no orphans", seconds=60)
        report.expect_within("no process lives", time.monotonic() - begun, 5.0, size)
        load.finish()
        rig.start()
        rig.wait_replicas()
        report.expect_accounts(rig.ledger(rig.load(size, size.rate, 0.5)), rig)


def started_twice(folder, size, report):
    """A second start in the same run directory, and one on the same port."""
    with Rig(folder) as rig:
        begun = time.monotonic()
        again = rig.command(*rig.serve_arguments(), "--detach")
        took = time.monotonic() - begun
        report.expect("exit 4, one line naming the pid", again.returncode == 4 and str(rig.pid) in again.stderr, again)
        report.expect("one line", len(again.stderr.strip().splitlines()) == 1, again.stderr)
        report.expect_within("refused", took, 1.0, size)
        other = Rig(folder / "b", port=rig.port)
        begun = time.monotonic()
        busy = other.command(*other.serve_arguments(), "--detach")
        took = time.monotonic() - begun
        report.expect("exit 3, naming the port", busy.returncode == 3 and str(rig.port) in busy.stderr, busy.stderr)
        report.expect(
            "says who", str(rig.pid) in busy.stderr or "muleteer" in busy.stderr.partition(":")[2], busy.stderr
        )
        report.expect_within("refused", took, 1.0, size)
        report.expect("nothing left running", not other.orphans(), other.orphans())
        report.expect_accounts(rig.ledger(rig.load(size, 50, 0.5)), rig)


def stale_sockets(folder, size, report):
    """Files of a dead server, and strangers' files under their names."""
    rig = Rig(folder)
    sockets = rig.run_dir / "sockets"
    sockets.mkdir(parents=True, mode=0o700)
    rig.run_dir.chmod(0o700)
    for path in (
        rig.run_dir / "admin.sock",
        rig.run_dir / "gateway-0.sock",
        *(sockets / f"{n}.sock" for n in range(5)),
    ):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    (rig.run_dir / "lock").write_text('{"pid": 1, "host": "127.0.0.1", "port": 1}')
    (rig.run_dir / "snapshot.json").write_text('{"revision": 7, "torn')
    with rig:
        rig.wait_replicas()
        report.expect("cleaned up under the lock", rig.ready())
        report.expect_accounts(rig.ledger(rig.load(size, 50, 0.5)), rig)


def terminated(folder, size, report):
    """SIGTERM to the supervisor under load, with a drain delay."""
    delay_s = 4.0 if size.slack > 1 else 0.5
    with Rig(folder, "--drain-delay", f"{delay_s * 1000:g}ms") as rig:
        rig.wait_replicas()
        rig.tree()
        found = []
        load = rig.load(size, size.rate, 2.0)
        wait_until(lambda: load.answers(50), "some answers")
        begun = time.monotonic()
        rig.kill(rig.pid, number=signal.SIGTERM)
        took = wait_until(lambda: found.append(rig.probe("/readyz")) or found[-1] in (0, 503), "not ready")
        report.expect("not ready at once, and still accepting", found[-1] == 503, found[-1])
        report.expect_within("SIGTERM → 503 on /readyz", took, 0.1, size)
        wait_until(lambda: not rig.lock_held(), "the lock is free", seconds=60)
        report.expect_within("drain delay + what was in flight", time.monotonic() - begun, 1.5, size)
        ledger = rig.ledger(load)
        lies = ledger.lies()
        report.expect("0 crossed, double or malformed answers", not lies, lies[:3])
        lost = [record for record in ledger.records if record.failure and ledger.executions[record.nonce].started]
        report.expect("what was begun is answered", not lost, [(r.failure, r.nonce) for r in lost[:5]])
        during = [
            r
            for r in ledger.records
            if r.status != 200 and max(r.due, r.sent) < begun + delay_s - (3.0 if size.slack > 1 else 0.1)
        ]
        report.expect("accepted for the whole delay, what may be late excepted", not during, ledger.codes())
        codes = set(ledger.codes()) - {"draining", "connect", "reset"}
        report.expect("the rest is refused as draining, or finds no port", not codes, ledger.codes())
        wait_until(lambda: not rig.orphans(), "no orphans")
        log = (rig.run_dir / "logs" / "supervisor.log").read_text()
        report.expect("an orderly end", log.rstrip().endswith("stopped"), log[-200:])


def terminated_twice(folder, size, report):
    """A second signal while a call runs for long; in the foreground, so that the exit status is seen."""
    rig = Rig(folder, replicas=1)
    command = [str(COMMAND), *rig.serve_arguments(), "--run-dir", str(rig.run_dir)]
    process = subprocess.Popen(command, cwd=rig.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        rig.find()
        wait_until(rig.ready, "ready", seconds=60)
        with raw(rig, request_bytes(b'{"nonce": 5, "do": "sleep", "amount": 60}')):
            wait_until(lambda: rig.executions()[5].started, "the call runs")
            rig.tree()
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: rig.probe("/readyz") != 200, "not ready")
            report.expect("it waits for what runs", process.poll() is None)
            time.sleep(0.3)  # two signals within 0.2 s count as one
            process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            process.wait(30)
        report.expect_within("second signal → end", time.monotonic() - begun, 2.0, size)
        report.expect("exit 1: cut short", process.returncode == 1, process.returncode)
        wait_until(lambda: not rig.orphans(), "no orphans")
    finally:
        process.kill()
        process.wait()
        rig.close()


def disk_full(folder, size, report):
    """A run directory on a full disk. Needs the right to mount."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise SkipFault("a small disk cannot be mounted here")
    try:
        with Rig(folder, "--reload", run_dir=disk / "run") as rig:
            rig.wait_replicas()
            with contextlib.suppress(OSError):
                (disk / "filler").write_bytes(bytes(4 * 2**20))
            report.expect("the disk is full", shutil.disk_usage(disk).free < 4096, shutil.disk_usage(disk).free)
            load = rig.load(size, size.rate, size.seconds)
            rig.kill(pid := min(rig.ready_pids()))
            rig.wait_replicas(without=[pid])
            (controller,) = rig.pids("controller")
            rig.kill(controller)
            wait_until(lambda: answers(rig), "the admin API", seconds=20)
            report.expect_accounts(rig.ledger(load), rig)
            (gateway,) = rig.pids("gateway")
            rig.kill(gateway)
            wait_until(lambda: len(rig.ready_pids()) == 4, "the gateway finds all replicas", seconds=60)
            report.expect_accounts(rig.ledger(rig.load(size, size.rate, 0.5)), rig)
            stopped = rig.stop()
            report.expect("it can be stopped", stopped.returncode == 0, stopped.stderr)
        again = Rig(folder, run_dir=disk / "fresh")
        refused = again.command(*again.serve_arguments(), "--detach")
        wait_until(lambda: not again.orphans(), "nothing left running")
        one_line = len(refused.stderr.strip().splitlines()) == 1
        report.expect("a start on a full disk: exit ≠ 0, one line", refused.returncode > 0 and one_line, refused.stderr)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def descriptors_exhausted(folder, size, report):
    """More connections than file descriptors allow."""
    limit = 256
    rig, links = Rig(folder, replicas=1), []
    rig.prefix = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    try:
        rig.start()
        rig.wait_replicas()
        (gateway,) = rig.pids("gateway")
        for _ in range(2 * limit):
            link = socket.socket()
            link.settimeout(5)
            with contextlib.suppress(OSError):
                link.connect(("127.0.0.1", rig.port))
            links.append(link)
        begun, spent = time.monotonic(), measure.cpu_s([gateway])
        time.sleep(1.0)
        spent = (measure.cpu_s([gateway]) - spent) / (time.monotonic() - begun)
        report.expect("it does not spin", spent < 0.3, f"{spent:.2f} s of CPU a second")
        open_now = len(list(Path(f"/proc/{gateway}/fd").iterdir()))
        report.expect("a quarter of the descriptors stays free", open_now <= 0.75 * limit, f"{open_now} of {limit}")
        extra = ask(rig.port, deadline_s=2.0)
        refused = error_of(extra).get("code") == "connections" or extra.failure in ("reset", "timeout", "connect")
        report.expect("what is too many is refused", refused, (extra.status, extra.failure, extra.body))
        begun = time.monotonic()
        for link in links:
            link.close()
        wait_until(rig.ready, "ready again", seconds=60)
        report.expect_within("recovered", time.monotonic() - begun, 2.0, size)
        report.expect_accounts(rig.ledger(rig.load(size, 50, 0.5)), rig)
    finally:
        for link in links:
            link.close()
        rig.close()


def overload(folder, size, report):
    """Ten times what can be served."""
    with Rig(folder, replicas=2) as rig:
        rig.wait_replicas()
        (gateway,) = rig.pids("gateway")
        for _ in range(3 if size.slack > 1 else 1):
            # Programs that take the cores while one of two things is measured say nothing about the other: measure again.
            rss, flood = measure.memory(gateway).rss, Flood(rig, size)
            growth = (measure.memory(gateway).rss - rss) / 2**20
            refused = ("predicted_late", "queue_full", "expired_in_queue", "deadline", "connections")
            report.expect_accounts(flood.ledger, rig, allowed=refused, unreceived=("unsent", "connect"))
            clean_s = time.monotonic() - flood.ended
            if flood.kept(size):
                break
        least = 0.9 if size.slack == 1 else 0.5
        report.expect("goodput ≥ 0.9 of capacity", flood.share >= least, f"{flood.share:.2f}")
        report.expect_within("p99 of accepted, deadline 0.5 s", flood.accepted_s, Flood.DEADLINE_S, size)
        report.expect_within("p99 of refusals", flood.refused_s, 0.05, size)
        report.expect("health answers", all(status == 200 for _, status in flood.health), flood.health[:3])
        report.expect_within("health", flood.health_s, 0.1, size)
        report.expect("memory flat", growth < 64, f"{growth:.0f} MiB more")
        report.expect_within("clean after", clean_s, 5.0, size)
        report.expect_accounts(rig.ledger(rig.load(size, 100, 1.0)), rig)


class Flood:
    """Measures what can be served, then asks for ten times as much."""

    DEADLINE_S = 0.5

    def __init__(self, rig, size):
        full = rig.ledger(rig.load(size, 600, 2.0, deadline_s=2.0, patient=False))  # more than it can do
        begun = full.records[0].due
        capacity = len([r for r in full.ok if 0.5 < r.done - begun < 2.0]) / 1.5
        load = rig.load(size, 10 * capacity, 0, deadline_s=self.DEADLINE_S, connections_max=2000, patient=False)
        self.health = []
        while load.asked_s() < (4 * size.seconds if size.long else 4.0):
            begun = time.monotonic()
            alive = rig.probe("/livez")
            self.health.append((time.monotonic() - begun, alive))
            time.sleep(0.1)
        self.ended = time.monotonic()
        self.ledger = rig.ledger(load)
        start = self.ledger.records[0].due + 1
        window = [record for record in self.ledger.records if record.due >= start]
        took = [(record.status, record.done - record.sent) for record in window]
        good = sum(status == 200 and seconds <= self.DEADLINE_S + 0.05 for status, seconds in took)
        self.share = good / (window[-1].due - start) / capacity
        self.accepted_s = quantile([seconds for status, seconds in took if status in (200, 504)], 0.99)
        self.refused_s = quantile([seconds for status, seconds in took if status == 503], 0.99)
        self.health_s = max(seconds for seconds, _ in self.health)

    def kept(self, size):
        """Whether it went as well as promised."""
        times = self.accepted_s <= self.DEADLINE_S * size.slack and self.refused_s <= 0.05 * size.slack
        return self.share >= 0.5 and times and self.health_s <= 0.1 * size.slack


def greedy_client(folder, size, report):
    """One address asks for several times what can be served, another for a little."""
    with Rig(folder, replicas=2) as rig:
        rig.wait_replicas()
        greedy = rig.load(
            size, 1500, size.seconds + 2, deadline_s=2.0, connections_max=2000, source="127.0.0.2", patient=False
        )
        wait_until(lambda: rig.backend()["calls"]["refused"], "its queue is full")
        modest = rig.load(size, 20, size.seconds + 1)
        answered = rig.ledger(modest)
        ledger = rig.ledger(greedy)
        report.expect("the modest one is answered", not answered.failed, answered.codes())
        waits = [record.done - record.sent for record in answered.records]
        report.expect_within("and waits for its turns only, p90", quantile(waits, 0.9), 0.2, size)
        report.expect("the greedy one has the rest", len(ledger.ok) > len(answered.ok), ledger.codes())
        lies = answered.lies() + ledger.lies()
        report.expect("0 crossed, double or malformed answers", not lies, lies[:3])
        debts = rig.debts()
        report.expect("nothing is open in the end", not debts, debts)


FAULTS = [
    controller_killed,
    gateway_killed,
    supervisor_killed,
    everything_killed,
    started_twice,
    stale_sockets,
    terminated,
    terminated_twice,
    disk_full,
    descriptors_exhausted,
    overload,
    greedy_client,
]
