"""What was declared, with every revision of it, in one SQLite file. Must not know what runs.

One change is one transaction: the new revision and the rollouts that belong to it are there together or not at all,
also after a SIGKILL or on a full disk. The current revision is the newest; a rollback is a new revision with an old
declaration. Rollouts are kept as JSON text; their shape is `control.rollout`'s. Notes are texts that others
keep beside them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from muleteer.base.errors import ConflictError, StateError
from muleteer.base.limits import REVISIONS_KEPT, STATE_BUSY_S
from muleteer.control.rollout import Rollout
from muleteer.spec.settings import Declared

if TYPE_CHECKING:
    import sqlite3

VERSION = 1
"""Of the tables below, kept as `user_version`. A file of a later version is refused, never guessed at."""

_BUSY_POLL_S = 0.005

_TABLES = """
CREATE TABLE revisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    declared TEXT NOT NULL
);
CREATE TABLE rollouts (endpoint TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
"""


class NoRevisionError(StateError):
    """There is no such revision, or none any more."""


class Entry(msgspec.Struct, frozen=True):
    """One line of history. `time`: UTC, ISO 8601, for people. `who`: `cli:alice`. `what`: `set traffic of e`."""

    id: int
    time: str
    who: str
    what: str


class Revision(msgspec.Struct, frozen=True):
    """A line of history with all that was declared then."""

    entry: Entry
    declared: Declared


class StoreStatistics(msgspec.Struct, frozen=True):
    """`revision` is the current one, 0 if none; `revisions` are kept; `bytes` of the file without its log."""

    revision: int
    revisions: int
    bytes: int
    read_only: bool


class Store:
    """Open with `Store.open`. For one thread at a time; several processes may have the same file open.

    Every method raises StateError where the file cannot be read or written. Then nothing has changed.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self._path = path
        self._connection = connection
        self.read_only = read_only

    @classmethod
    def open(cls, path: Path, *, busy_s: float = STATE_BUSY_S) -> Store:
        """Open the file, or make it (0600). On a read-only disk what is stored can still be read.

        `busy_s`: how long to wait for another process that writes.
        """
        with _explained(path):
            try:
                connection = _open_writable(path, busy_s)
            except StateError as error:
                if not path.exists() or _writable(path):
                    raise
                connection = _open_read_only(path, error)
                return cls(path, connection, read_only=True)
        return cls(path, connection, read_only=False)

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._connection.close()

    # revisions

    def current(self) -> Revision | None:
        """The newest revision; None if nothing was ever declared."""
        return self._revision("ORDER BY id DESC LIMIT 1")

    def get(self, revision: int) -> Revision:
        """That revision. Raises NoRevisionError."""
        found = self._revision("WHERE id = ?", revision)
        if found is None:
            raise NoRevisionError(f"there is no revision {revision}; the latest {REVISIONS_KEPT} are kept")
        return found

    def history(self, limit: int = 20) -> list[Entry]:
        """The latest revisions, newest first, without what they declare."""
        with self._reading("SELECT id, time, who, what FROM revisions ORDER BY id DESC LIMIT ?", limit) as rows:
            return [Entry(*row) for row in rows]

    def commit(
        self,
        declared: Declared,
        *,
        who: str,
        what: str,
        expected_revision: int | None = None,
        rollouts: Mapping[str, Rollout | None] | None = None,
        notes: Mapping[str, str | None] | None = None,
    ) -> int:
        """Make `declared` the current revision and return its number; on the disk when this returns.

        Args:
            declared: everything, not only what changed.
            who: who asked for it.
            what: what was asked for, in a few words.
            expected_revision: raise ConflictError unless this one is current (0: none yet).
            rollouts: by endpoint, written in the same transaction; None removes one.
            notes: by name, likewise.
        """
        text = msgspec.json.encode(declared).decode()
        with self._writing() as run:
            (newest,) = run("SELECT coalesce(max(id), 0) FROM revisions").fetchone()
            if expected_revision is not None and newest != expected_revision:
                raise ConflictError(
                    f"the declared state is at revision {newest} by now, not {expected_revision}: look, then repeat"
                )
            cursor = run("INSERT INTO revisions (who, what, declared) VALUES (?, ?, ?)", who, what, text)
            revision = int(cursor.lastrowid or 0)
            run("DELETE FROM revisions WHERE id <= ?", revision - REVISIONS_KEPT)
            _write_rollouts(run, rollouts or {})
            _write_notes(run, notes or {})
        return revision

    # rollouts

    def save_rollout(self, rollout: Rollout, notes: Mapping[str, str | None] | None = None) -> None:
        """Remember where a rollout is (when its traffic does not change; else `commit` it together with that)."""
        with self._writing() as run:
            _write_rollouts(run, {rollout.endpoint: rollout})
            _write_notes(run, notes or {})

    def load_rollouts(self) -> dict[str, Rollout]:
        """All rollouts, by endpoint."""
        with self._reading("SELECT endpoint, state FROM rollouts ORDER BY endpoint") as rows:
            return {endpoint: self._decode(state, Rollout) for endpoint, state in rows}

    # notes

    def write_notes(self, notes: Mapping[str, str | None]) -> None:
        """Keep these texts; None removes one."""
        with self._writing() as run:
            _write_notes(run, notes)

    def load_notes(self) -> dict[str, str]:
        """All notes, by name."""
        with self._reading("SELECT name, text FROM notes") as rows:
            return {str(name): str(text) for name, text in rows}

    def statistics(self) -> StoreStatistics:
        """A frozen snapshot."""
        with self._reading("SELECT coalesce(max(id), 0), count(*) FROM revisions") as rows:
            ((revision, count),) = rows
        with self._reading("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size") as rows:
            ((size,),) = rows
        return StoreStatistics(revision, count, size, self.read_only)

    # the file

    def _revision(self, where: str, *values: int) -> Revision | None:
        query = f"SELECT id, time, who, what, declared FROM revisions {where}"  # noqa: S608  `where` is ours
        with self._reading(query, *values) as rows:
            return next((Revision(Entry(*row[:4]), self._decode(row[4], Declared)) for row in rows), None)

    def _decode(self, text: str, type: type[Any]) -> Any:
        try:
            return msgspec.json.decode(text, type=type)
        except msgspec.DecodeError as error:
            raise StateError(f"state file {self._path} holds what this version does not know: {error}") from None

    @contextmanager
    def _reading(self, query: str, *values: Any) -> Iterator[list[tuple[Any, ...]]]:
        with _explained(self._path), closing(self._connection.execute(query, values)) as cursor:
            rows = cursor.fetchall()
        yield rows

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """One transaction, from the first read to the last write: nobody else can come in between."""
        if self.read_only:
            raise StateError(f"state file {self._path} is read-only; nothing was changed")
        connection = self._connection
        with _explained(self._path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield lambda query, *values: connection.execute(query, values)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:  # not committed; after some faults SQLite has rolled back itself
                    connection.execute("ROLLBACK")


def _write_rollouts(run: Any, rollouts: Mapping[str, Rollout | None]) -> None:
    for endpoint, rollout in rollouts.items():
        if rollout is None:
            run("DELETE FROM rollouts WHERE endpoint = ?", endpoint)
        else:
            state = msgspec.json.encode(rollout).decode()
            run("INSERT OR REPLACE INTO rollouts (endpoint, state) VALUES (?, ?)", endpoint, state)


def _write_notes(run: Any, notes: Mapping[str, str | None]) -> None:
    for name, text in notes.items():
        if text is None:
            run("DELETE FROM notes WHERE name = ?", name)
        else:
            run("INSERT OR REPLACE INTO notes (name, text) VALUES (?, ?)", name, text)


def _open_writable(path: Path, busy_s: float) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite would heed the umask only
    except OSError as error:
        raise StateError(f"state file {path}: {error.strerror}") from None
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw", busy_s)
    with ExitStack() as opening, _explained(path):
        opening.callback(connection.close)
        _keep_log(connection, busy_s)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if _checked_version(connection, path) == 0:
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        opening.pop_all()  # it is sound: leave it open
    return connection


def _keep_log(connection: sqlite3.Connection, busy_s: float) -> None:
    """Write-ahead logging. Where two do this to a new file at once, SQLite refuses one without waiting: wait here."""
    import sqlite3

    give_up = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(_BUSY_POLL_S)
        else:
            return


def _open_read_only(path: Path, reason: StateError) -> sqlite3.Connection:
    """`immutable` needs no lock and no log beside the file; a log that was left there must not be passed over."""
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise reason
    connection = _connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", 0.0)
    with ExitStack() as opening, _explained(path):
        opening.callback(connection.close)
        if _checked_version(connection, path) != VERSION:
            raise reason
        opening.pop_all()
    return connection


def _connect(uri: str, busy_s: float) -> sqlite3.Connection:
    import sqlite3  # 10 ms; only the controller needs it

    return sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StateError(f"state file {path} is of a later version of muleteer ({version}, this one reads {VERSION})")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StateError(f"state file {path} is damaged ({verdict}); move it away to start afresh")
    return int(version)


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, in words that say what to do."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        # the primary code is in the low byte, details above it
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        words = {
            sqlite3.SQLITE_FULL: "cannot grow: the disk is full; nothing was changed",
            sqlite3.SQLITE_READONLY: "is read-only; nothing was changed",
            sqlite3.SQLITE_BUSY: "is in use by another process for too long; nothing was changed",
            sqlite3.SQLITE_IOERR: f"cannot be read or written ({error}); nothing was changed",
            sqlite3.SQLITE_NOTADB: "is not a state file of muleteer, or damaged; move it away to start afresh",
            sqlite3.SQLITE_CORRUPT: "is damaged; move it away to start afresh",
        }
        raise StateError(f"state file {path} {words.get(code, f'failed: {error}')}") from None
