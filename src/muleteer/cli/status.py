"""`muleteer status`: what runs, like ps. Must stay quick to start: no msgspec, no event loop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muleteer.base.errors import CODES, NoAnswerError, NotRunningError
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import Paint, harmless, say, table
from muleteer.client.admin import get
from muleteer.client.errors import AdminRefused, AdminUnreachable
from muleteer.spec.run_dir import find_run_dir
from muleteer.spec.units import format_bytes

CONTROLLER_BACK_S = 5.0
"""A killed controller is promised to be back within this time."""
TAIL_LINES = 12
_POLL_S = 0.05
_SHADOW = ("equal", "different", "uncompared", "error", "dropped")
_COLOURS = {"ready": "green", "failed": "red", "backoff": "red", "starting": "yellow", "loading": "yellow"}


def run(arguments: Sequence[str]) -> int:
    """Print the state of the server in the run directory."""
    parser = Parser("status", "Show what runs: endpoints, backends, replicas, queues.")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_run_dir(parser)
    found = parser.parse(arguments)
    status = read_status(Path(find_run_dir(found.run_dir, os.environ)))
    if found.json:
        import json

        say(json.dumps(status, indent=2))
    else:
        say(render(status, Paint(sys.stdout)))
    return 0


def read_status(run_dir: Path, *, patience_s: float = CONTROLLER_BACK_S) -> dict[str, Any]:
    """The controller's status. Waits `patience_s` for one that is being restarted. Raises NotRunningError."""
    give_up = time.monotonic() + patience_s
    told = False
    while True:
        try:
            status: dict[str, Any] = get(run_dir / "admin.sock", "/v1/status")
            return status
        except AdminRefused as error:
            raise NoAnswerError(f"the controller refused: {error}") from None
        except AdminUnreachable:
            _raise_unless_running(run_dir)
            if time.monotonic() > give_up:
                raise NoAnswerError(f"the controller of {run_dir} does not answer; muleteer logs controller") from None
        if not told:
            told = True
            say("the controller is being restarted; requests are served meanwhile; waiting for it …", to=sys.stderr)
        time.sleep(_POLL_S)


def _raise_unless_running(run_dir: Path) -> None:
    from muleteer.supervise.rundir import read_lock  # msgspec: only when something is wrong

    if read_lock(run_dir) is None:
        raise NotRunningError(f"no muleteer runs in {run_dir}; start one with muleteer serve, or name its --run-dir")


def render(status: dict[str, Any], paint: Paint) -> str:
    """The tables of `status`: endpoints, replicas, our own processes; below them what is wrong, and why."""
    address = status.get("address") or "no address"
    endpoints = [
        (each["route"], each["name"], ", ".join(f"{name} {_share(each['traffic'], name)}" for name in each["traffic"]))
        for each in status["endpoints"]
    ]
    replicas = [
        (backend, replica)
        for backend in status["backends"]
        for replica in backend["replicas"] or [{"id": "-", "state": "-"}]
    ]
    head = ("BACKEND", "STATE", "QUEUE", "REPLICA", "PID", "STATE", "IN FLIGHT", "MEMORY", "RESTARTS", "LAST EXIT")
    processes = status.get("processes", [])
    revision = f"  revision {status['revision']}" if status.get("revision") else ""
    admin = f"  admin {status['admin_address']}" if status.get("admin_address") else ""
    changing = "" if status.get("settled", True) else paint("  not settled", "yellow")
    parts = [
        f"muleteer  pid {status['pid']}  {address}  engine {status['engine']}{admin}{revision}{changing}",
        table(("ROUTE", "ENDPOINT", "TRAFFIC"), endpoints),
        *_versions(status["endpoints"]),
        _coloured(head, [_row(*each) for each in replicas], [replica["state"] for _, replica in replicas], paint),
        _coloured(
            ("PROCESS", "PID", "STATE", "RESTARTS", "LAST EXIT"),
            [
                (each["id"], _text(each["pid"]), each["state"], _text(each["restarts"]), _exit(each["last_exit"]))
                for each in processes
            ],
            [each["state"] for each in processes],
            paint,
        ),
        *_gateways(status.get("gateways", {}), address),
        *_notes(status),
    ]
    return "\n\n".join(parts)


def _versions(endpoints: Sequence[dict[str, Any]]) -> list[str]:
    """What each version answered, where an endpoint has several."""
    rows = [
        (endpoint["name"], name, *_counts(version["outcomes"]), *map(_time, (version["p50_s"], version["p99_s"])))
        for endpoint in endpoints
        if len(endpoint.get("versions", ())) > 1
        for name, version in endpoint["versions"].items()
    ]
    return [table(("ENDPOINT", "VERSION", "ANSWERED", "FAILED", "OTHER", "P50", "P99"), rows)] if rows else []


def _counts(outcomes: dict[str, int]) -> tuple[str, str, str]:
    """200s; failures of the version (500, 502, 504); the rest: refusals, mistakes of clients, clients that left."""
    answered = outcomes.get("ok", 0)
    failed = sum(count for code, count in outcomes.items() if code in CODES and CODES[code].status in (500, 502, 504))
    return str(answered), str(failed), str(sum(outcomes.values()) - answered - failed)


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"


def _row(backend: dict[str, Any], replica: dict[str, Any]) -> tuple[str, ...]:
    own_bytes = replica.get("measured_bytes") or replica.get(
        "rss_bytes"
    )  # what is shared counts in parts, once measured
    return (
        backend["name"],
        backend["state"],
        f"{backend['queue']['depth']}/{backend['queue']['bound']}",
        replica["id"],
        _text(replica.get("pid")),
        replica["state"],
        _text(replica.get("in_flight")),
        "-" if own_bytes is None else format_bytes(own_bytes),
        _text(replica.get("restarts")),
        _exit(replica.get("last_exit")),
    )


def _coloured(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], states: Sequence[str], paint: Paint) -> str:
    first, *lines = table(head, rows).split("\n")
    return "\n".join(
        [
            first,
            *(
                paint(line, _COLOURS[state]) if state in _COLOURS else line
                for line, state in zip(lines, states, strict=True)
            ),
        ]
    )


def _share(traffic: dict[str, float], name: str) -> str:
    return f"{100 * traffic[name] / (sum(traffic.values()) or 1):.3g}%"


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _exit(last_exit: dict[str, Any] | None) -> str:
    if not last_exit:
        return "-"
    if last_exit.get("signal"):
        return f"{last_exit['reason']} ({last_exit['signal']})"
    return f"{last_exit['reason']} ({last_exit['code']})" if last_exit.get("code") else str(last_exit["reason"])


def _gateways(gateways: dict[str, Any], address: str) -> list[str]:
    """Those that answer elsewhere, one on each node of a cluster."""
    urls = {name: told.get("url") or "-" for name, told in gateways.items()}
    if all(url in (address, "-") for url in urls.values()):
        return []
    rows = [(name, urls[name], "answers" if told["answers"] else "away") for name, told in gateways.items()]
    return [table(("GATEWAY", "ADDRESS", "STATE"), rows)]


def _notes(status: dict[str, Any]) -> list[str]:
    """Why something is down, with the end of what it wrote; why a change is not served; what does not work."""
    notes = []
    for backend in status["backends"]:
        down = [each for each in backend["replicas"] if each["state"] in ("failed", "backoff") and each["last_exit"]]
        notes += [_why_down(each) for each in down]
        if backend.get("reason") and not down:
            notes.append(f"{backend['name']}: {harmless(backend['reason'])}")
    for endpoint in status["endpoints"]:
        shadow = endpoint.get("shadow")
        if shadow and "sent" in shadow:
            counts = ", ".join(f"{shadow[name]} {name}" for name in _SHADOW)
            notes.append(f"{endpoint['name']}: {shadow['percent']:g} % is copied to {shadow['backend']}: {counts}")
        rollout = endpoint.get("rollout")
        if rollout and not rollout["ended"]:
            notes.append(
                f"{endpoint['name']}: rollout from {rollout['old']} to {rollout['new']}, {rollout['phase']} at "
                f"{rollout['share']:g} %: {harmless(rollout['reason'])}"
            )
    return notes + [f"controller: {harmless(problem)}" for problem in status.get("problems", {}).values()]


def _why_down(replica: dict[str, Any]) -> str:
    last_exit = replica["last_exit"]
    text = last_exit.get("message") or last_exit.get("log_tail") or ""
    lines = [f"  {harmless(line)}" for line in text.rstrip().split("\n")[-TAIL_LINES:] if line]
    return "\n".join([f"{replica['id']} is {replica['state']}: {_exit(last_exit)}", *lines])
