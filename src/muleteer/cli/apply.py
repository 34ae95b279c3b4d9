"""`muleteer apply`: what a file declares becomes what is declared; what it does not name is removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muleteer.cli.change import Steering, steering_parser


def run(arguments: Sequence[str]) -> int:
    """Apply one file and wait until it is so. Raises UsageErrors, StartupFailedError if a version does not start."""
    parser = steering_parser(
        "apply", "Declare what FILE declares. A version that does not start leaves the old one serving."
    )
    parser.add_argument("file", metavar="FILE", help="a muleteer.yaml")
    parser.add_argument("--expect", type=int, metavar="REVISION", help="refuse unless this revision is the current one")
    found = parser.parse(arguments)
    body = {**read_file(found.file), "what": f"apply {found.file}"}
    if found.expect is not None:
        body["expected_revision"] = found.expect
    return Steering(found).change("POST", "/v1/apply", body, wait=not found.no_wait)


def read_file(name: str) -> dict[str, Any]:
    """The file in the form that the admin API takes. Raises UsageErrors, one for each mistake in it."""
    from muleteer.cli.declare import declare_file
    from muleteer.spec.shape import write_declared

    path = Path(name)
    return {"declared": write_declared(declare_file(path)), "base_dir": str(path.resolve().parent)}
