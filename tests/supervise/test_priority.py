"""Who has the cores when they are short, and whom the kernel takes when memory runs out."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_MB = 160


def oom_score(pid):
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_children_get_the_priority_they_are_given(tree, make):
    specs = [make.child(f"m-{n}", "ready", "wait", nice=7, oom_score=400) for n in range(4)]
    started = tree(make.child("front", "ready", "wait"), *specs)
    started.wait_ready(5)
    pids = {event["id"]: event["pid"] for event in started.told() if event["event"] == "Started"}
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    front = pids.pop("front")
    assert os.getpriority(os.PRIO_PROCESS, front) == ours
    assert oom_score(front) == oom_score(os.getpid())
    for pid in pids.values():
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, ours + 7)
        assert oom_score(pid) == min(1000, oom_score(os.getpid()) + 400)
    if Path(f"/proc/{front}/autogroup").exists():  # the kernel takes one change at a time: the last comes later
        make.until(
            lambda: all(Path(f"/proc/{pid}/autogroup").read_text().endswith(" nice 7\n") for pid in pids.values()),
            "every session has its priority",
        )


def session_nice(pid):
    return int(Path(f"/proc/{pid}/autogroup").read_text().split()[-1])


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group by session")
def test_who_starts_gives_way_to_those_who_serve(tree, make, place):
    started = tree(make.child("front", "ready", "wait"), make.child("m-1", f"when:{place}/go", "ready", "wait", nice=7))
    started.wait_ready(1)
    pid = started.wait("Started", "m-1")["pid"]
    make.until(lambda: session_nice(pid) > 7, "its session gives way")
    (place / "go").touch()
    started.wait_ready(2)
    make.until(lambda: session_nice(pid) == 7, "its session has its own priority")


@contextmanager
def memory_limit(megabytes, until):
    """A control group of so much memory: a path to tell members to, and one to tell them out of it again. Skips where
    none can be made.
    """
    line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), "")
    parent = Path("/sys/fs/cgroup/memory", line.rpartition(":")[2].lstrip("/"))
    group = parent / f"muleteer-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs the right to make a control group for memory (version 1)")
    try:
        (group / "memory.limit_in_bytes").write_text(str(megabytes * 1000 * 1000))
        yield group / "cgroup.procs", parent / "cgroup.procs"
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the last of it has ended")
        group.rmdir()


def test_when_memory_runs_out_a_replica_is_taken_before_a_larger_front(tree, make, place):
    with memory_limit(LIMIT_MB, make.until) as (inside, outside):
        inside.write_text(str(os.getpid()))  # for as long as the supervisor is born into it, and no longer: the test is
        try:  # itself the largest process here, and would be taken first
            started = tree(
                make.child("front", "hold:90", "ready", "wait"),
                make.child("m-1", "ready", f"when:{place}/go", "grow", oom_score=500),
            )
        finally:
            outside.write_text(str(os.getpid()))
        try:
            started.wait_ready(2)
            (place / "go").touch()
            ended = started.wait("Exited")
        finally:
            started.close()
        assert (ended["id"], ended["last_exit"]["reason"]) == ("m-1", "oom_killed")
        assert started.count("Exited", "front") == 0
