"""Replicas that are forked from a template: they share its memory, and live and die as any other."""

import os
import signal
import textwrap
from pathlib import Path

import msgspec
import pytest

from muleteer.engine.launch import process_spec
from muleteer.engine.port import ReplicaRequest
from muleteer.spec.settings import BackendSettings
from tests.replica.processes import Link

ARRAY_BYTES = 50_000_000
MODEL = """
import os, random
import numpy as np
class Model:
    example = {"what": "pid"}
    def __init__(self):
        self.weights = np.ones(__BYTES__ // 8)
        random.seed(1), np.random.seed(1)
        print("loaded by", os.getpid())
    def predict(self, what: str):
        if what == "numbers": return [random.random(), float(np.random.rand())]
        if what == "spin":
            while True: pass
        return {"pid": os.getpid(), "session": os.getsid(0), "parent": os.getppid(), "env": os.environ.get("MINE"),
                "weights": float(self.weights[0])}
    def close(self): print("closed by", os.getpid())
"""


@pytest.fixture
def replica(place):
    """`replica(id, generation=1, **fields)` → the spec of a replica of the model in `place`, to be forked."""

    def write(source):
        (place / "model.py").write_text(textwrap.dedent(source))

    def replica(id, generation=1, share="preload", **fields):
        settings = BackendSettings(share=share, load_timeout=fields.pop("load_timeout", 30.0))
        request = ReplicaRequest(
            id=id,
            backend="m",
            generation=generation,
            target="model.py:Model",
            base_dir=str(place),
            settings=settings,
            debug=True,
            grace_s=5.0,
        )
        spec = process_spec(request, f"unix:{place}/{id}.sock", {"MINE": id})
        return msgspec.structs.replace(spec, **fields)

    write(MODEL.replace("__BYTES__", "80"))
    replica.write = write
    replica.template = "m-1-.template"
    return replica


@pytest.fixture
def ask(place):
    """`ask(id, what)` → what the replica answers, on a link of its own."""

    def ask(id, what="who"):
        link = Link(f"{place}/{id}.sock")
        try:
            link.greet()
            value, error = link.ask({"what": what})
        finally:
            link.close()
        assert error is None, error
        return value

    return ask


def pss_bytes(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")


def test_two_replicas_share_one_array_and_are_processes_of_their_own(tree, replica, ask):
    replica.write(MODEL.replace("__BYTES__", str(ARRAY_BYTES)))
    started = tree(replica("m-1"), replica("m-2"))
    template = started.wait("Started", replica.template)["pid"]
    started.wait_ready(3)
    one, two = ask("m-1"), ask("m-2")
    pids = {template, one["pid"], two["pid"]}
    assert len(pids) == 3
    assert sum(map(pss_bytes, pids)) < 1.9 * ARRAY_BYTES  # each by itself: over 2 times for the arrays alone
    for each, id in ((one, "m-1"), (two, "m-2")):
        assert each == {
            "pid": each["pid"],
            "session": each["pid"],
            "parent": started.process.pid,
            "env": id,
            "weights": 1.0,
        }
        assert Path(f"/proc/{each['pid']}/cmdline").read_bytes().rstrip(b"\0") == b"muleteer: replica " + id.encode()
    assert not set(ask("m-1", "numbers")) & set(ask("m-2", "numbers"))
    assert f"loaded by {template}" in (started.run_dir / "logs" / f"{replica.template}.log").read_text()
    assert started.stop() == 0
    for each, id in ((one, "m-1"), (two, "m-2")):
        assert (started.run_dir / "logs" / f"{id}.log").read_text() == f"closed by {each['pid']}\n"


def test_a_killed_replica_is_forked_again_from_the_same_template(tree, replica, ask):
    started = tree(replica("m-1"), replica("m-2"))
    started.wait_ready(3)
    one, two = ask("m-1")["pid"], ask("m-2")["pid"]
    os.kill(one, signal.SIGKILL)
    exited = started.wait("Exited", "m-1")["last_exit"]
    assert (exited["reason"], exited["signal"], exited["was_ready"]) == ("killed", "SIGKILL", True)
    again = ask("m-1")["pid"]  # who dials meanwhile is answered
    assert again not in (one, two)
    assert ask("m-2")["pid"] == two
    assert started.count("Started", replica.template) == 1
    assert started.stop() == 0


def test_a_killed_template_comes_back_and_disturbs_no_replica(tree, replica, ask, make):
    started = tree(replica("m-1"), replica("m-2"))
    template = started.wait("Started", replica.template)["pid"]
    started.wait_ready(3)
    pids = ask("m-1")["pid"], ask("m-2")["pid"]
    os.kill(template, signal.SIGKILL)
    started.wait("Exited", replica.template)
    started.wait("Ready", replica.template)
    assert (ask("m-1")["pid"], ask("m-2")["pid"]) == pids
    os.kill(pids[0], signal.SIGKILL)
    assert ask("m-1")["pid"] not in pids
    assert started.count("Exited", "m-2") == 0
    assert started.stop() == 0
    assert not any(map(make.alive, pids))


def test_killed_together_they_come_back_together(tree, replica, ask):
    started = tree(replica("m-1"))
    template = started.wait("Started", replica.template)["pid"]
    started.wait_ready(2)
    pid = ask("m-1")["pid"]
    os.kill(template, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert ask("m-1")["pid"] != pid
    assert started.stop() == 0


def test_a_hung_replica_is_aborted_with_its_stacks(tree, controller, replica, ask, make):
    started = tree(controller.spec, replica("m-1"))
    controller.accept()

    def hang(pid):
        assert pid == ask("m-1")["pid"]
        os.kill(pid, signal.SIGSTOP)

    pid, exited = make.abort(started, controller, "m-1", hang)
    assert (exited["reason"], exited["signal"]) == ("hung", "SIGABRT")
    assert "most recent call first" in exited["log_tail"]
    assert controller.hear("process", "m-1", "ready")["process"]["pid"] != pid
    assert started.stop() == 0


def test_a_model_with_a_thread_is_refused_and_told_what_to_do(tree, replica):
    replica.write(
        """
        import threading
        class Model:
            def __init__(self):
                threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
            def predict(self): pass
        """
    )
    started = tree(replica("m-1", starts_max=1))
    failed = started.wait("Failed", "m-1")["last_exit"]
    assert failed["reason"] == "not_shareable"
    assert "poller" in failed["message"]
    assert "share: none" in failed["message"]
    assert started.stop() == 0


def test_threads_that_end_before_a_fork_are_no_hindrance(tree, replica, ask):
    replica.write(
        MODEL.replace("__BYTES__", "80").replace(
            "print(", "np.ones((600, 600)) @ np.ones((600, 600)); print(", 1
        )  # OpenBLAS starts its pool, if there are cores for it
    )
    spec = replica("m-1")
    started = tree(replica("m-1", env=spec.env | {"OPENBLAS_NUM_THREADS": "2"}))
    started.wait_ready(2)
    assert ask("m-1")["weights"] == 1.0
    assert started.stop() == 0


def test_a_template_that_cannot_load_says_so_in_the_name_of_its_replicas(tree, controller, replica):
    replica.write("import no_such_module")
    started = tree(controller.spec, replica("m-1", starts_max=1))
    controller.accept()
    failed = controller.hear("process", "m-1", "failed")["process"]
    assert failed["last_exit"]["reason"] == "import_error"
    assert "no_such_module" in failed["last_exit"]["message"]
    replica.write(MODEL.replace("__BYTES__", "80"))
    controller.say(type="retry", process="m-1")
    controller.hear("process", "m-1", "ready")
    assert started.stop() == 0


def test_a_new_generation_has_a_template_of_its_own_and_the_old_one_goes_with_its_replicas(
    tree, controller, replica, ask, make
):
    started = tree(controller.spec, replica("m-1"), replica("m-2"))
    controller.accept()
    old = controller.hear("process", replica.template, "ready")["process"]["pid"]
    started.wait_ready(3)
    replica.write(MODEL.replace("__BYTES__", "80").replace('"weights": float', '"weights": 7 * float'))
    controller.say(type="ensure", process=make.builtins(replica("m-3", generation=2)))
    controller.hear("process", "m-3", "ready")
    assert (ask("m-1")["weights"], ask("m-3")["weights"]) == (1.0, 7.0)
    controller.say(type="remove", process="m-1")
    controller.hear("process", "m-1", "stopped")
    assert make.alive(old)  # m-2 would be forked from it
    controller.say(type="remove", process="m-2")
    controller.hear("process", replica.template, "stopped")
    assert not make.alive(old)
    assert ask("m-3")["weights"] == 7.0
    assert started.stop() == 0


def test_removed_while_its_template_loads_it_is_gone_at_once(tree, controller, replica, place):
    gate = place / "gate"
    replica.write(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n" + MODEL)
    started = tree(controller.spec, replica("m-1"))
    controller.accept()
    controller.hear("process", "m-1", "starting")
    controller.say(type="remove", process="m-1")
    controller.hear("process", "m-1", "stopped")
    controller.hear("process", replica.template, "stopped")
    assert started.stop() == 0


def test_a_template_that_does_not_answer_is_no_reason_to_wait_for_ever(tree, controller, replica, ask, make):
    started = tree(controller.spec, replica("m-1"))
    controller.accept()
    template = controller.hear("process", replica.template, "ready")["process"]["pid"]
    controller.hear("process", "m-1", "ready")
    os.kill(template, signal.SIGSTOP)
    controller.say(type="ensure", process=make.builtins(replica("m-2", ready_timeout_s=0.3, starts_max=1)))
    failed = controller.hear("process", "m-2", "failed")["process"]
    assert failed["last_exit"]["reason"] == "ready_timeout"
    assert failed["pid"] is None
    os.kill(template, signal.SIGCONT)  # it forks what it was asked for, and that one finds nobody at the other end
    controller.say(type="ensure", process=make.builtins(replica("m-3")))
    controller.hear("process", "m-3", "ready")
    known = {template, ask("m-1")["pid"], ask("m-3")["pid"], controller_pid(started)}
    make.until(lambda: children_of(started.process.pid) == known, "no stranger")
    assert started.stop() == 0


def test_a_template_that_dies_before_it_forks_costs_a_pause_and_no_failed_start(tree, controller, replica, ask, make):
    started = tree(controller.spec, replica("m-1"))
    controller.accept()
    template = controller.hear("process", replica.template, "ready")["process"]["pid"]
    controller.hear("process", "m-1", "ready")
    os.kill(template, signal.SIGSTOP)
    controller.say(type="ensure", process=make.builtins(replica("m-2", starts_max=1)))
    controller.hear("process", "m-2", "starting")
    os.kill(template, signal.SIGKILL)
    backoff = controller.hear("process", "m-2", "backoff")["process"]
    assert (backoff["last_exit"]["reason"], backoff["pid"]) == ("not_forked", None)
    assert controller.hear("process", "m-2", "ready")["process"]["pid"] == ask("m-2")["pid"]
    assert started.stop() == 0


def controller_pid(started):
    return next(event["pid"] for event in started.told() if event["event"] == "Started" and event["id"] == "controller")


def children_of(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_nothing_outlives_the_supervisor(tree, replica, ask, make):
    started = tree(replica("m-1"), replica("m-2"))
    template = started.wait("Started", replica.template)["pid"]
    started.wait_ready(3)
    pids = template, ask("m-1")["pid"], ask("m-2")["pid"]
    started.process.kill()
    make.until(lambda: not any(map(make.alive, pids)), "all of them dead")


def test_an_async_model_is_forked_too(tree, replica, ask):
    replica.write(MODEL.replace("__BYTES__", "80").replace("def predict", "async def predict"))
    started = tree(replica("m-1"))
    started.wait_ready(2)
    assert ask("m-1")["weights"] == 1.0
    assert started.stop() == 0
