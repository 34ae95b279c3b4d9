"""The machine fails around the supervisor: disk, memory, descriptors, output, the run directory itself."""

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def tiny_disk(place):
    """A file system of 64 KiB. Needs the right to mount."""
    path = place / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=40,mode=700", "tmpfs", path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(path):
    with pytest.raises(OSError), (path / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 4096)


def test_a_full_disk_disturbs_nothing_and_later_lives_recover(tree, make, controller, tiny_disk):
    run = tiny_disk / "run"
    started = tree(controller.spec, make.child("m-1", "flood_some:200000", "ready", "wait"), run_dir=run)
    controller.accept()
    controller.hear("process", "m-1", "ready")  # its output alone has filled the disk
    fill(tiny_disk)
    pid = started.wait("Started", "m-1")["pid"]
    os.kill(pid, signal.SIGKILL)
    assert controller.hear("process", "m-1", "ready")["process"]["last_exit"]["log_tail"].endswith("x\n")
    assert (run / "logs" / "m-1.log").stat().st_size < 64 * 1024

    assert started.stop() == 0


def test_a_socket_that_finds_no_room_is_tried_until_there_is(tree, make, controller, tiny_disk):
    started = tree(controller.spec, run_dir=tiny_disk / "run")
    controller.accept()
    names = use_up_names(tiny_disk)
    spec = make.child("m-1", "ready", "wait", starts_max=1, sockets={"link": f"unix:{tiny_disk}/run/sockets/1.sock"})
    controller.say(type="ensure", process=make.builtins(spec))
    last_exit = started.wait("Exited", "m-1")["last_exit"]
    assert (last_exit["reason"], "No space left" in last_exit["message"]) == ("spawn_failed", True)
    for name in names:
        name.unlink()
    started.wait("Ready", "m-1")


def test_a_start_on_a_full_disk_says_so_and_leaves_nothing(tree, make, tiny_disk):
    (tiny_disk / "run").mkdir(mode=0o700)
    fill(tiny_disk)
    started = tree(make.child("m-1", "ready", "wait"), run_dir=tiny_disk / "run")
    assert started.end() == 2
    said = started.process.stderr.read().decode()
    assert said == f"cannot use the run directory {tiny_disk}/run: No space left on device\n"
    assert started.told() == []


def use_up_names(disk):
    """As many empty files as the disk has room for."""
    names = []
    with pytest.raises(OSError):
        while True:
            name = disk / f"name-{len(names)}"
            name.touch()
            names.append(name)
    return names


def test_a_log_that_cannot_be_written_disturbs_nothing(tree, make, place):
    (place / "run" / "logs").mkdir(parents=True)
    (place / "run").chmod(0o700)
    (place / "run" / "logs" / "m-1.log").symlink_to("/dev/full")
    started = tree(make.child("m-1", "print:lost but told", "exit:4", starts_max=1))
    started.wait("Output", "m-1", text="lost but told")
    assert started.wait("Failed", "m-1")["last_exit"]["log_tail"] == "lost but told\n"


def test_the_run_directory_is_deleted_under_us(tree, make, place):
    started = tree(make.child("m-1", "print:x", "ready", "wait"))
    pid = started.wait("Started", "m-1")["pid"]
    started.wait("Ready", "m-1")
    shutil.rmtree(place / "run")
    os.kill(pid, signal.SIGKILL)
    started.wait("Ready", "m-1")
    assert started.stop() == 0


def test_a_child_that_floods_delays_nobody(tree, make):
    started = tree(
        make.child("flood", "ready", "flood", grace_s=0.2), make.child("m-1", "ready", "wait"), quiet_output=True
    )
    started.wait_ready(2)
    for restarts in range(1, 4):
        pid = [e["pid"] for e in started.told() if e["event"] == "Started" and e["id"] == "m-1"][-1]
        os.kill(pid, signal.SIGKILL)
        started.wait("Started", "m-1", restarts=restarts)
    log = started.run_dir / "logs" / "flood.log"
    make.until(lambda: log.with_name("flood.log.1").exists(), "the log is rotated")
    assert started.stop() == 0
    assert log.stat().st_size <= 16 * 1024 * 1024  # asked now: for a moment there is none while it is rotated


def test_an_oom_kill_is_told_from_others(tree, make, place):
    counter = place / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 2\n")
    started = tree(make.child("m-1", "ready", "wait"), make.child("m-2", "ready", "wait"), oom_file=str(counter))
    pids = {id: started.wait("Started", id)["pid"] for id in ("m-1", "m-2")}
    started.wait_ready(2)
    os.kill(pids["m-1"], signal.SIGKILL)
    assert started.wait("Exited", "m-1")["last_exit"]["reason"] == "killed"
    counter.write_text("low 0\noom 4\noom_kill 3\n")
    os.kill(pids["m-2"], signal.SIGKILL)
    assert started.wait("Exited", "m-2")["last_exit"]["reason"] == "oom_killed"


def test_starts_without_descriptors_are_not_held_against_the_program(tree, make, controller):
    started = tree(controller.spec)
    controller.accept()
    controller.hear("processes")  # what it took to start the controller is closed again
    used = max(int(link.name) for link in Path(f"/proc/{started.process.pid}/fd").iterdir())
    before = resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (used + 2, used + 2000))
    controller.say(type="ensure", process=make.builtins(make.child("m-1", "ready", "wait", starts_max=1)))
    starved = started.wait("Exited", "m-1")["last_exit"]
    assert (starved["reason"], "open files" in starved["message"]) == ("spawn_failed", True)
    assert started.wait("Backoff", "m-1")["pause_s"] <= 1.0
    resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (min(before[0], used + 2000), used + 2000))
    started.wait("Ready", "m-1")


def test_a_child_inherits_what_is_meant_for_it_and_nothing_else(tree, make, place):
    spec = make.child(
        "m-1",
        "descriptors",
        "wait",
        sockets={"link": f"unix:{place}/m.sock", "http": "http"},
        env={"COLOUR": "red"},
        cwd=str(place),
    )
    started = tree(make.child("other", "ready", "wait", sockets={"http": "http"}), spec, http=True)
    info = started.wait("Ready", "m-1")["info"]
    pid = next(event["pid"] for event in started.told() if event["event"] == "Started" and event["id"] == "m-1")
    named = {str(fd) for fd in info["named"].values()}
    assert set(info["named"]) == {"control", "link", "http"}
    fds = {fd: target for fd, target in info["fds"].items() if not target.startswith("/proc/")}
    assert set(fds) == {"0", "1", "2"} | named
    assert fds["0"] == "/dev/null"
    assert fds["1"] == fds["2"]
    assert fds["1"].startswith("pipe:")
    assert all(fds[fd].startswith("socket:") for fd in named)
    assert (info["sid"], info["cwd"], info["env"]["COLOUR"]) == (pid, str(place), "red")
    status = Path(f"/proc/{pid}/status").read_text()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0


def test_the_supervisor_names_itself(tree, make, place):
    started = tree(make.child("m-1", "ready", "wait"))
    started.wait("Ready", "m-1")
    title = Path(f"/proc/{started.process.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == f"muleteer: supervisor {place}/run"
