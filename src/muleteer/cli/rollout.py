"""`muleteer rollout`: moves an endpoint's traffic to another backend in steps, and shows how far it is."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from muleteer.base.errors import UsageError
from muleteer.cli.change import Steering, harmless_lines
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import Paint, harmless, say, table
from muleteer.client.admin import path_of
from muleteer.spec.units import parse_seconds

NOT_COMPLETED = 1
"""Exit status of `--watch` for a rollout that was rolled back or aborted."""
_ACTIONS = ("pause", "resume", "abort")
_POLICY = ("steps", "interval", "max_error_increase", "max_p99_ratio", "min_requests", "shadow_first")
_WATCH_S = 0.5
_BAR = 40
_COLOURS = {"completed": "green", "rolled_back": "red", "aborted": "yellow", "paused": "yellow"}


def run(arguments: Sequence[str]) -> int:
    """Start, steer, show or watch one rollout."""
    found = _parse(arguments)
    action, endpoint = (None, *found.words) if len(found.words) == 1 else found.words
    given = [name for name in _POLICY if getattr(found, name)]
    steering = Steering(found)
    path = path_of("endpoints", endpoint, "rollout")
    if action is not None:
        if action not in _ACTIONS or found.to is not None or given:
            raise UsageError(f"write muleteer rollout {'|'.join(_ACTIONS)} ENDPOINT, or ENDPOINT --to BACKEND")
        _show_change(steering, steering.send("POST", f"{path}/{action}"))
    elif found.to is not None:
        _show_change(steering, steering.send("POST", path, read_policy(found)))
    elif given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} needs --to BACKEND: the steps of a rollout are set at its start"
        )
    if found.watch:
        return _watch(steering, path)
    if action is None and found.to is None:
        say(render(steering.get(path), Paint(sys.stdout)))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "rollout",
        "Move an endpoint's traffic to another backend in steps. Each step is gated on a comparison of both; what is "
        "worse is rolled back at once. Without --to: show the last rollout.",
    )
    parser.add_argument(
        "words", nargs="+", metavar="ENDPOINT", help="or: pause ENDPOINT, resume ENDPOINT, abort ENDPOINT"
    )
    parser.add_argument("--to", metavar="BACKEND", help="the backend that is to get all the traffic")
    parser.add_argument("--steps", metavar="PERCENT,…", help="its share at each step (default: 1,10,50,100)")
    parser.add_argument("--interval", metavar="TIME", help="least time at each step (default: 60s)")
    parser.add_argument(
        "--max-error-increase", metavar="PERCENT", help="by which its error rate may be higher (default: 0.5%%)"
    )
    parser.add_argument(
        "--max-p99-ratio", type=float, metavar="X", help="by which its p99 may be higher (default: 1.2)"
    )
    parser.add_argument("--min-requests", type=int, metavar="N", help="of each backend at each step (default: 200)")
    parser.add_argument("--shadow-first", action="store_true", help="begin with copies of the traffic")
    parser.add_argument("--watch", action="store_true", help="show it live until it has ended")
    add_run_dir(parser)
    found = parser.parse(arguments)
    if len(found.words) > 2:
        raise UsageError(f"muleteer rollout does not expect {found.words[2]!r}")
    return found


def read_policy(found: argparse.Namespace) -> dict[str, Any]:
    """The body of the request; what was not given is left to the server's defaults. Raises UsageError."""
    body: dict[str, Any] = {"to": found.to}
    if found.steps:
        body["steps"] = [_percent(text, "--steps") for text in found.steps.split(",")]
    if found.interval:
        try:
            body["interval_s"] = parse_seconds(found.interval)
        except ValueError as error:
            raise UsageError(f"--interval: {error}") from None
    if found.max_error_increase:
        body["max_error_increase"] = _percent(found.max_error_increase, "--max-error-increase") / 100
    for name in ("max_p99_ratio", "min_requests"):
        if getattr(found, name) is not None:
            body[name] = getattr(found, name)
    if found.shadow_first:
        body["shadow_first"] = True
    return body


def _percent(text: str, flag: str) -> float:
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is not a percentage") from None


def _show_change(steering: Steering, answer: dict[str, Any]) -> None:
    say(harmless_lines(answer["text"]))
    if answer["undo"]:
        say(f"undo: {steering.command(answer['undo'])}")


def _watch(steering: Steering, path: str) -> int:
    """Redraw on a terminal; elsewhere a line whenever something is decided."""
    live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    paint = Paint(sys.stdout)
    drawn, told = 0, ""
    while True:
        rollout = steering.get(path)
        if live:
            text = render(rollout, paint)
            say((f"\x1b[{drawn}F\x1b[J" if drawn else "") + text)
            drawn = text.count("\n") + 1
        elif (line := f"{_where(rollout)}: {harmless(rollout['reason'])}") != told and _is_news(rollout, told):
            told = line
            say(line)
        if rollout["ended"]:
            return 0 if rollout["phase"] == "completed" else NOT_COMPLETED
        time.sleep(_WATCH_S)


def _is_news(rollout: dict[str, Any], told: str) -> bool:
    """The reason counts down while a step waits; in a log only the steps are news."""
    return rollout["ended"] or told.partition(":")[0] != _where(rollout)


def render(rollout: dict[str, Any], paint: Paint) -> str:
    """Where a rollout is, and what both versions did since the step began."""
    phase = rollout["phase"]
    given_up = rollout["ended"] and phase != "completed"
    share = 0.0 if given_up else rollout["share"]
    filled = round(_BAR * share / 100)
    bar = "█" * filled + "░" * (_BAR - filled)
    waited = f"{rollout['waited_s']:.0f} of at least {rollout['interval_s']:g} s"
    rows = [
        (
            name,
            str(window["requests"]),
            str(window["errors"]),
            _milliseconds(window["p50_s"]),
            _milliseconds(window["p99_s"]),
        )
        for name, window in rollout["windows"].items()
    ]
    return "\n".join(
        [
            f"{rollout['endpoint']}: {rollout['old']} → {rollout['new']}  {paint(phase, _COLOURS.get(phase, 'cyan'))}",
            f"{bar} {share:g} %  step {rollout['step']} of {len(rollout['steps'])}"
            + ("" if rollout["ended"] else f"  {waited}"),
            table(("VERSION", "REQUESTS", "ERRORS", "P50", "P99"), rows),
            harmless(rollout["reason"]),
        ]
    )


def _where(rollout: dict[str, Any]) -> str:
    return f"{rollout['endpoint']} {rollout['phase']} at {rollout['share']:g} %"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"
