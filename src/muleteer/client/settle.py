"""Waits until what runs is what was declared, or says why it will not be. Must not know what was asked for."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from muleteer.client.admin import Admin
from muleteer.client.errors import StartFailed

SETTLE_S_MAX = 7200.0
"""A last resort: a load that takes longer than the longest `load_timeout` is reported by the server itself."""
RETRIED = frozenset({"exited", "killed", "oom_killed", "hung", "ready_timeout", "stopped", "not_started", "not_forked"})
"""Ends of a start that another start may mend. Every other reason is the replica's own word, and would come again."""
PLACE_S = 30.0
"""A replica without a place on a cluster may get that of one that leaves; without one for so long it is said."""
_POLL_S = (0.02, 0.5)
"""At first, and at most; each look doubles it."""


class Settled(NamedTuple):
    """After how many seconds, and which backends have room for fewer replicas than they want, and why."""

    took_s: float
    short: dict[str, str]


def wait_until_settled(admin: Admin, changes: Collection[dict[str, Any]], *, limit_s: float = SETTLE_S_MAX) -> Settled:
    """Return when all that `changes` (of an answer of the admin API) name runs as declared, or as much of it as has
    room beside the others; see Settled.

    Raises StartFailed once a changed backend cannot become ready, or `limit_s` is over; AdminUnreachable if the
    controller stays away.
    """
    began = time.monotonic()
    touched = {change["name"] for change in changes if change["what"] == "backend"}
    pause = _POLL_S[0]
    while True:
        status = admin.get_patiently("/v1/status")
        waiting = unsettled(status, touched)
        if not waiting:
            short = {each["name"]: str(each["reason"]) for each in status["backends"] if _short(each, touched)}
            return Settled(time.monotonic() - began, short)
        if time.monotonic() - began > limit_s:
            raise StartFailed(f"{waiting[0]} is not ready after {limit_s:g} s", waiting[0])
        time.sleep(pause)
        pause = min(2 * pause, _POLL_S[1])


def unsettled(status: dict[str, Any], touched: Collection[str]) -> list[str]:
    """Names of what does not yet run as declared: backends in `touched`, gateways that route as before.

    Raises StartFailed if one of them will not.
    """
    waiting = []
    for backend in status["backends"]:
        if backend["name"] not in touched:
            continue
        reason = start_failure(backend)
        if reason is not None:
            raise StartFailed(f"{_still_serving(backend)}: {reason}", backend["name"])
        if not backend["settled"]:
            waiting.append(backend["name"])
    for name, gateway in status["gateways"].items():
        if gateway["revision"] != status["snapshot"] or not gateway["answers"]:  # who is silent tells of no links
            waiting.append(name)
    return waiting


def _still_serving(backend: dict[str, Any]) -> str:
    """What a backend does of which a replica cannot start."""
    name, wanted = backend["name"], backend["wanted"]
    ready = [replica["generation"] for replica in backend["replicas"] if replica["state"] == "ready"]
    current = ready.count(backend["generation"])
    older = current < len(ready)
    if current:
        beside = ", beside the old version" if older else ""
        return f"{name} serves with {current} of {wanted} replicas{beside}, and no more start"
    return f"{name} does not start" + (", and the old version goes on serving" if older else "")


def _short(backend: dict[str, Any], touched: Collection[str]) -> bool:
    return backend["name"] in touched and len(backend["replicas"]) < backend["wanted"]


def start_failure(backend: dict[str, Any]) -> str | None:
    """Why replicas of what is declared now cannot become ready, if it is certain."""
    if backend["state"] == "failed" and not backend["replicas"]:  # none is even started, as it fits nowhere
        return str(backend["reason"])
    for replica in backend["replicas"]:
        last_exit = replica["last_exit"]
        if replica["generation"] != backend["generation"] or not last_exit or last_exit["was_ready"]:
            continue
        if last_exit["reason"] == "unplaced" and replica["state_s"] < PLACE_S:
            continue
        given_up = replica["state"] == "failed"
        if given_up or (replica["state"] == "backoff" and last_exit["reason"] not in RETRIED):
            return str(backend["reason"] or last_exit["reason"])
    return None
