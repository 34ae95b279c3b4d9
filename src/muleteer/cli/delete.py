"""`muleteer delete`: one backend or endpoint is no longer declared."""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.cli.change import Steering, steering_parser
from muleteer.client.admin import path_of


def run(arguments: Sequence[str]) -> int:
    """Remove it; a backend that an endpoint uses is refused."""
    parser = steering_parser("delete", "Remove a backend or an endpoint; requests in flight are finished.")
    parser.add_argument("kind", choices=("backend", "endpoint"), metavar="backend|endpoint")
    parser.add_argument("name", metavar="NAME")
    found = parser.parse(arguments)
    return Steering(found).change("DELETE", path_of(f"{found.kind}s", found.name), wait=not found.no_wait)
