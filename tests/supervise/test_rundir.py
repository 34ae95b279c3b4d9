import fcntl
import os
import socket
import threading
import time

import pytest

from muleteer.base.errors import AlreadyRunningError, UsageError
from muleteer.supervise.rundir import RunDirectory, read_lock


@pytest.fixture
def run(place):
    run = RunDirectory(place / "run")
    yield run
    run.close()


def test_it_is_made_private_with_its_rooms_and_names_its_holder(run):
    run.open("127.0.0.1", 0)
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert run.sockets.is_dir()
    assert run.logs.is_dir()
    run.publish("127.0.0.1", 8123)
    info = read_lock(run.path)
    assert (info.pid, info.host, info.port) == (os.getpid(), "127.0.0.1", 8123)
    assert abs(info.started - time.time()) < 60
    run.close()
    assert read_lock(run.path) is None


def test_publishing_a_shorter_address_leaves_no_rest(run):
    run.open("a.long.host.name.example", 65535)
    run.publish("::", 1)
    assert (read_lock(run.path).host, read_lock(run.path).port) == ("::", 1)


def test_parents_are_made(place):
    run = RunDirectory(place / "a" / "b")
    run.open()
    run.close()


def test_a_second_one_is_told_who_runs_and_where(run):
    run.open("0.0.0.0", 8123)
    second = RunDirectory(run.path)
    took_s = []
    for _ in range(3):
        begun = time.monotonic()
        with pytest.raises(AlreadyRunningError, match=rf"pid {os.getpid()} on 0.0.0.0:8123") as error:
            second.open()
        took_s.append(time.monotonic() - begun)
    assert min(took_s) < 1
    assert error.value.exit_status == 4
    assert read_lock(run.path) is not None  # still ours


def test_a_reader_does_not_keep_a_starting_one_out(run):
    run.open()
    run.close()
    with (run.path / "lock").open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        release = threading.Timer(
            0.05, fcntl.flock, (reader, fcntl.LOCK_UN)
        )  # in this process: both stand still, or none
        release.start()
        run.open()
        release.join()
    assert read_lock(run.path).pid == os.getpid()


def test_the_lock_of_a_dead_one_is_free_whatever_it_says(run):
    run.path.mkdir(mode=0o700)
    (run.path / "lock").write_text('{"pid": 1, "host": "h", "port": 1, "started": 0}')
    assert read_lock(run.path) is None
    run.open("h", 2)
    assert read_lock(run.path).pid == os.getpid()


def test_a_lock_without_words_is_still_a_lock(run):
    run.path.mkdir(mode=0o700)
    with (run.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_lock(run.path).pid == 0
        with pytest.raises(AlreadyRunningError, match="already running"):
            run.open()


def test_there_is_no_lock_where_there_is_nothing(place):
    assert read_lock(place / "nothing") is None


def test_stale_sockets_go_and_other_files_stay(run):
    run.open()
    run.close()
    for path in (run.path / "admin.sock", run.sockets / "7.sock"):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    (run.path / "snapshot.json").write_text("{}")
    run.open()
    assert not (run.path / "admin.sock").exists()
    assert not (run.sockets / "7.sock").exists()
    assert (run.path / "snapshot.json").exists()


def test_it_must_not_be_a_link_or_a_file(place):
    (place / "link").symlink_to(place)
    (place / "file").write_text("")
    with pytest.raises(UsageError, match="symbolic link"):
        RunDirectory(place / "link").open()
    with pytest.raises(UsageError, match="not a directory"):
        RunDirectory(place / "file").open()
    with pytest.raises(UsageError, match="cannot use the run directory"):
        RunDirectory(place / "file" / "below").open()


def test_it_must_belong_to_this_user(place):
    if os.geteuid():
        pytest.skip("only root can give a directory away")
    (place / "run").mkdir(mode=0o700)
    os.chown(place / "run", 12345, -1)
    with pytest.raises(UsageError, match="belongs to user 12345"):
        RunDirectory(place / "run").open()


def test_one_that_is_open_to_others_is_closed_if_it_is_ours_alone(place):
    (place / "empty").mkdir(mode=0o755)
    run = RunDirectory(place / "empty")
    run.open()
    run.close()
    assert (place / "empty").stat().st_mode & 0o777 == 0o700

    (place / "home").mkdir(mode=0o755)
    (place / "home" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files"):
        RunDirectory(place / "home").open()
    assert (place / "home").stat().st_mode & 0o777 == 0o755


def test_started_twice_is_refused_and_a_sigkilled_ones_lock_is_free_at_once(tree, make, place):
    first = tree(make.child("m-1", "ready", "wait"), http=True)
    first.wait("Ready", "m-1")
    info = read_lock(place / "run")
    assert info.pid == first.process.pid
    assert info.port > 0
    second = tree(make.child("m-1", "ready", "wait"))
    assert second.end() == 4
    assert f"pid {info.pid} on 127.0.0.1:{info.port}" in second.process.stderr.read().decode()
    first.process.kill()
    first.process.wait()
    assert read_lock(place / "run") is None  # no child has inherited it
    third = tree(make.child("m-1", "ready", "wait"))
    third.wait("Ready", "m-1")
    assert third.stop() == 0
    assert read_lock(place / "run") is None
