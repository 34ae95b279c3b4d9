"""What is declared now, and its way into the store. Must not know what runs, nor who asks.

The store is the truth. A store that cannot be read or written disturbs nothing: what is declared stays declared,
changes are refused, and `problems` says why. Two changes are made nevertheless and written as soon as that is possible:
what `serve` was told, and a rollout going back, since a version that does harm must not stay because a disk is full.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from muleteer.base.errors import ConflictError, StateError
from muleteer.control.problems import Problems
from muleteer.control.rollout import Rollout
from muleteer.control.store import Entry, Revision, Store
from muleteer.spec.settings import Declared
from muleteer.spec.start import Start

PROBLEM = "state"
STATE_FILE = "state.db"
"""In the state directory."""
_START, _COOKIE_KEY = "start_id", "cookie_key"


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One change to write: all that is declared from then on, and what belongs to it."""

    declared: Declared
    who: str
    what: str
    expected_revision: int | None = None
    rollouts: dict[str, Rollout | None] = {}
    notes: dict[str, str | None] = {}


class Last(msgspec.Struct, frozen=True):
    """What `last.json` in the run directory holds, for a controller that finds the store unreadable."""

    start_id: str
    revision: int
    declared: Declared


class Declaration:
    """Open before use.

    Args:
        start: what this server was started with.
        run_dir: for `last.json`, and for the state file where no state directory is set.
        problems: where to report what does not work.

    Attributes:
        declared: now.
        revision: its number; 0 before the first.
        server: the settings this server runs with.
        cookie_key: see Snapshot.
        rollouts: as stored when this was opened.
        notes: texts that belong to rollouts, as stored when this was opened.
    """

    def __init__(self, start: Start, run_dir: str, problems: Problems) -> None:
        self.declared = Declared()
        self.revision = 0
        self.server = start.server or (start.declared or Declared()).server
        self.problems = problems
        self.cookie_key = ""
        self.rollouts: dict[str, Rollout] = {}
        self.notes: dict[str, str] = {}
        self._start = start
        self._path = Path(self.server.state_dir or run_dir, STATE_FILE)
        self._last = Path(run_dir, "last.json")
        self._store: Store | None = None
        self._unwritten: list[Commit] = []

    def open(self) -> None:
        """Find what is declared: what `serve` was told, once, else the newest revision. Never raises StateError."""
        given = self._start.declared
        if given is not None:
            given = without_secrets(given)
        try:
            self._store = Store.open(self._path)
            current = self._store.current()
            self.rollouts = self._store.load_rollouts()
            self.notes = self._store.load_notes()
        except StateError as error:
            self.problems.begin(PROBLEM, str(error))
            self._fall_back(given)
        else:
            self.declared = current.declared if current is not None else Declared()
            self.revision = current.entry.id if current is not None else 0
            told_before = self.notes.get(_START) == self._start.start_id
            if given is not None and not told_before:
                stored, self.rollouts = self.rollouts, {}
                self.change(self._first(given, stored), force=True)
        self.cookie_key = self.notes.get(_COOKIE_KEY) or self._new_cookie_key()

    def close(self) -> None:
        """Let go of the file."""
        if self._store is not None:
            self._store.close()

    def change(self, commit: Commit, *, force: bool = False) -> int:
        """From now on `commit.declared` is declared; the number of its revision.

        Raises:
            ConflictError: another revision than the expected one is current.
            StateError: it cannot be written, so nothing changed; with `force` it is declared all the same.
        """
        try:
            revision = self._write(self._writable(), commit)
        except ConflictError:
            raise
        except StateError:
            if not force:
                raise
            self._unwritten.append(commit)
            revision = self.revision
        self.declared, self.revision = commit.declared, revision
        self._write_last()
        return revision

    def save(self, rollout: Rollout, notes: dict[str, str | None]) -> None:
        """Remember where a rollout is, when nothing else changes. Raises StateError."""
        self._writable().save_rollout(rollout, notes=notes)

    def retry(self) -> bool:
        """Write what could not be written. True if the store, unreadable until now, can be read: start over then."""
        if self._store is None:
            with suppress(StateError):
                Store.open(self._path).close()
                return True
        elif self._unwritten:
            with suppress(StateError):
                self._writable()
        return False

    def history(self, limit: int) -> list[Entry]:
        """The latest revisions, newest first. Raises StateError."""
        return self._readable().history(limit)

    def get(self, revision: int) -> Revision:
        """One revision. Raises StateError, NoRevisionError if it is not there."""
        return self._readable().get(revision)

    def _readable(self) -> Store:
        if self._store is None:
            raise StateError(self.problems.statistics().get(PROBLEM, f"state file {self._path} cannot be read"))
        return self._store

    def _writable(self) -> Store:
        """The store, with everything written that had to wait."""
        store = self._readable()
        while self._unwritten:
            self.revision = self._write(store, self._unwritten[0])
            del self._unwritten[0]
        return store

    def _write(self, store: Store, commit: Commit) -> int:
        try:
            revision = store.commit(
                commit.declared,
                who=commit.who,
                what=commit.what,
                expected_revision=commit.expected_revision,
                rollouts=commit.rollouts,
                notes=commit.notes,
            )
        except ConflictError:
            raise
        except StateError as error:
            self.problems.begin(PROBLEM, str(error))
            raise
        self.problems.end(PROBLEM)
        return revision

    def _first(self, given: Declared, stored: Iterable[str]) -> Commit:
        """What `serve` was told. Rollouts that were stored end with it: their traffic is not what was told."""
        ended: dict[str, Rollout | None] = dict.fromkeys(stored)
        notes: dict[str, str | None] = {_START: self._start.start_id}
        return Commit(declared=given, who=self._start.who, what=self._start.what, rollouts=ended, notes=notes)

    def _fall_back(self, given: Declared | None) -> None:
        """Without a store: what was declared last in this start, else what `serve` was told."""
        with suppress(OSError, msgspec.MsgspecError):
            last = msgspec.json.decode(self._last.read_bytes(), type=Last)
            if last.start_id == self._start.start_id:
                self.declared, self.revision = last.declared, last.revision
                return
        if given is not None:
            self.declared = given
            self._unwritten.append(self._first(given, ()))

    def _new_cookie_key(self) -> str:
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        with suppress(StateError):  # then it lasts as long as this controller
            self._writable().write_notes({_COOKIE_KEY: key})
        return key

    def _write_last(self) -> None:
        aside = self._last.with_suffix(".tmp")
        with suppress(OSError):  # it is only needed if the store fails too
            aside.write_bytes(msgspec.json.encode(Last(self._start.start_id, self.revision, self.declared)))
            aside.replace(self._last)


def without_secrets(declared: Declared) -> Declared:
    """The same with nothing in it that must not be stored."""
    server = declared.server
    return msgspec.structs.replace(declared, server=msgspec.structs.replace(server, admin_token=None))
