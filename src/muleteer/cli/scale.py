"""`muleteer scale`: how many replicas a backend has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muleteer.base.errors import UsageError
from muleteer.cli.change import Steering, steering_parser
from muleteer.client.admin import path_of


def run(arguments: Sequence[str]) -> int:
    """Set the number of replicas of one backend."""
    parser = steering_parser("scale", "Set how many replicas a backend has; those too many finish what they have.")
    parser.add_argument("backend", metavar="BACKEND")
    parser.add_argument("replicas", metavar="N", help="replicas; 0 stops them all")
    found = parser.parse(arguments)
    body = {"replicas": read_count(found.replicas)}
    return Steering(found).change("PATCH", path_of("backends", found.backend), body, wait=not found.no_wait)


def read_count(text: str) -> int:
    """A number of replicas. Raises UsageError."""
    if re.fullmatch(r"[0-9]*:[0-9]*", text):
        raise UsageError(f"{text}: a range is not supported, nothing sizes a backend by its load; give one number")
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise UsageError(f"{text!r} is not a number of replicas")
    return int(text)
