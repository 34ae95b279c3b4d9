"""The state file: revisions, conflicts, and that it is never torn: by kills, full disks, other writers."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from muleteer.base.errors import ConflictError, StateError
from muleteer.base.limits import REVISIONS_KEPT
from muleteer.control.rollout import Policy, Rollout
from muleteer.control.store import VERSION, Store
from muleteer.spec.settings import Declared, ServerSettings
from tests.control.store_peer import declare, number_in, rollout

PEER = Path(__file__).with_name("store_peer.py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "state.sqlite"


@pytest.fixture
def store(path):
    store = Store.open(path)
    yield store
    store.close()


def peer(*arguments):
    done = subprocess.run(
        [sys.executable, PEER, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def put(store, number, **more):
    return store.commit(declare(number, 1), who="alice", what=f"declare {number}", **more)


# revisions


def test_a_new_file_declares_nothing(store, path):
    assert store.current() is None
    assert store.history() == []
    assert store.load_rollouts() == {}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_revisions_are_kept_with_who_when_and_what(store, path):
    assert [put(store, number) for number in (1, 2, 3)] == [1, 2, 3]
    store.close()
    again = Store.open(path)
    assert again.current().declared == declare(3, 1)
    assert again.get(2).declared == declare(2, 1)
    entries = again.history(2)
    assert [(entry.id, entry.who, entry.what) for entry in entries] == [
        (3, "alice", "declare 3"),
        (2, "alice", "declare 2"),
    ]
    assert entries[0].time.endswith("Z")
    assert entries[0].time >= entries[1].time
    assert (again.statistics().revision, again.statistics().revisions, again.statistics().read_only) == (3, 3, False)
    again.close()


def test_a_rollback_is_a_new_revision(store):
    put(store, 1)
    put(store, 2)
    assert store.commit(store.get(1).declared, who="bob", what="rollback to 1") == 3
    assert store.current().declared == declare(1, 1)
    assert store.get(2).declared == declare(2, 1)


def test_every_setting_survives(store):
    declared = Declared(server=ServerSettings(port=1, debug=True, run_dir="/tmp/x y/ü"))
    store.commit(declared, who="é\n", what="'; DROP TABLE revisions; --")
    assert store.current().declared == declared
    assert store.current().entry.what == "'; DROP TABLE revisions; --"


def test_a_revision_that_is_not_there(store):
    with pytest.raises(StateError, match="there is no revision 7"):
        store.get(7)


def test_a_change_made_for_another_revision_is_refused(store):
    put(store, 1, expected_revision=0)
    with pytest.raises(ConflictError, match="at revision 1 by now, not 0"):
        put(store, 2, expected_revision=0)
    assert store.current().declared == declare(1, 1)
    assert put(store, 2, expected_revision=1) == 2


def test_old_revisions_are_dropped_and_numbers_never_used_again(store, path):
    for number in range(REVISIONS_KEPT + 10):
        put(store, number)
    assert store.statistics().revisions == REVISIONS_KEPT
    assert store.history(10_000)[-1].id == 11
    with pytest.raises(StateError, match=f"the latest {REVISIONS_KEPT} are kept"):
        store.get(10)


# rollouts


def test_rollouts_are_written_with_their_revision_or_alone(store):
    put(store, 1, rollouts={"e": rollout(1)})
    store.save_rollout(Rollout(endpoint="f", old="a", new="b", before={"a": 1.0}, policy=Policy(steps=(5.0, 100.0))))
    assert set(store.load_rollouts()) == {"e", "f"}
    assert store.load_rollouts()["e"] == rollout(1)
    put(store, 2, rollouts={"e": None, "f": rollout(3)})
    assert store.load_rollouts() == {"f": rollout(3)}
    for number in (3, 4):
        put(store, number, rollouts={"f": None})
    assert store.load_rollouts() == {}


def test_a_refused_change_leaves_the_rollouts_alone(store):
    put(store, 1, rollouts={"e": rollout(1)})
    with pytest.raises(ConflictError):
        put(store, 2, expected_revision=9, rollouts={"e": None})
    assert store.load_rollouts() == {"e": rollout(1)}


# faults


def test_kill_at_any_moment_leaves_the_old_or_the_new(path):
    done = peer("kill", path, 100, 7)
    assert done["old"] + done["new"] == 100
    assert done["revisions"] > 20  # or the kills came before anything happened
    store = Store.open(path)
    assert number_in(store) == done["revisions"]
    store.close()


def test_writers_at_once_lose_no_update(path):
    done = peer("count", path, 4, 15)
    assert done == {"codes": [0, 0, 0, 0], "number": 60, "revision": 60}


def test_opened_at_once_by_several(path):
    assert peer("open", path, 100, 8) == []


def test_a_writer_that_holds_the_file_is_waited_for_then_named(path):
    store = Store.open(path, busy_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="in use by another process"):
        put(store, 1)
    assert store.current() is None  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert put(store, 1) == 1
    store.close()


def test_files_that_may_not_grow(path):
    done = peer("limited", path, 1024 * 1024)
    assert done["last"] > 3
    assert done["found"] == done["last"]
    assert "nothing was changed" in done["message"]
    assert done["after"] == done["last"] + 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB; its mount options can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(small_disk):
    store = Store.open(small_disk / "state")
    for number in (1, 2, 3):
        store.commit(declare(number), who="peer", what=str(number), rollouts={"e": rollout(number)})
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(bytes(4096))
    last = 3
    with pytest.raises(StateError, match="nothing was changed"):
        for number in range(4, 100):  # the first may still fit into the log
            store.commit(declare(number), who="peer", what=str(number), rollouts={"e": rollout(number)})
            last = number
    assert number_in(store) == last
    store.close()
    store = Store.open(small_disk / "state")  # a controller that starts on a full disk
    assert number_in(store) == last
    (small_disk / "ballast").unlink()
    store.commit(declare(last + 1), who="peer", what=str(last + 1), rollouts={"e": rollout(last + 1)})
    assert number_in(store) == last + 1
    store.close()


def test_a_disk_that_becomes_read_only(small_disk):
    def remount(mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", small_disk], check=True)

    store = Store.open(small_disk / "state")
    put(store, 1)
    store.close()
    remount("ro")
    store = Store.open(small_disk / "state")
    assert store.current().declared == declare(1, 1)
    assert store.statistics().read_only
    with pytest.raises(StateError, match="is read-only; nothing was changed"):
        put(store, 2)
    store.close()
    with pytest.raises(StateError, match="Read-only file system"):
        Store.open(small_disk / "other")
    remount("rw")
    store = Store.open(small_disk / "state")
    assert put(store, 2) == 2
    store.close()


@pytest.mark.parametrize("damage", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_not_ours(path, damage):
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(StateError, match="move it away to start afresh"):
        Store.open(path)
    assert path.read_bytes() == damage


def test_a_damaged_page_is_found_at_the_start(store, path):
    for number in range(50):
        put(store, number)
    store.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 4] = os.urandom(4096)
    path.write_bytes(data)
    with pytest.raises(StateError, match="damaged"):
        Store.open(path)


def test_a_file_of_a_later_version(store, path):
    store.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StateError, match="of a later version of muleteer"):
        Store.open(path)


def test_a_place_where_no_file_can_be(tmp_path):
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "state", tmp_path):
        with pytest.raises(StateError, match="state file"):
            Store.open(wrong)
