"""Operations on the server as a whole: status, the declaration, its history, the end."""

from __future__ import annotations

from typing import Any

import msgspec

from muleteer.control.admin.operation import Ask, Control, FileShape, Operation
from muleteer.control.commands import Changed, Planned
from muleteer.control.store import Entry
from muleteer.spec.shape import write_declared


class FileBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`declared`: a whole FILE as JSON; `base_dir`: absolute, where relative model files in it start."""

    declared: FileShape
    base_dir: str


class ApplyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`expected_revision`: refuse (409) unless this one is current; `what`: for the history."""

    declared: FileShape
    base_dir: str
    expected_revision: int | None = None
    what: str = "apply"


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`revision`: whose declaration to declare again; null: the one before the current."""

    revision: int | None = None


class Health(msgspec.Struct, frozen=True):
    """`ok` is always true where there is an answer; `problems`: name → what does not work now."""

    ok: bool
    problems: dict[str, str]


class DeclaredNow(msgspec.Struct, frozen=True):
    """What is declared, as a FILE."""

    revision: int
    declared: FileShape


class RevisionView(msgspec.Struct, frozen=True):
    """A line of history. `time`: UTC, ISO 8601."""

    revision: int
    time: str
    who: str
    what: str


class RevisionDeclared(msgspec.Struct, frozen=True):
    """A line of history with what was declared then."""

    revision: int
    time: str
    who: str
    what: str
    declared: FileShape


class History(msgspec.Struct, frozen=True):
    """Newest first."""

    history: list[RevisionView]


async def _status(control: Control, _ask: Ask) -> dict[str, Any]:
    return await control.status()


def _health(control: Control, _ask: Ask) -> Health:
    return Health(ok=True, problems=control.problems())


def _declared(control: Control, _ask: Ask) -> DeclaredNow:
    return DeclaredNow(control.commands.revision, write_declared(control.commands.declared))


def _plan(control: Control, ask: Ask) -> Planned:
    return control.commands.plan(ask.body.declared, ask.body.base_dir)


def _apply(control: Control, ask: Ask) -> Changed:
    body = ask.body
    return control.commands.apply(
        body.declared,
        body.base_dir,
        who=ask.who,
        what=body.what[:_WHAT_MAX],
        expected_revision=body.expected_revision,
    )


def _history(control: Control, ask: Ask) -> History:
    entries = control.commands.history(ask.integer("limit", 50, 1, 1000))
    return History([_line(entry) for entry in entries])


def _revision(control: Control, ask: Ask) -> RevisionDeclared:
    found = control.commands.get(ask.number)
    line = _line(found.entry)
    return RevisionDeclared(line.revision, line.time, line.who, line.what, write_declared(found.declared))


def _roll_back(control: Control, ask: Ask) -> Changed:
    return control.commands.roll_back(ask.body.revision, who=ask.who)


def _shutdown(control: Control, _ask: Ask) -> Changed:
    control.shutdown()
    return Changed(control.commands.revision, (), "the server finishes its requests and stops", "muleteer serve")


def _line(entry: Entry) -> RevisionView:
    return RevisionView(entry.id, entry.time, entry.who, entry.what)


_WHAT_MAX = 200
OPERATIONS = (
    Operation(method="GET", path="/v1/status", call=_status, summary="What runs."),
    Operation(method="GET", path="/v1/health", call=_health, answer=Health, summary="Whether the controller is well."),
    Operation(method="GET", path="/v1/declared", call=_declared, answer=DeclaredNow, summary="What is declared."),
    Operation(
        method="POST",
        path="/v1/plan",
        call=_plan,
        body=FileBody,
        answer=Planned,
        summary="What applying a file would change; changes nothing.",
    ),
    Operation(
        method="POST",
        path="/v1/apply",
        call=_apply,
        body=ApplyBody,
        answer=Changed,
        summary="Declare a whole file: what it does not name is removed, but for settings of the server.",
    ),
    Operation(
        method="GET",
        path="/v1/history",
        call=_history,
        answer=History,
        query={"limit": "at most so many, 50 by default"},
        summary="The latest revisions, newest first.",
    ),
    Operation(
        method="GET",
        path="/v1/history/{revision}",
        call=_revision,
        answer=RevisionDeclared,
        summary="One revision with what it declares.",
    ),
    Operation(
        method="POST",
        path="/v1/rollback",
        call=_roll_back,
        body=RollbackBody,
        answer=Changed,
        summary="Declare again what an earlier revision declared.",
    ),
    Operation(
        method="POST",
        path="/v1/shutdown",
        call=_shutdown,
        answer=Changed,
        summary="Stop the server: requests in flight are finished.",
    ),
)
