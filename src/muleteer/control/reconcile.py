"""The reconcile step: one declared backend and its observed replicas in, actions out. Pure; must not know engines,
sockets or time.

Laws, proven by the simulation in the tests, where the wanted number moves at any time:
1. No drain leaves fewer ready replicas than wanted: a replacement is ready before a replica leaves. But for `give_way`:
   then one at a time makes way for its replacement, and never the last that is ready where more than one is wanted.
2. Beyond the wanted number at most one replica runs extra (the surge), and none where there is no room for it.
3. A generation of which no replica is ready has at most one replica while an older one serves. If that one fails, the
   older goes on serving. One that failed so is given up at once when a newer generation is wanted.
4. With faults over and code that starts, the end is: as many ready replicas as wanted, all current, none extra.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Condition = Literal["starting", "ready", "failed", "unplaced"]
"""`starting` includes the pause before another try; `failed` is never tried again by itself; `unplaced` waits for a
place, and there is none.
"""


Spare = Literal["surge", "none", "give_way"]
"""Room for one replica more than wanted: there is · not yet · never: an old one leaves before a new one starts."""


class Wanted(msgspec.Struct, frozen=True):
    """What is wanted of one backend: how many replicas, of which generation; `spare`: the room for replacing them."""

    replicas: int
    generation: int
    spare: Spare = "surge"


class Seen(msgspec.Struct, frozen=True):
    """One replica that is neither draining nor stopping.

    Attributes:
        number: grows with each replica of the backend; the newest has the largest.
        worn: to be replaced although its generation is current (it outgrew `max_rss`).
    """

    id: str
    number: int
    generation: int
    condition: Condition
    worn: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What to do now: start so many of the current generation, drain these (then stop them). `makes_way`: the one of
    these that is still needed, and leaves because its replacement has no room beside it.
    """

    start: int = 0
    drain: tuple[str, ...] = ()
    makes_way: str = ""


def plan(wanted: Wanted, seen: tuple[Seen, ...]) -> Plan:
    """The next step towards `wanted`. Called again after every change; an empty plan means wait, or done."""
    current = [replica for replica in seen if replica.generation == wanted.generation and not replica.worn]
    outdated = [replica for replica in seen if replica not in current]
    useless = [replica for replica in outdated if replica.condition == "failed" or _superseded(replica, seen)]
    outdated = [replica for replica in outdated if replica not in useless]
    drain = [replica.id for replica in useless]
    leaving = _leaving(wanted.replicas, current, outdated)
    start = _starting(wanted, current, outdated)
    makes_way = ""
    if wanted.spare == "give_way" and outdated and not start and not leaving:
        leaving, makes_way = _giving_way(wanted.replicas, current, outdated)
    return Plan(start, tuple(drain + leaving), makes_way)


def _superseded(replica: Seen, seen: tuple[Seen, ...]) -> bool:
    """Whether this outdated replica is of a generation that never proved itself, while an older one is there to fall
    back on. Its next try, perhaps half a minute away, must not hold up the newest.
    """
    proven = any(each.condition == "ready" and each.generation == replica.generation for each in seen)
    return not proven and any(each.generation < replica.generation for each in seen)


def _giving_way(replicas: int, current: list[Seen], outdated: list[Seen]) -> tuple[list[str], str]:
    """Who leaves: the oldest outdated one, unless one that starts has room already. And who of them makes way."""
    if any(replica.condition not in ("ready", "unplaced") for replica in current):
        return [], ""
    waiting = [replica.id for replica in outdated if replica.condition == "unplaced"]
    if waiting:
        return waiting, ""  # before they get what is to be the others'
    oldest = min(outdated, key=lambda replica: (replica.condition == "ready", replica.number))
    if oldest.condition == "ready":
        ready = sum(replica.condition == "ready" for replica in (*current, *outdated))
        return ([], "") if ready == 1 and replicas > 1 else ([oldest.id], oldest.id)
    return [oldest.id], ""


def _starting(wanted: Wanted, current: list[Seen], outdated: list[Seen]) -> int:
    replicas = wanted.replicas
    missing = replicas - len(current)
    if missing <= 0:
        return 0
    if not outdated:
        return missing
    if any(replica.condition != "ready" for replica in current):
        return 0  # one at a time: a generation proves itself before the next replica of it starts
    surge = replicas + (wanted.spare == "surge") - len(current) - len(outdated)
    return max(0, min(missing, surge, missing if current else 1))


def _leaving(replicas: int, current: list[Seen], outdated: list[Seen]) -> list[str]:
    """First what is outdated, oldest first; then the extra ones, newest first; of both, first what is not ready."""
    ready = sum(replica.condition == "ready" for replica in (*current, *outdated))
    proven = any(replica.condition == "ready" for replica in current)
    leaving = []
    for replica in sorted(outdated, key=lambda replica: (replica.condition == "ready", replica.number)):
        if replica.condition != "ready":
            if proven or ready >= replicas:  # else it may come back, and be needed
                leaving.append(replica.id)
        elif ready > replicas:
            leaving.append(replica.id)
            ready -= 1
    extra = len(current) - replicas
    for replica in sorted(current, key=lambda replica: (replica.condition == "ready", -replica.number))[
        : max(0, extra)
    ]:
        if replica.condition != "ready":
            leaving.append(replica.id)
        elif ready > replicas:
            leaving.append(replica.id)
            ready -= 1
    return leaving
