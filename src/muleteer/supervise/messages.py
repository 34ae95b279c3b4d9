"""The control messages as types (docs/processes.md). Sans-IO: must not know sockets.

Unknown fields are let pass: a replica in its own environment may carry another version of muleteer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from muleteer.base.errors import WireError
from muleteer.supervise.process import ProcessSpec, ProcessStatus


class Stage(msgspec.Struct, frozen=True, tag_field="type", tag="stage"):
    """Progress of a start."""

    stage: str
    seconds: float


class Ready(msgspec.Struct, frozen=True, tag_field="type", tag="ready"):
    """It proved that it can work."""

    info: dict[str, object] = {}


class Born(msgspec.Struct, frozen=True, tag_field="type", tag="born"):
    """The first word about a process that was forked from a template: its number."""

    pid: int


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed"):
    """Why it is about to exit."""

    reason: str
    message: str = ""


class Abort(msgspec.Struct, frozen=True, tag_field="type", tag="abort"):
    """Dump the stacks of a process and kill it, unless that pid is gone already."""

    process: str
    pid: int
    reason: str


class Notice(msgspec.Struct, frozen=True, tag_field="type", tag="notice"):
    """A line for the person in the foreground. `unservable`: the backend that cannot run here as declared; the text
    says why, and `reason` in a word. `crowded`: because others hold the room, which go on.
    """

    text: str
    unservable: str = ""
    crowded: bool = False
    reason: str = ""


class Ensure(msgspec.Struct, frozen=True, tag_field="type", tag="ensure"):
    """Keep this alive."""

    process: ProcessSpec


class Remove(msgspec.Struct, frozen=True, tag_field="type", tag="remove"):
    """Stop it and forget it."""

    process: str


class Retry(msgspec.Struct, frozen=True, tag_field="type", tag="retry"):
    """Start a FAILED one afresh."""

    process: str


class Shutdown(msgspec.Struct, frozen=True, tag_field="type", tag="shutdown"):
    """Stop everything, in its order, as SIGTERM does."""


class ProcessesMessage(msgspec.Struct, frozen=True, tag_field="type", tag="processes"):
    """To a starting controller: adopt these."""

    processes: list[ProcessStatus]


class ProcessMessage(msgspec.Struct, frozen=True, tag_field="type", tag="process"):
    """To the controller: this changed."""

    process: ProcessStatus


class Known(msgspec.Struct, frozen=True, tag_field="type", tag="known"):
    """To a process that was forked: its number is noted, it may go on."""


ChildMessage = Born | Stage | Ready | Failed | Abort | Notice | Ensure | Remove | Retry | Shutdown


def parse(message: dict[str, Any]) -> ChildMessage:
    """The message of a child. Raises WireError where it is none that we know."""
    try:
        parsed: ChildMessage = msgspec.convert(message, ChildMessage)
    except msgspec.ValidationError as error:
        raise WireError(f"control message {message.get('type')!r}: {error}") from None
    return parsed
