"""One process and its lives: ready, crash, failed starts, hang, time-outs."""

import os
import signal
import socket
import time

import msgspec
import pytest

from muleteer.supervise.process import ProcessSpec


def ask(path, word=b"who"):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(path))
        peer.sendall(word)
        return peer.recv(100)


def test_stages_ready_notice_and_output_reach_the_foreground(tree, make):
    started = tree(
        make.child(
            "m-1",
            "stage:import",
            "print:hello",
            "notice:look",
            'ready:{"files":["m.py"]}',
            "wait",
            labels={"backend": "m"},
        )
    )
    first = started.wait("Started", "m-1", restarts=0, labels={"backend": "m"})
    assert (started.run_dir / "logs" / "m-1.log").exists(), "also before its first word"
    assert started.wait("Stage", "m-1", stage="import")["seconds"] == 0.25
    ready = started.wait("Ready", "m-1", info={"files": ["m.py"]})
    assert 0 < ready["seconds"] < 30
    assert make.alive(first["pid"])
    assert started.stop() == 0
    told = [(event["event"], event.get("text")) for event in started.events]
    assert ("Output", "hello") in told
    assert ("Notice", "look") in told
    assert (started.run_dir / "logs" / "m-1.log").read_text() == "hello\n"


def test_a_crash_after_ready_restarts_at_once_and_who_dialled_meanwhile_is_answered(tree, make, place):
    path = place / "m.sock"
    started = tree(make.child("m-1", "ready", "serve:link", sockets={"link": f"unix:{path}"}))
    started.wait("Ready", "m-1")
    before = ask(path)
    assert ask(path, b"die") == b""
    after = ask(path)  # dialled while nobody is there: the listening socket never closed
    assert after != before
    exited = started.wait("Exited", "m-1")["last_exit"]
    assert (exited["reason"], exited["signal"], exited["code"], exited["was_ready"]) == (
        "killed",
        "SIGKILL",
        None,
        True,
    )
    assert started.wait("Started", "m-1", restarts=1)["pid"] == int(after)
    assert started.stop() == 0
    assert started.count("Backoff", "m-1") == 0
    assert not path.exists()


def test_dying_just_after_ready_for_ever_is_never_failed(tree, make):
    started = tree(make.child("m-1", "ready", "exit:0", starts_max=2))
    for _ in range(6):
        started.wait("Exited", "m-1")
    assert started.count("Failed", "m-1") == 0
    pauses = [event["pause_s"] for event in started.events if event["event"] == "Backoff"]
    assert pauses
    assert max(pauses) <= 0.5
    assert {event["failed_starts"] for event in started.events if event["event"] == "Backoff"} == {0}


def test_failed_starts_back_off_then_fail_with_code_message_and_tail_while_others_live_on(tree, make):
    bad = make.child(
        "bad-1",
        "print:some context",
        "stderr:ModuleNotFoundError: torch",
        "fail:import_error:No module named torch",
        "exit:3",
        starts_max=2,
    )
    started = tree(make.child("good-1", "ready", "wait"), bad)
    pid = started.wait("Started", "good-1")["pid"]
    assert 0.5 <= started.wait("Backoff", "bad-1", failed_starts=1)["pause_s"] <= 1.0
    failed = started.wait("Failed", "bad-1", failed_starts=2)["last_exit"]
    assert failed == {
        "reason": "import_error",
        "code": 3,
        "signal": None,
        "message": "No module named torch",
        "log_tail": "some context\nModuleNotFoundError: torch\n",
        "was_ready": False,
    }
    assert make.alive(pid)
    assert started.count("Exited", "good-1") == 0
    assert started.stop() == 0


def test_a_program_that_is_not_there_is_a_failed_start(tree):
    started = tree(ProcessSpec(id="m-1", argv=("/no/such/python",), starts_max=1))
    assert "/no/such/python" in started.wait("Failed", "m-1")["last_exit"]["message"]


def test_the_foreground_may_stop_the_tree_with_a_status(tree, make):
    started = tree(make.child("m-1", "exit:1", starts_max=1), make.child("g", "ready", "wait"), stop_on_failed=True)
    assert started.end() == 6


def test_not_ready_in_time_is_a_failed_start_with_a_dump(tree, make):
    started = tree(make.child("m-1", "faulthandler", "spin", ready_timeout_s=1.5, starts_max=3))
    for failed_starts in (1, 2, 3):
        exited = started.wait("Exited", "m-1")["last_exit"]
        assert exited["reason"] == "ready_timeout"
        assert "not ready after 1.5 s" in exited["message"]
        started.wait("Backoff" if failed_starts < 3 else "Failed", "m-1", failed_starts=failed_starts)
        if "in spin" in exited["log_tail"]:
            break  # else it was too late for the word that prepares the dump, or had no time for the dump
    assert "in spin" in exited["log_tail"]


@pytest.mark.parametrize("stopped", [False, True], ids=["spinning", "SIGSTOP"])
def test_a_hung_process_is_aborted_with_its_stacks_and_replaced(tree, make, controller, stopped):
    started = tree(controller.spec, make.child("m-1", "faulthandler", "ready", "spin"))
    controller.accept()
    pid, exited = make.abort(
        started, controller, "m-1", lambda pid: os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)
    )
    assert (exited["reason"], exited["signal"]) == ("hung", "SIGABRT")
    assert "most recent call first" in exited["log_tail"]
    ready = controller.hear("process", "m-1", "ready")["process"]
    assert ready["last_exit"]["reason"] == "hung"
    assert ready["pid"] != pid
    assert started.count("Exited", "m-1") == ready["restarts"]


def test_one_that_is_deaf_to_the_dump_is_killed(tree, make, controller):
    started = tree(controller.spec, make.child("m-1", "deaf", "ready", "spin"))
    controller.accept()
    pid = started.wait("Started", "m-1")["pid"]
    controller.hear("process", "m-1", "ready")
    asked = time.monotonic()
    controller.say(type="abort", process="m-1", pid=pid, reason="hung")
    exited = started.wait("Exited", "m-1")["last_exit"]
    assert (exited["reason"], exited["signal"]) == ("hung", "SIGKILL")
    assert time.monotonic() - asked < 5


def test_any_child_may_ask_for_an_abort_and_one_of_an_unknown_process_goes_to_who_takes_them(tree, make, controller):
    taker = msgspec.structs.replace(controller.spec, takes_aborts=True)
    started = tree(taker, make.child("m-1", "faulthandler", "ready", "spin"))
    controller.accept()
    controller.hear("process", "m-1", "ready")
    pid = started.wait("Ready", "m-1") and next(e["pid"] for e in started.events if e.get("id") == "m-1" and "pid" in e)
    known = f'raw:{{"type":"abort","process":"m-1","pid":{pid},"reason":"hung"}}'
    unknown = 'raw:{"type":"abort","process":"ray-7","pid":5,"reason":"hung"}'
    gateway = make.child("gateway-0", "ready", unknown, known, "wait")
    controller.say(type="ensure", process=msgspec.to_builtins(gateway))
    assert controller.hear("abort") == {"type": "abort", "process": "ray-7", "pid": 5, "reason": "hung"}
    assert started.wait("Exited", "m-1")["last_exit"]["reason"] == "hung"
