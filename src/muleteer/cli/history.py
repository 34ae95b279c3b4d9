"""`muleteer history`: every revision of what was declared: when, by whom, why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muleteer.cli.change import Steering
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import harmless, say, table


def run(arguments: Sequence[str]) -> int:
    """Show the latest revisions, or what one of them declared."""
    parser = Parser("history", "Show what was declared: when, by whom; or what one revision declared, as JSON.")
    parser.add_argument("revision", nargs="?", type=int, metavar="REVISION", help="show what it declared")
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="revisions to show (default: 20)")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_run_dir(parser)
    found = parser.parse(arguments)
    steering = Steering(found)
    if found.revision is not None:
        say(_as_json(steering.get(f"/v1/history/{found.revision}")))
        return 0
    history = steering.get(f"/v1/history?limit={found.lines}")["history"]
    say(_as_json(history) if found.json else render(history))
    return 0


def render(history: Sequence[dict[str, Any]]) -> str:
    """A table, newest first."""
    rows = [
        (str(each["revision"]), each["time"][:19].replace("T", " "), harmless(each["who"]), harmless(each["what"]))
        for each in history
    ]
    return table(("REVISION", "WHEN (UTC)", "WHO", "WHAT"), rows)


def _as_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2)
