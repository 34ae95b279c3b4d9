"""What the admin API asks for: each change takes what is declared to what is declared then, commits it, and has the
controller follow. Must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from muleteer.base.errors import ConflictError
from muleteer.control import change
from muleteer.control.declaration import Commit, Declaration
from muleteer.control.store import Entry, NoRevisionError, Revision
from muleteer.spec.plan import Change, diff, render_plan
from muleteer.spec.settings import Declared


class Planned(msgspec.Struct, frozen=True):
    """What would change, from `revision` on. `text`: the same for people."""

    revision: int
    changes: tuple[Change, ...]
    text: str


class Changed(msgspec.Struct, frozen=True):
    """What changed. `revision`: the present one; `undo`: a command that takes it back, empty if nothing changed."""

    revision: int
    changes: tuple[Change, ...]
    text: str
    undo: str


class Moves(Protocol):
    """What commands need to know of rollouts."""

    def active(self) -> list[str]:
        """Endpoints whose traffic a rollout moves."""
        ...

    def known(self) -> list[str]:
        """Endpoints with a rollout, ended or not."""
        ...

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone."""
        ...


class Commands:
    """Args:
    follow: told what is declared from now on.
    """

    def __init__(self, declaration: Declaration, moves: Moves, follow: Callable[[Declared], None]) -> None:
        self._declaration = declaration
        self._moves = moves
        self._follow = follow

    @property
    def declared(self) -> Declared:
        """What is declared now."""
        return self._declaration.declared

    @property
    def revision(self) -> int:
        """Its revision."""
        return self._declaration.revision

    def plan(self, shape: dict[str, Any], base_dir: str) -> Planned:
        """What `apply` would change. Raises ShapeError."""
        after = change.apply(self.declared, shape, base_dir)
        change.check_fit(after)
        found = diff(self.declared, after)
        return Planned(self.revision, found.changes, render_plan(found))

    def apply(
        self, shape: dict[str, Any], base_dir: str, *, who: str, what: str, expected_revision: int | None = None
    ) -> Changed:
        """Declare a whole FILE. Raises ShapeError, ConflictError, ChangeError, StateError."""
        after = change.apply(self.declared, shape, base_dir)
        return self._commit(after, who, what, expected_revision)

    def make(self, make: Callable[[Declared], Declared], *, who: str, what: str) -> Changed:
        """One change, by a function of `control.change`. Raises what it raises, and StateError."""
        return self._commit(make(self.declared), who, what)

    def roll_back(self, revision: int | None, *, who: str) -> Changed:
        """Declare again what an earlier revision declared; without a number the one before this."""
        if revision is None:
            before = [entry.id for entry in self._declaration.history(2) if entry.id < self.revision]
            if not before:
                raise NoRevisionError("there is no earlier revision")
            revision = before[0]
        after = change.roll_back(self.declared, self._declaration.get(revision).declared)
        return self._commit(after, who, f"rollback to {revision}")

    def history(self, limit: int) -> list[Entry]:
        """The latest revisions, newest first."""
        return self._declaration.history(limit)

    def get(self, revision: int) -> Revision:
        """One revision."""
        return self._declaration.get(revision)

    def _commit(self, after: Declared, who: str, what: str, expected_revision: int | None = None) -> Changed:
        before, revision = self.declared, self.revision
        if expected_revision not in (None, revision):
            raise ConflictError(
                f"the declared state is at revision {revision} by now, not {expected_revision}: look again, then repeat"
            )
        found = diff(before, after)
        if not found.changes:
            return Changed(revision, (), render_plan(found), "")
        change.check_fit(after)
        change.check_rollouts(before, after, self._moves.active())
        names = {endpoint.name for endpoint in after.endpoints}
        gone = [endpoint for endpoint in self._moves.known() if endpoint not in names]
        made = self._declaration.change(Commit(declared=after, who=who, what=what, rollouts=dict.fromkeys(gone)))
        for endpoint in gone:
            self._moves.forget(endpoint)
        self._follow(after)
        return Changed(made, found.changes, render_plan(found), change.undo_of(before, after, revision))
