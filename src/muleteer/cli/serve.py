"""`muleteer serve`: reads and checks the whole command line, then becomes the server, or detaches one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from muleteer.base.errors import UsageError, UsageErrors
from muleteer.cli.declare import declare
from muleteer.cli.flags import Parser, add_settings, given_settings
from muleteer.cli.foreground import Foreground
from muleteer.cli.output import Paint
from muleteer.cli.server import Server
from muleteer.spec.load import resolve
from muleteer.spec.settings import SETTINGS, Declared


def run(arguments: Sequence[str]) -> int:
    """Serve until a signal. Returns the exit status; raises UsageError before anything is started."""
    declared, detach = read(arguments)
    if detach:
        from muleteer.cli.detach import run_detached

        return run_detached(declared)
    foreground = Foreground(sys.stdout)
    try:
        return Server(declared, say=foreground.say, paint=Paint(sys.stdout), lend_timer=foreground.lend_timer).run()
    finally:
        foreground.close()


def read(arguments: Sequence[str]) -> tuple[Declared, bool]:
    """What one command line declares, and whether to detach. Raises UsageErrors with all that is wrong."""
    parser = Parser("serve", "Serve models over HTTP: each TARGET in processes of its own.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="file.py:Name or package.module:Name")
    parser.add_argument(
        "--route", action="append", default=[], metavar="PATH", help="path of the k-th TARGET (default: /predict)"
    )
    parser.add_argument(
        "--name", action="append", default=[], metavar="NAME", help="name of the k-th TARGET (default: its own)"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="return when it is ready, and go on serving")
    add_settings(parser, list(SETTINGS.values()))
    found = parser.parse(arguments)
    if not found.targets:
        raise UsageError("nothing to serve: muleteer serve model.py:Model --route /predict")
    settings, problems = resolve(given_settings(found), os.environ)
    declared, more = declare(
        found.targets,
        found.route,
        found.name,
        base_dir=Path.cwd(),
        server=settings.server(),
        backend=settings.backend(),
    )
    if problems or more:
        raise UsageErrors([*more, *problems])
    return declared, found.detach
