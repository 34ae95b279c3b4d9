"""The end of the tree: orderly, quick, and by SIGKILL."""

import os
import signal
import time
from pathlib import Path

import pytest


def children_of(pid):
    """Pids and states."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(stat.parent.name), fields[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ranks_stop_in_order_and_the_exit_is_clean(tree, make, place, number):
    started = tree(
        make.child("controller", "ready", "wait", stop_rank=2),
        make.child("m-1", "drain:0.1", "ready", "sleep", stop_rank=1, sockets={"link": f"unix:{place}/m.sock"}),
        make.child("m-2", "drain:0.1", "ready", "sleep", stop_rank=1),
        make.child("gateway-0", "drain:0.2", "ready", "sleep", stop_rank=0),
        http=True,
    )
    started.wait_ready(4)
    started.process.send_signal(number)
    assert started.end() == 0
    stopped = [event["id"] for event in started.events if event["event"] == "Stopped"]
    assert stopped[0] == "gateway-0"
    assert set(stopped[1:3]) == {"m-1", "m-2"}
    assert stopped[3:] == ["controller"]
    exits = {e["id"]: e["last_exit"] for e in started.events if e["event"] == "Exited"}
    assert exits["gateway-0"]["code"] == exits["m-1"]["code"] == 0
    assert {last_exit["reason"] for last_exit in exits.values()} == {"stopped"}
    assert {"event": "ShutDown", "cause": number.name, "quick": False} in started.events
    left = [path for path in place.rglob("*") if path.is_socket()]
    assert left == []


def test_a_later_rank_is_still_kept_alive_while_an_earlier_one_drains(tree, make, place):
    started = tree(
        make.child("m-1", "ready", "wait", stop_rank=1),
        make.child("gateway-0", f"drain_until:{place}/go", "ready", "sleep", stop_rank=0),
    )
    pid = started.wait("Started", "m-1")["pid"]
    started.wait("Ready", "gateway-0")
    started.process.send_signal(signal.SIGTERM)
    started.wait("ShutDown")
    os.kill(pid, signal.SIGKILL)
    started.wait("Started", "m-1", restarts=1)
    (place / "go").touch()
    assert started.end() == 0


def test_dead_ranks_do_not_hold_up_the_end(tree, make):
    started = tree(make.child("m-1", "exit:1", starts_max=1), make.child("m-2", "exit:1", stop_rank=1))
    started.wait("Failed", "m-1")
    assert started.stop() == 0


def test_a_second_signal_kills_what_is_left(tree, make):
    started = tree(
        make.child("gateway-0", "drain:1000", "ready", "sleep"),
        make.child("controller", "deaf", "ready", "sleep", stop_rank=1),
    )
    pids = [started.wait("Started", id)["pid"] for id in ("gateway-0", "controller")]
    started.wait_ready(2)
    started.process.send_signal(signal.SIGTERM)
    started.wait("ShutDown", quick=False)
    time.sleep(0.3)  # one within 0.2 s of the first would count as the same
    asked = time.monotonic()
    started.process.send_signal(signal.SIGTERM)
    assert started.end() == 1
    assert {"event": "ShutDown", "cause": "SIGTERM", "quick": True} in started.events
    assert time.monotonic() - asked < 15  # not the grace of 25 s
    assert not any(map(make.alive, pids))


def test_the_same_signal_twice_at_once_is_one(tree, make):
    started = tree(make.child("m-1", "drain:0.5", "ready", "sleep"))
    started.wait("Ready", "m-1")
    os.kill(started.process.pid, signal.SIGSTOP)  # so that the second is there when it looks at the first
    started.process.send_signal(signal.SIGINT)
    started.process.send_signal(signal.SIGTERM)
    os.kill(started.process.pid, signal.SIGCONT)
    assert started.end() == 0
    assert started.wait("Exited", "m-1")["last_exit"]["code"] == 0


def test_supervisor_sigkill_takes_every_child_along_and_frees_the_lock(tree, make, place):
    processes = [
        make.child("deaf", "deaf", "ready", "spin", grace_s=0.2),
        make.child("m-1", "ready", "wait", sockets={"link": f"unix:{place}/run/sockets/1.sock"}),
        make.child("stopped", "ready", "sleep"),
    ]
    started = tree(*processes)
    pids = [started.wait("Started", id)["pid"] for id in ("deaf", "m-1", "stopped")]
    started.wait_ready(3)
    os.kill(pids[2], signal.SIGSTOP)
    started.process.kill()
    started.process.wait()
    make.until(lambda: not any(map(make.alive, pids)), "no child alive", seconds=5)
    assert (place / "run/sockets/1.sock").exists()
    again = tree(*processes)  # needs no cleaning by hand
    again.wait("Ready", "m-1")
    assert again.stop() == 0


def test_no_zombie_and_no_orphan_is_left(tree, make):
    started = tree(
        make.child("m-1", "grandchild:same", "grandchild:own", "kill", starts_max=1),
        make.child("m-2", "ready", "wait"),
    )
    same, own = (int(started.wait("Notice", "m-1")["text"].split()[1]) for _ in range(2))
    started.wait("Failed", "m-1")
    make.until(lambda: not make.alive(same), "the group ends with its leader")
    supervisor = started.process.pid
    make.until(lambda: "Z" not in {state for _, state in children_of(supervisor)}, "no zombie")
    assert make.alive(own)  # it left the group, and is ours now
    assert own in {pid for pid, _ in children_of(supervisor)}
    assert started.stop() == 0
    make.until(lambda: not make.alive(own), "what it left is killed")


def test_a_foreground_that_is_gone_does_not_matter(tree, make):
    started = tree(make.child("m-1", "ready", "wait"), deaf_foreground=True)
    first = make.until(lambda: {pid for pid, _ in children_of(started.process.pid)}, "the first life").pop()
    os.kill(first, signal.SIGKILL)
    make.until(lambda: {pid for pid, _ in children_of(started.process.pid)} - {first}, "the next life")
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(30) == 0
