"""`muleteer diff`: what `apply` would change, and what that costs. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.cli.apply import read_file
from muleteer.cli.change import Steering, harmless_lines
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import say

DIFFERENT = 1
"""Exit status, as of diff(1)."""


def run(arguments: Sequence[str]) -> int:
    """Show the plan; 1 if there is anything to change."""
    parser = Parser("diff", "Show what apply FILE would change, and what that costs. Ends with 1 if anything.")
    parser.add_argument("file", metavar="FILE", help="a muleteer.yaml")
    add_run_dir(parser)
    found = parser.parse(arguments)
    plan = Steering(found).send("POST", "/v1/plan", read_file(found.file))
    say(harmless_lines(plan["text"]))
    return DIFFERENT if plan["changes"] else 0
