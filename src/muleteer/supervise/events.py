"""What the supervisor tells the person in the foreground. Types only; must not know how they are shown."""

from __future__ import annotations

import msgspec

from muleteer.supervise.process import LastExit


class Started(msgspec.Struct, frozen=True):
    """A process runs, or is about to be forked (`pid` None). `restarts`: how often it was started before."""

    id: str
    pid: int | None
    restarts: int
    labels: dict[str, str]


class Stage(msgspec.Struct, frozen=True):
    """Progress of a start: `stage` took `seconds`."""

    id: str
    stage: str
    seconds: float


class Ready(msgspec.Struct, frozen=True):
    """It can work, `seconds` after it was started."""

    id: str
    seconds: float
    info: dict[str, object]


class Exited(msgspec.Struct, frozen=True):
    """It ended, or could not be started (`last_exit.reason` says which). Backoff, Failed or Stopped may follow."""

    id: str
    last_exit: LastExit


class Backoff(msgspec.Struct, frozen=True):
    """It is started again in `pause_s` seconds. `failed_starts`: in a row so far, 0 if it had been ready."""

    id: str
    pause_s: float
    failed_starts: int


class Failed(msgspec.Struct, frozen=True):
    """Too many failed starts in a row; it stays down until `retry`."""

    id: str
    failed_starts: int
    last_exit: LastExit


class Stopped(msgspec.Struct, frozen=True):
    """It was removed, or the tree stops; the id is forgotten."""

    id: str


class Notice(msgspec.Struct, frozen=True):
    """A line from process `id` (or from the supervisor, id "supervisor") for the person. `unservable`: the backend that
    cannot run as declared where it is to run; then `text` says why, and `reason` in a word. `crowded`: because others
    hold the room.
    """

    id: str
    text: str
    unservable: str = ""
    crowded: bool = False
    reason: str = ""


class Output(msgspec.Struct, frozen=True):
    """One line that a process wrote to stdout or stderr, without its end. May hold any character."""

    id: str
    text: str


class ShutDown(msgspec.Struct, frozen=True):
    """The tree stops because of `cause` (`SIGTERM`, …); `quick`: everything is killed now."""

    cause: str
    quick: bool


Event = Started | Stage | Ready | Exited | Backoff | Failed | Stopped | Notice | Output | ShutDown
