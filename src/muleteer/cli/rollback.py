"""`muleteer rollback`: what an earlier revision declared is declared again, as a new revision."""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.cli.change import Steering, steering_parser


def run(arguments: Sequence[str]) -> int:
    """Go back to one revision, or to the one before the current."""
    parser = steering_parser("rollback", "Declare again what an earlier revision declared (default: the one before).")
    parser.add_argument("revision", nargs="?", type=int, metavar="REVISION", help="as muleteer history shows it")
    found = parser.parse(arguments)
    return Steering(found).change("POST", "/v1/rollback", {"revision": found.revision}, wait=not found.no_wait)
