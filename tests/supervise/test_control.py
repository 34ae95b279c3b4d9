"""The control channel: what the controller may ask, what it is told, and what a child must not say."""

import os
import signal

import msgspec
import pytest


def wire(spec):
    return msgspec.to_builtins(spec)


def test_ensure_ready_remove(tree, make, controller, place):
    path = place / "m.sock"
    started = tree(controller.spec)
    controller.accept()
    spec = make.child("m-1", 'ready:{"files":[]}', "wait", sockets={"link": f"unix:{path}"}, labels={"backend": "m"})
    controller.say(type="ensure", process=wire(spec))
    starting = controller.hear("process", "m-1", "starting")["process"]
    assert starting["labels"] == {"backend": "m"}
    assert path.stat().st_mode & 0o777 == 0o600
    ready = controller.hear("process", "m-1", "ready")["process"]
    assert (ready["pid"], ready["info"], ready["restarts"]) == (starting["pid"], {"files": []}, 0)

    controller.say(type="ensure", process=wire(spec))  # a known id is left alone
    controller.say(type="remove", process="nobody")  # gone meanwhile: no news
    controller.say(type="remove", process="m-1")
    assert controller.hear("process", "m-1", "stopping")["process"]["pid"] == starting["pid"]
    stopped = controller.hear("process", "m-1", "stopped")["process"]
    assert (stopped["pid"], stopped["last_exit"]["reason"]) == (None, "stopped")
    started.wait("Stopped", "m-1")
    assert started.count("Started", "m-1") == 1
    assert not make.alive(starting["pid"])
    assert not path.exists()

    controller.say(type="ensure", process=wire(spec))  # the id is free again
    assert controller.hear("process", "m-1", "ready")["process"]["restarts"] == 0


def test_remove_of_one_that_ignores_sigterm_kills_it_after_its_grace(tree, make, controller):
    tree(controller.spec, make.child("m-1", "deaf", "ready", "sleep", grace_s=0.3))
    controller.accept()
    controller.hear("process", "m-1", "ready")
    controller.say(type="remove", process="m-1")
    last_exit = controller.hear("process", "m-1", "stopped")["process"]["last_exit"]
    assert (last_exit["reason"], last_exit["signal"]) == ("stopped", "SIGKILL")


def test_retry_starts_a_failed_one_afresh(tree, make, controller, place):
    tree(controller.spec, make.child("m-1", f"first_lives:1:{place}/lives", "ready", "wait", starts_max=1))
    controller.accept()
    assert controller.hear("process", "m-1", "failed")["process"]["last_exit"]["code"] == 7
    controller.say(type="retry", process="m-1")
    ready = controller.hear("process", "m-1", "ready")["process"]
    assert ready["restarts"] == 1
    controller.say(type="retry", process="m-1")  # not FAILED: left alone
    controller.say(type="remove", process="m-1")
    assert controller.hear("process", "m-1")["process"]["state"] == "stopping"


def test_remove_of_a_failed_one(tree, make, controller):
    tree(controller.spec, make.child("m-1", "exit:1", starts_max=1))
    controller.accept()
    controller.hear("process", "m-1", "failed")
    controller.say(type="remove", process="m-1")
    controller.hear("process", "m-1", "stopped")


def test_a_killed_controller_comes_back_and_adopts(tree, make, controller):
    started = tree(controller.spec, make.child("m-1", "ready", "wait", labels={"backend": "m"}))
    controller.accept()
    controller.hear("processes")
    controller.hear("process", "m-1", "ready")
    pids = {id: started.wait("Started", id)["pid"] for id in ("controller", "m-1")}
    os.kill(pids["controller"], signal.SIGKILL)
    controller.accept()
    known = {process["id"]: process for process in controller.hear("processes")["processes"]}
    assert known["m-1"]["pid"] == pids["m-1"]
    assert (known["m-1"]["state"], known["m-1"]["labels"]) == ("ready", {"backend": "m"})
    assert known["controller"]["last_exit"]["reason"] == "killed"


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '["no object"]',
        '{"no":"type"}',
        '{"type":"unheard"}',
        '{"type":"ready","info":7}',
        '{"type":"abort","process":"m-1","pid":"1","reason":"hung"}',
        '{"type":"remove","process":"other"}',
        '{"type":"retry","process":"other"}',
        '{"type":"ensure","process":{"id":"x","argv":["true"]}}',
        '{"type":"ready"}\n{"type":"ready"}',
    ],
)
def test_a_child_that_breaks_the_protocol_is_killed_and_told_of(tree, make, line):
    started = tree(
        make.child("other", "ready", "wait"),
        make.child("m-1", f"raw:{line}", "deaf", "sleep"),
    )
    assert "broke the control protocol" in started.wait("Notice", "m-1")["text"]
    exited = started.wait("Exited", "m-1")["last_exit"]
    assert (exited["reason"], exited["signal"]) == ("protocol", "SIGKILL")
    assert started.count("Exited", "other") == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"id": "../../etc/x", "argv": ["true"]},
        {"id": "m-1", "argv": []},
        {"id": "m-1", "argv": ["true"], "colour": "red"},
    ],
)
def test_a_bad_spec_kills_the_controller(tree, controller, spec):
    started = tree(controller.spec)
    controller.accept()
    controller.say(type="ensure", process=spec)
    assert started.wait("Exited", "controller")["last_exit"]["reason"] == "protocol"
    controller.accept()


def test_unknown_fields_are_let_pass(tree, make):
    started = tree(make.child("m-1", 'raw:{"type":"ready","info":{},"since":"a later version"}', "wait"))
    started.wait("Ready", "m-1")


def test_an_endless_line_is_cut_short(tree, make):
    started = tree(make.child("m-1", "endless", "sleep"))
    assert "longer than" in started.wait("Notice", "m-1")["text"]
    assert started.wait("Exited", "m-1")["last_exit"]["reason"] == "protocol"


def test_one_that_closes_its_channel_and_stays_is_killed(tree, make):
    started = tree(make.child("m-1", "ready", "close", "sleep"))
    exited = started.wait("Exited", "m-1")["last_exit"]
    assert exited["reason"] == "protocol"
    assert "closed its control channel" in exited["message"]


def test_one_that_said_failed_and_stays_is_killed_with_its_own_reason(tree, make):
    started = tree(make.child("m-1", "fail:import_error:no torch", "deaf", "sleep"))
    exited = started.wait("Exited", "m-1")["last_exit"]
    assert (exited["reason"], exited["message"], exited["signal"]) == ("import_error", "no torch", "SIGKILL")


def test_a_controller_that_does_not_read_is_killed_not_buffered_for(tree, make):
    talkers = [make.child(f"m-{number}", "big_ready:1000000", "exit:0") for number in range(12)]
    started = tree(make.child("controller", "faulthandler", "ready", "sleep"), *talkers)
    exited = started.wait("Exited", "controller", patience_s=60)["last_exit"]
    assert exited["reason"] == "hung"
    assert "unread" in exited["message"]
    started.wait("Started", "controller", restarts=1)
