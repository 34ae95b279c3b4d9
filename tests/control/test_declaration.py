"""What is declared, over starts, crashes and a state directory that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from muleteer.base.errors import ConflictError, StateError
from muleteer.control.declaration import Commit, Declaration
from muleteer.control.problems import Problems
from muleteer.control.rollout import Policy, Rollout
from muleteer.spec.settings import BackendSpec, Declared, ServerSettings
from muleteer.spec.start import Start

TOKEN = "correct-horse-battery"


def declared(*names: str, **server: object) -> Declared:
    backends = tuple(BackendSpec(name=name, target="m.py:M", base_dir="/") for name in names)
    return Declared(server=ServerSettings(**server), backends=backends)


class Place:
    def __init__(self, root: Path) -> None:
        self.run_dir, self.state_dir = root / "run", root / "state"
        self.run_dir.mkdir()
        self._open: list[Declaration] = []

    def start(self, start_id: str, given: Declared | None = None) -> Declaration:
        """A controller's life within the start of that id."""
        server = ServerSettings(state_dir=str(self.state_dir), admin_token=TOKEN)
        start = Start(start_id=start_id, who="cli:ann", what="serve m.py:M", declared=given, server=server)
        found = Declaration(start, str(self.run_dir), Problems())
        found.open()
        self._open.append(found)
        return found

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


def change(to: Declared, **more: object) -> Commit:
    return Commit(declared=to, who="api", what="change", **more)


def test_what_serve_was_told_is_declared_once_per_start(place: Place) -> None:
    first = place.start("1", declared("a"))
    assert (first.revision, first.declared) == (1, declared("a"))
    first.change(change(declared("a", "b")))
    after_crash = place.start("1", declared("a"))
    assert (after_crash.revision, after_crash.declared) == (2, declared("a", "b")), "changes since the start count"
    restarted = place.start("2", declared("c"))
    assert (restarted.revision, restarted.declared) == (3, declared("c"))
    assert [(entry.who, entry.what) for entry in restarted.history(9)][::2] == [("cli:ann", "serve m.py:M")] * 2


def test_a_start_that_was_told_nothing_goes_on(place: Place) -> None:
    assert place.start("1").declared == Declared()
    place.start("2", declared("a"))
    restored = place.start("3")
    assert (restored.revision, restored.declared) == (1, declared("a"))


def test_no_secret_is_stored(place: Place) -> None:
    place.start("1", declared("a", admin_token=TOKEN)).close()
    kept = [*place.state_dir.iterdir(), *place.run_dir.iterdir()]
    assert {path.name for path in kept} >= {"state.db", "last.json"}
    assert all(TOKEN.encode() not in path.read_bytes() for path in kept)


def test_the_key_of_cookies_outlives_servers_but_not_the_state(place: Place, tmp_path: Path) -> None:
    keys = {place.start(start_id).cookie_key for start_id in "123"}
    assert len(keys) == 1
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    assert other.start("1").cookie_key not in keys
    other.close()


def test_another_start_ends_rollouts_and_a_crash_does_not(place: Place) -> None:
    rollout = Rollout(endpoint="e", old="a", new="b", before={"a": 1.0}, policy=Policy())
    place.start("1", declared("a")).save(rollout, {"rollout e": "{}"})
    assert place.start("1", declared("a")).rollouts == {"e": rollout}
    assert place.start("2").rollouts == {"e": rollout}, "restored with everything"
    assert place.start("3", declared("a")).rollouts == {}
    assert place.start("3", declared("a")).rollouts == {}


def test_the_wrong_revision_is_a_conflict_and_no_problem(place: Place) -> None:
    found = place.start("1", declared("a"))
    with pytest.raises(ConflictError):
        found.change(change(declared("b"), expected_revision=7))
    assert (found.declared, found.problems.statistics()) == (declared("a"), {})


@pytest.fixture
def unusable(place: Place) -> Place:
    """The state directory's place is taken by a file."""
    place.state_dir.write_text("in the way")
    return place


def test_a_state_that_cannot_be_opened_disturbs_nothing_and_refuses_changes(unusable: Place) -> None:
    found = unusable.start("1", declared("a"))
    assert found.declared == declared("a")
    assert str(unusable.state_dir) in found.problems.statistics()["state"]
    assert found.cookie_key
    for attempt in (lambda: found.change(change(declared("b"))), lambda: found.history(1), lambda: found.get(1)):
        with pytest.raises(StateError):
            attempt()
    assert found.declared == declared("a")
    assert not found.retry()
    unusable.state_dir.unlink()
    assert found.retry(), "begin again with what can be read"
    again = unusable.start("1", declared("a"))
    assert (again.revision, again.problems.statistics()) == (1, {})


def test_a_controller_that_finds_the_state_gone_goes_on_with_what_was_declared_last(place: Place) -> None:
    place.start("1", declared("a")).change(change(declared("a", "b")))
    place.close()
    place.state_dir.rename(place.state_dir.with_name("gone"))
    place.state_dir.write_text("in the way")
    assert place.start("1", declared("a")).declared == declared("a", "b")
    assert place.start("2", declared("a")).declared == declared("a"), "another start knows better"
    (place.run_dir / "last.json").write_bytes(b"torn")
    assert place.start("1", declared("a")).declared == declared("a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_state_is_read(place: Place) -> None:
    place.start("1", declared("a")).close()
    (place.state_dir / "state.db").chmod(0o400)
    place.state_dir.chmod(0o500)
    found = place.start("2")
    assert found.declared == declared("a")
    with pytest.raises(StateError):
        found.change(change(declared("b")))
    place.state_dir.chmod(0o700)


def test_what_serve_was_told_is_written_when_that_is_possible(place: Place) -> None:
    first = place.start("1", declared("a"))
    other = place.start("1")
    held = other._store._connection
    held.execute("BEGIN IMMEDIATE")
    first._store._connection.execute("PRAGMA busy_timeout = 1")
    assert first.change(change(declared("b")), force=True) == 1
    assert (first.declared, "state" in first.problems.statistics()) == (declared("b"), True)
    with pytest.raises(StateError):
        first.change(change(declared("c")))
    held.execute("ROLLBACK")
    assert first.change(change(declared("c"))) == 3, "the one that waited comes first"
    assert first.get(2).declared == declared("b")
    assert first.problems.statistics() == {}


def test_last_json_holds_what_is_declared(place: Place) -> None:
    found = place.start("1", declared("a"))
    found.change(change(declared("b")))
    last = msgspec.json.decode((place.run_dir / "last.json").read_bytes())
    assert (last["start_id"], last["revision"], last["declared"]["backends"][0]["name"]) == ("1", 2, "b")
