"""What is asked of a server that serves: another version, a bad one, other weights; under load and by the real command."""

import http.client
import time
from collections import Counter
from itertools import pairwise

from bench.server import wait_until
from tests.faults.load import body, error_of
from tests.faults.server import EXPECTED, MODEL, Rig

STEADY = ("time.sleep(0.005)", "time.sleep(0.5)")
"""So long that what a busy machine adds, tenths of a second, does not hide twice the time, nor look like it."""
VERSIONS = {
    "one": (),
    "two": (('VERSION = "one"', 'VERSION = "two"'),),
    "steady": (STEADY,),
    "equal": (STEADY, ('VERSION = "one"', 'VERSION = "equal"')),
    "faulty": (
        STEADY,
        ('self._note(nonce, "end")', 'self._note(nonce, "end")\n        if nonce % 20 == 7: raise ValueError("5 %")'),
    ),
    "slow": ((STEADY[0], "time.sleep(1)"),),
}
"""Each is the model with changes: name of the version, 5 % errors, twice the time of the steady one."""
POLICY = ("--steps", "50,100", "--interval", "3s", "--min-requests", "100")
INTERVAL_S = 3.0


class Steered(Rig):
    """`muleteer serve -c muleteer.yaml` beside every version of the model.

    Args:
        declare: the file's text.
    """

    def __init__(self, folder, declare):
        super().__init__(folder, targets=("model.py:Mule",))
        self._arguments = ("-c", "muleteer.yaml")
        for name, changes in VERSIONS.items():
            text = MODEL.read_text()
            for before, after in changes:
                assert before in text
                text = text.replace(before, after)
            (self.folder / f"{name}.py").write_text(text)
        self.write(declare)

    def write(self, text):
        (self.folder / "muleteer.yaml").write_text(text)

    def steer(self, *arguments):
        """One command that must succeed; what it printed."""
        done = self.command(*arguments)
        if done.returncode:
            raise AssertionError(f"muleteer {' '.join(arguments)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout


def one_backend(version, replicas, *, more=""):
    return (
        f'backends:\n  Mule: {{model: "{version}.py:Mule", replicas: {replicas}, expected: {EXPECTED}{more}}}\n'
        "endpoints:\n  mule: {route: /predict, backend: Mule}\n"
    )


def rolling_update(folder, size, report):
    """All replicas, updated again and again."""
    update(folder, size, report, replicas=4 if size.rate > 300 else 2)


def rolling_update_of_one(folder, size, report):
    """The same with one replica: the new one is ready before the old one leaves."""
    update(folder, size, report, replicas=1)


def update(folder, size, report, replicas):
    updates = 2 * size.times
    with Steered(folder, one_backend("one", replicas)) as rig:
        rig.wait_replicas(replicas)
        done = [(time.monotonic(), time.monotonic(), "one")]  # when an update began, when it was done, to what
        load = rig.load(size, size.rate if replicas > 1 else size.rate / 5, 0)
        for turn in range(updates):
            version = ("two", "one")[turn % 2]
            rig.write(one_backend(version, replicas))
            began = time.monotonic()
            said = rig.steer("apply", "muleteer.yaml")
            assert "settled" in said, said
            done.append((began, time.monotonic(), version))
            wait_until(lambda: load.answers(20, since=done[-1][1]), "some answers of the new version")
        done.append((time.monotonic(), 0.0, ""))
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)
        seconds = Counter(int(record.due - done[0][0]) for record in ledger.failed)
        report.expect("failures, by the second in which they were due", not seconds, dict(seconds))
        makers = {(error_of(r)["pid"], error_of(r)["version"]) for r in ledger.ok}
        report.expect(
            f"{updates} updates, each answer from exactly one version",
            len(makers) == len({pid for pid, _ in makers}) and {version for _, version in makers} == {"one", "two"},
            f"{len(ledger.ok)} answers of {len(makers)} replicas",
        )
        stale, late = [], 0
        for (_, settled, version), (until, _, _) in pairwise(done):
            sent = [r for r in ledger.ok if settled < r.sent < until]
            late += len(sent)
            stale += [r.nonce for r in sent if error_of(r)["version"] != version]
        report.expect("none from the old version after it said settled", late and not stale, f"{len(stale)} of {late}")


HANGS = "a load that hangs"
BAD = {
    "the file is no YAML": (2, ["muleteer.yaml:2"], lambda good: good.replace("Mule: {", "Mule: {{")),
    "a tab": (2, ["muleteer.yaml:2"], lambda good: good.replace("  Mule", "\tMule")),
    "an unknown key": (2, ["muleteer.yaml:2", "replcas"], lambda good: good.replace("replicas", "replcas")),
    "a key twice": (
        2,
        ["muleteer.yaml:", "Mule"],
        lambda good: good.replace("endpoints:", "  Mule: {model: x.py:X}\nendpoints:"),
    ),
    "a value of another kind": (
        2,
        ["muleteer.yaml:2", "replicas"],
        lambda good: good.replace("replicas: 2", "replicas: no"),
    ),
    "a backend that is not there": (
        2,
        ["muleteer.yaml:4", "Moule"],
        lambda good: good.replace("backend: Mule", "backend: Moule"),
    ),
    "a missing file": (2, ["muleteer.yaml:2", "model", "gone.py"], lambda good: good.replace("one.py", "gone.py")),
    "a name that is not in the file": (
        2,
        ["muleteer.yaml:2", "model", "Ass"],
        lambda good: good.replace(':Mule"', ':Ass"'),
    ),
    "a syntax error": (
        2,
        ["muleteer.yaml:2", "model", "syntax.py:2"],
        lambda good: good.replace("one.py", "syntax.py"),
    ),
    "an import error": (6, ["imports.py", "line 2", "nonexistent"], lambda good: good.replace("one.py", "imports.py")),
    "a constructor that raises": (
        6,
        ["raises.py", "line 4", "no weights"],
        lambda good: good.replace("one.py", "raises.py"),
    ),
    HANGS: (
        6,
        ["load_timeout", "Mule"],
        lambda good: good.replace("one.py", "hangs.py").replace("replicas", "load_timeout: 1s, replicas"),
    ),
    "a warm-up that fails": (6, ["cold.py", "line 5", "too cold"], lambda good: good.replace("one.py", "cold.py")),
    "a model without predict": (6, ["Mule", "predict"], lambda good: good.replace("one.py", "mute.py")),
}
"""What is wrong: exit status of apply, what it must say, and the file made from a good one."""
MODELS = {
    "syntax.py": "import os\nclass Mule\n    pass\n",
    "imports.py": "import os\nimport nonexistent_package\nclass Mule:\n    def predict(self, nonce): ...\n",
    "raises.py": "class Mule:\n    def predict(self, nonce): ...\n    def __init__(self):\n        raise ValueError('no weights')\n",
    "hangs.py": "import time\nclass Mule:\n    def predict(self, nonce): ...\n    def __init__(self): time.sleep(3600)\n",
    "cold.py": "class Mule:\n    example = {'nonce': 0}\n\n    def predict(self, nonce):\n        raise ValueError('too cold')\n",
    "mute.py": "class Mule:\n    pass\n",
}


def bad_update(folder, size, report):
    """Every kind of bad version, one after the other, while the good one serves."""
    good = one_backend("one", 2)
    with Steered(folder, good) as rig:
        for name, text in MODELS.items():
            (rig.folder / name).write_text(text)
        rig.wait_replicas(2)
        before = rig.ready_pids()
        load = rig.load(size, size.rate / 2, 0)
        for what, (status, words, spoil) in BAD.items():
            rig.write(spoil(good))
            if what == HANGS and not size.long:  # given up after five starts: too long for the short form
                status, words = 0, ["load_timeout", "one by one"]
                done = rig.command("apply", "muleteer.yaml", "--no-wait")
                wait_until(lambda: "was not ready after 1 s" in str(rig.status()["backends"]), "the hang is seen")
            else:
                done = rig.command("apply", "muleteer.yaml")
            said = done.stdout + done.stderr
            clear = done.returncode == status and all(word in said for word in words) and "muleteer/" not in said
            report.expect(f"{what}: exit {status}, says {', '.join(words)}", clear, f"exit {done.returncode}: {said}")
        (backend,) = rig.status()["backends"]
        report.expect("status says why", "predict" in str(backend["reason"]), backend["reason"])
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)
        makers = {error_of(record)["pid"] for record in ledger.ok}
        report.expect("the old version's replicas served throughout", makers == before, f"{makers} of {before}")
        rig.write(good)
        report.expect("mended, it settles", "settled" in rig.steer("apply", "muleteer.yaml"))


def rollouts(folder, size, report):
    """Side by side: to a version with 5 % errors, to one of twice the latency, to one as good."""
    news = ("faulty", "slow", "equal")
    backends = "".join(
        f'  {name}: {{model: "{version}.py:Mule", replicas: 2, concurrency: 64}}\n'
        for new in news
        for name, version in ((f"{new}_old", "steady"), (new, new))
    )
    endpoints = "".join(f"  to_{new}: {{route: /{new}, backend: {new}_old}}\n" for new in news)
    with Steered(folder, f"backends:\n{backends}endpoints:\n{endpoints}") as rig:
        wait_until(lambda: all(len(rig.ready_pids(name)) == 2 for name in news), "all replicas", seconds=60)
        rate = 150 if size.long else 80  # what two intervals judge is a matter of counts
        loads = {new: rig.load(size, rate, 0, path=f"/{new}", open_max=64) for new in news}
        wait_until(lambda: rig.statistics()["http"]["received"] > 300, "some requests")
        began = time.monotonic()
        for new in news:
            rig.steer("rollout", f"to_{new}", "--to", new, *POLICY)
        ends, shares = {}, {new: set() for new in news}
        while len(ends) < len(news) and time.monotonic() - began < 120:
            for row in rig.status()["endpoints"]:
                new = row["name"].removeprefix("to_")
                shares[new].add(row["traffic"].get(new, 0))
                if new not in ends and row["rollout"]["ended"]:
                    ends[new] = (row["rollout"]["phase"], time.monotonic(), row["rollout"]["reason"])
        wait_until(lambda: rig.status()["settled"], "the gateways have heard of it", seconds=60)
        quiet = time.monotonic()
        wait_until(lambda: all(load.answers(20, since=quiet) for load in loads.values()), "some answers after the end")
        ledgers = {new: rig.ledger(load) for new, load in loads.items()}
        for new, phase in zip(news, ("rolled_back", "rolled_back", "completed"), strict=True):
            found, ended, reason = ends.get(new, ("", quiet, "it did not end"))
            report.expect(f"to {new}: {phase}", found == phase, f"{found} after {ended - began:.1f} s: {reason}")
            if phase == "rolled_back":
                report.expect_within(f"to {new}: by itself within two intervals", ended - began, 2 * INTERVAL_S, size)
                report.expect(f"to {new}: never more than the first share", max(shares[new]) <= 50, shares[new])
            kept = f"{new}_old" if phase == "rolled_back" else new
            after = Counter(r.header(b"muleteer-backend").decode() for r in ledgers[new].records if r.sent > quiet)
            report.expect(f"to {new}: afterwards all requests go to {kept}", set(after) == {kept}, dict(after))
            report.expect_accounts(ledgers[new], rig, allowed=("model_error",) if new == "faulty" else ())


def sessions(folder, size, report):
    """Weights from 90/10 to 50/50: who is asked for again by a session that did not have to move?"""
    declared = (
        f'backends:\n  a: {{model: "one.py:Mule", expected: {EXPECTED}}}\n'
        f'  b: {{model: "two.py:Mule", expected: {EXPECTED}}}\n'
        "endpoints:\n  e: {route: /predict, traffic: {a: 90, b: 10}, affinity: {header: x-session}}\n"
    )
    count = 10_000 if size.long else 300
    with Steered(folder, declared) as rig:
        wait_until(lambda: all(rig.ready_pids(name) for name in "ab"), "both", seconds=60)
        before = asked(rig, count)
        rig.steer("traffic", "e", "a=50", "b=50")
        after = asked(rig, count)
        moves = Counter(zip((name for name, _ in before), *zip(*after, strict=True), strict=True))
        must = sum(name == "b" for name, _ in after) - sum(name == "b" for name, _ in before)
        kinds = {("a", "a", "kept"), ("b", "b", "kept"), ("a", "b", "moved")}
        report.expect("sessions move only to the one that gains, and say so", set(moves) == kinds, dict(moves))
        report.expect(f"of {count} only those move that must", moves["a", "b", "moved"] == must, f"{must} had to")
        report.expect("about 40 %", abs(must / count - 0.4) < 0.12, must / count)


def asked(rig, count):
    """Backend and affinity of each session's answer."""
    link, found = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=60), []
    for number in range(count):
        link.request("POST", "/predict", body(1), {"content-type": "application/json", "x-session": f"s{number}"})
        answer = link.getresponse()
        answer.read()
        found.append((answer.getheader("muleteer-backend"), answer.getheader("muleteer-affinity")))
    link.close()
    return found


FAULTS = [rolling_update, rolling_update_of_one, bad_update, rollouts, sessions]
