"""Faults of replicas: killed, hung, leaking, never ready, crashed by their input, drained, reloaded."""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from bench.load import quantile
from bench.server import wait_until
from tests.faults.load import ask, error_of, nonces
from tests.faults.server import Rig, becomes, log_of


def kills(folder, size, report):
    """SIGKILL of replicas under load."""
    dice = random.Random(size.seed)
    with Rig(folder) as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate, size.seconds)
        back, _, struck = strike(rig, size, dice)
        ledger = rig.ledger(load)
        ledger.records += struck
        report.expect_accounts(ledger, rig)
        report.expect_within("replacement ready", max(back), 1.0, size)
        all_told = becomes(lambda: restarts(rig) == size.times)
        report.expect("each is restarted, none counts as a crash loop", all_told, f"{restarts(rig)} restarts")
        again = sum(record.header(b"muleteer-attempts") == b"2" for record in ledger.ok)
        report.expect("calls of the killed are run again", True, f"{again} run again, {len(ledger.ok)} answers")


def restarts(rig):
    return sum(replica["restarts"] for backend in rig.status()["backends"] for replica in backend["replicas"])


def strike(rig, size, dice):
    """Kill replicas at random moments of the load; seconds until each replacement was ready, the pids, and the records
    of further calls: few kills may all meet idle replicas, so every second one is of a replica that certainly runs one.
    """
    back, killed, struck = [], [], []
    pause = size.seconds / (size.times + 1)
    with ThreadPoolExecutor(1) as pool:
        for turn in range(size.times):
            time.sleep(dice.uniform(0.2, 1.0) * pause)  # the moment of the kill is the experiment, nothing waits for it
            if size.long or turn % 2:
                call, pid = None, dice.choice(sorted(rig.ready_pids()))
            else:
                nonce = next(nonces)
                call = pool.submit(ask, rig.port, nonce, do="sleep", amount=1.0, deadline_s=size.deadline_s)
                wait_until(lambda nonce=nonce: rig.executions()[nonce].started, "a call runs")
                (pid,) = rig.executions()[nonce].started
            rig.kill(pid)
            killed.append((pid, time.monotonic()))
            back.append(rig.wait_replicas(without=[pid]))
            if call is not None:
                struck.append(call.result())
    return back, killed, struck


def kills_in_batches(folder, size, report):
    """SIGKILL of replicas under load that goes in batches; one more is killed by its input."""
    dice = random.Random(size.seed)
    with Rig(folder, "--name", "Mule", targets=("model.py:Herd",), replicas=3) as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate * 2, size.seconds)
        _, _, struck = strike(rig, size, dice)
        record = ask(rig.port, do="exit", amount=3)
        report.expect("the killer: 502", error_of(record).get("code") == "replica_died", record.body)
        again = ask(rig.port, record.nonce, do="exit", amount=3)
        report.expect("and then poison", error_of(again).get("code") == "poison", again.body)
        ledger = rig.ledger(load)
        ledger.records += struck
        report.expect_accounts(ledger, rig)
        twice = [r for r in ledger.ok if r.header(b"muleteer-attempts") == b"2"]
        batches = rig.backend()["batches"]
        report.expect("calls went in batches", any(int(size) > 2 for size in batches["sizes"]), batches["sizes"])
        report.expect("those of the killed are run again, alone", batches["limits"].get("alone"), f"{len(twice)}")


def kills_at_most_once(folder, size, report):
    """SIGKILL of replicas under load, with --no-idempotent."""
    dice = random.Random(size.seed)
    with Rig(folder, "--no-idempotent") as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate, size.seconds)
        _, killed, struck = strike(rig, size, dice)
        ledger = rig.ledger(load)
        ledger.records += struck
        report.expect_accounts(ledger, rig, allowed=("replica_died",))
        dead = {pid for pid, _ in killed}
        elsewhere = [r.nonce for r in ledger.failed if set(ledger.executions[r.nonce].started) - dead]
        report.expect("only calls on the killed replica fail", not elsewhere, elsewhere[:5])
        report.expect("at most one call fails per kill", len(ledger.failed) <= len(killed), f"{len(ledger.failed)}")
        after = [min(abs(record.done - moment) for _, moment in killed) for record in ledger.failed]
        if after:
            report.expect_within("p99 of kill → 502", quantile(after, 0.99), 0.05, size)


def drained(folder, size, report):
    """SIGTERM of replicas under load: `kill PID` loses nothing."""
    dice = random.Random(size.seed)
    with Rig(folder) as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate, size.seconds)
        for _ in range(size.times):
            pid = dice.choice(sorted(rig.ready_pids()))
            rig.kill(pid, number=signal.SIGTERM)
            rig.wait_replicas(without=[pid])
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)
        twice = [record.nonce for record in ledger.ok if record.header(b"muleteer-attempts") != b"1"]
        report.expect("no call is run twice", not twice, twice[:5])


def stopped(folder, size, report):
    """SIGSTOP of a replica under load."""
    deadline_s = 1.0 * size.slack
    with Rig(folder, "--timeout", f"{deadline_s:g}s") as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate, size.seconds, deadline_s=deadline_s)
        wait_until(lambda: load.answers(100), "some answers")
        pid = min(rig.ready_pids())
        rig.kill(pid, number=signal.SIGSTOP)
        back = wait_until(lambda: pid not in rig.pids("replica"), "the stopped replica is gone", seconds=60)
        back += rig.wait_replicas(without=[pid])
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig, allowed=("deadline",))
        report.expect("at most the one call on it is late", len(ledger.failed) <= 1, dict(ledger.codes()))
        off = max([abs(record.latency_s - deadline_s) for record in ledger.failed], default=0.0)
        report.expect_within("504 at the deadline, off by", off, 0.1, size)
        report.expect_within("deadline → replaced", back - deadline_s, 3.0, size)
        report.expect("the reason is told", becomes(lambda: "hung" in exits(rig)), exits(rig))


def exits(rig):
    """Reasons of the last exits."""
    replicas = [replica for backend in rig.status()["backends"] for replica in backend["replicas"]]
    return sorted(replica["last_exit"]["reason"] for replica in replicas if replica["last_exit"])


def endless_loop(folder, size, report):
    """An endless loop in Python."""
    hang(folder, size, report, "spin")


def holds_gil(folder, size, report):
    """C code that holds the GIL."""
    hang(folder, size, report, "gil")


def hang(folder, size, report, do):
    """One call that never ends, among others."""
    deadline_s = 1.0 * size.slack
    with Rig(folder, "--timeout", f"{deadline_s:g}s", replicas=3) as rig:
        rig.wait_replicas()
        before = rig.ready_pids()
        load = rig.load(size, size.rate / 2, size.seconds, deadline_s=deadline_s)
        record = ask(rig.port, do=do, amount=300, deadline_s=deadline_s)
        begun = time.monotonic()
        report.expect("504 deadline", error_of(record).get("code") == "deadline", record.body)
        report.expect_within("504 at the deadline, off by", abs(record.latency_s - deadline_s), 0.1, size)
        (pid,) = rig.executions()[record.nonce].started
        wait_until(lambda: pid not in rig.pids("replica"), "the hung replica is gone", seconds=60)
        rig.wait_replicas(without=[pid])
        report.expect_within("504 → replaced", time.monotonic() - begun, 3.0, size)
        report.expect_accounts(rig.ledger(load), rig)
        report.expect("the others live on", len(before & rig.ready_pids()) == 2, rig.ready_pids())
        report.expect("the reason is told", becomes(lambda: "hung" in exits(rig)), exits(rig))
        dump = "".join(log_of(rig, f"Mule-{number}") for number in range(5))
        report.expect("its log holds the stack", "model.py" in dump and "predict" in dump, dump[-300:])


def crashes(folder, size, report):
    """An input that kills its replica."""
    with Rig(folder, replicas=3) as rig:
        rig.wait_replicas()
        load = rig.load(size, size.rate / 2, size.seconds)
        for do in ("exit", "segv"):
            record = ask(rig.port, do=do, amount=3)
            report.expect(f"{do}: run twice, then 502", error_of(record).get("code") == "replica_died", record.body)
            runs = rig.executions()[record.nonce].started
            report.expect(f"{do}: on two replicas", len(runs) == len(set(runs)) == 2, runs)
            again = ask(rig.port, record.nonce, do=do, amount=3)
            report.expect(f"{do}: the same input is poison", error_of(again).get("code") == "poison", again.body)
            report.expect(f"{do}: and is not run", len(rig.executions()[record.nonce].started) == 2)
            rig.wait_replicas()
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)


def never_ready(folder, size, report):
    """A model that no longer loads, beside one that does."""
    two = ("model.py:Mule", "frail/model.py:Mule")
    names = ("--name", "Mule", "--name", "frail", "--route", "/predict", "--route", "/frail")
    with Rig(folder, *names, targets=two, replicas=1) as rig:
        rig.wait_replicas()
        rig.wait_replicas(name="frail")
        (rig.folder / "frail" / "broken").touch()
        load = rig.load(size, size.rate / 4, size.seconds)
        begun = time.monotonic()
        rig.kill(*rig.ready_pids("frail"))

        def frail():
            return next(backend for backend in rig.status()["backends"] if backend["name"] == "frail")

        wait_until(lambda: frail()["replicas"][0]["state"] == "backoff", "back-off", seconds=40)
        record = ask(rig.port, path="/frail", deadline_s=120.0)  # it may wait for the starts: longer than five of them
        report.expect("503 meanwhile", record.status == 503, record.body)
        wait_until(lambda: frail()["state"] == "failed", "failed", seconds=90)
        took = time.monotonic() - begun
        report.expect("back-off before FAILED", took > 0.5 + 1 + 2 + 4 - 4, f"{took:.1f} s")
        (replica,) = frail()["replicas"]
        last = replica["last_exit"]
        report.expect("FAILED after 5 starts", replica["restarts"] == 5, replica["restarts"])
        report.expect("the exit code is told", last["code"], last)
        report.expect("the last words are told", "last words of a broken model" in last["log_tail"], last["log_tail"])
        refused = becomes(lambda: error_of(ask(rig.port, path="/frail")).get("code") == "crash_loop")
        report.expect("503 crash_loop", refused, ask(rig.port, path="/frail").body)
        report.expect_accounts(rig.ledger(load), rig)


def raises(folder, size, report):
    """A model that raises: its own fault, and the replica lives."""
    with Rig(folder, replicas=1) as rig:
        rig.wait_replicas()
        before = rig.ready_pids()
        record = ask(rig.port, do="raise")
        error = error_of(record)
        report.expect("500 model_error, completed", (record.status, error.get("code")) == (500, "model_error"), error)
        report.expect("its message, no traceback", "told to raise" in error["error"] and "Traceback" not in str(error))
        report.expect("the replica lives", rig.ready_pids() == before)
        report.expect_accounts(rig.ledger(rig.load(size, 50, 0.5)), rig)


def leak(folder, size, report):
    """Memory that grows over --max-rss."""
    with Rig(folder, "--max-rss", "120MiB", replicas=2) as rig:
        rig.wait_replicas()
        before = rig.ready_pids()
        load = rig.load(size, size.rate / 2, size.seconds)
        record = ask(rig.port, do="leak", amount=150 * 2**20)
        (pid,) = rig.executions()[record.nonce].started
        wait_until(lambda: pid not in rig.pids("replica"), "the leaking replica is gone", seconds=60)
        rig.wait_replicas(without=[pid])
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)
        report.expect("the other lives on", before - {pid} <= rig.ready_pids(), (before, rig.ready_pids()))


def reload(folder, size, report):
    """An edited model under load with --reload; then one that does not start."""
    with Rig(folder, "--reload", replicas=2) as rig:
        rig.wait_replicas()
        model = rig.folder / "model.py"
        load = rig.load(size, size.rate, size.seconds)
        old = rig.ready_pids()
        wait_until(lambda: load.answers(), "an answer of the old version")
        model.write_text(model.read_text().replace('VERSION = "one"', 'VERSION = "two"'))
        rig.wait_replicas(without=old)
        wait_until(lambda: not old & set(rig.pids("replica")), "the old ones are gone", seconds=60)
        done = time.monotonic()
        ledger = rig.ledger(load, late := rig.load(size, size.rate, 1.0))
        report.expect_accounts(ledger, rig)
        versions = {error_of(record)["version"] for record in ledger.ok}
        report.expect("each answer is from exactly one version", versions == {"one", "two"}, versions)
        stale = [r.nonce for r in ledger.ok if r.sent > done and error_of(r)["version"] == "one"]
        report.expect("none from the old one after it is gone", not stale and late.load.records, stale[:5])
        report.expect("it says so", "reload" in log_of(rig, "supervisor").lower(), log_of(rig, "supervisor")[-300:])
        good = rig.ready_pids()
        load = rig.load(size, size.rate, 1.0)
        model.write_text(model.read_text() + "\nraise RuntimeError('a bad edit')\n")
        wait_until(lambda: "a bad edit" in log_of(rig, "supervisor"), "the bad edit is told", seconds=60)
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)
        report.expect("a version that does not start leaves the old one serving", rig.ready_pids() == good, good)


FAULTS = [
    kills,
    kills_in_batches,
    kills_at_most_once,
    drained,
    stopped,
    endless_loop,
    holds_gil,
    crashes,
    never_ready,
    raises,
    leak,
    reload,
]
