"""The states of a supervised process, as a table. Pure: must not know processes, time or the policy that picks events.

Laws:
1. `TABLE[state]` holds the events that are legal there and where each leads. A missing entry *is* the illegal move.
2. A process exists for the kernel in STARTING, READY and STOPPING only (in STARTING perhaps not yet).
3. STOPPED is the last word: nothing leaves it, the id is forgotten.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """Where a process stands. The values travel in `ProcessStatus.state`."""

    STARTING = "starting"  # being started, or running and not yet ready
    READY = "ready"  # proved that it can work
    STOPPING = "stopping"  # told to stop; its end is awaited
    BACKOFF = "backoff"  # dead; started again after a pause
    FAILED = "failed"  # dead; too many failed starts in a row, waits for `retry`
    STOPPED = "stopped"  # gone and forgotten


class Event(Enum):
    """What may happen to a process. What an end leads to (AGAIN, PAUSE, GIVE_UP) is decided by `policy`."""

    READY = "ready"  # it said so
    AGAIN = "again"  # it ended; start at once
    PAUSE = "pause"  # it ended, or could not be started; start after a pause
    GIVE_UP = "give_up"  # it ended; enough failed starts in a row
    RESUME = "resume"  # the pause is over
    RETRY = "retry"  # the controller asks for a fresh start
    STOP = "stop"  # removed, or the whole tree stops
    GONE = "gone"  # it ended after STOP


class IllegalMove(Exception):
    """An event that the table does not allow in this state: a fault of the caller."""


TABLE: Final[dict[State, dict[Event, State]]] = {
    State.STARTING: {
        Event.READY: State.READY,
        Event.PAUSE: State.BACKOFF,
        Event.GIVE_UP: State.FAILED,
        Event.STOP: State.STOPPING,
    },
    State.READY: {
        Event.AGAIN: State.STARTING,
        Event.PAUSE: State.BACKOFF,
        Event.STOP: State.STOPPING,
    },
    State.STOPPING: {
        Event.READY: State.STOPPING,  # said before it saw the signal
        Event.STOP: State.STOPPING,  # asked twice
        Event.GONE: State.STOPPED,
    },
    State.BACKOFF: {
        Event.RESUME: State.STARTING,
        Event.RETRY: State.STARTING,
        Event.STOP: State.STOPPED,
    },
    State.FAILED: {
        Event.RETRY: State.STARTING,
        Event.STOP: State.STOPPED,
    },
    State.STOPPED: {},
}


def next_state(state: State, event: Event) -> State:
    """Where `event` leads from `state`. Raises IllegalMove where the table has no entry."""
    follows = TABLE[state].get(event)
    if follows is None:
        raise IllegalMove(f"{event.value} is not legal in state {state.value}")
    return follows
