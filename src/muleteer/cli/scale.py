"""`muleteer scale`: how many replicas a backend has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muleteer.base.errors import UsageError
from muleteer.cli.change import Steering, steering_parser
from muleteer.client.admin import path_of


def run(arguments: Sequence[str]) -> int:
    """Set how many replicas one backend has, or may have."""
    parser = steering_parser("scale", "Set how many replicas a backend has; those too many finish what they have.")
    parser.add_argument("backend", metavar="BACKEND")
    parser.add_argument(
        "replicas", metavar="N|MIN:MAX", help="how many, or as many as its load needs; 0 stops them all"
    )
    found = parser.parse(arguments)
    body = {"replicas": read_replicas(found.replicas)}
    return Steering(found).change("PATCH", path_of("backends", found.backend), body, wait=not found.no_wait)


def read_replicas(text: str) -> int | dict[str, int]:
    """What `text` declares, as in muleteer.yaml. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,6})(?::([0-9]{1,6}))?", text, re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is neither a number of replicas nor a range such as 1:8")
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise UsageError(f"{text}: min {low} is more than max {high}")
    return low if match[2] is None else {"min": low, "max": high}
