"""`muleteer serve`: reads and checks the whole command line, then becomes the server, or detaches one."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from muleteer.base.errors import SpecError, UsageError, UsageErrors
from muleteer.cli.declare import declare, declare_file, misfits_of_flags, restore
from muleteer.cli.flags import Parser, add_settings, forget_secrets, given_settings
from muleteer.cli.foreground import Foreground
from muleteer.cli.output import Paint
from muleteer.cli.server import Server, Task
from muleteer.spec.fit import misfits
from muleteer.spec.load import Settings, resolve
from muleteer.spec.settings import SETTINGS, Declared, ServerSettings

_PLACES = ("run_dir", "state_dir")
"""Settings that say where everything else is to be found."""


def run(arguments: Sequence[str]) -> int:
    """Serve until a signal. Returns the exit status; raises UsageError before anything is started."""
    task, detach = read(arguments)
    forget_secrets(os.environ, SETTINGS.values())
    if task.tether is not None:
        os.set_inheritable(task.tether, False)
    if detach:
        from muleteer.cli.detach import run_detached

        return run_detached(task)
    foreground = Foreground(sys.stdout)
    try:
        return Server(task, say=foreground.say, paint=Paint(sys.stdout), lend_timer=foreground.lend_timer).run()
    finally:
        foreground.close()


def read(arguments: Sequence[str]) -> tuple[Task, bool]:
    """What one command line asks for, and whether to detach. Raises UsageErrors with all that is wrong."""
    parser = Parser("serve", "Serve models over HTTP: each TARGET in processes of its own, or what a file declares.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="file.py:Name or package.module:Name")
    parser.add_argument(
        "--route", action="append", default=[], metavar="PATH", help="path of the k-th TARGET (default: /predict)"
    )
    parser.add_argument(
        "--name", action="append", default=[], metavar="NAME", help="name of the k-th TARGET (default: its own)"
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="serve what this muleteer.yaml declares")
    parser.add_argument("--empty", action="store_true", help="serve nothing yet: all is declared later")
    parser.add_argument("-d", "--detach", action="store_true", help="return when it is ready, and go on serving")
    parser.add_argument(
        "--tether", type=int, metavar="FD", help="stop at the end of this inherited pipe (see docs/client.md)"
    )
    add_settings(parser, list(SETTINGS.values()))
    found = parser.parse(arguments)
    task = _from_targets(found) if found.targets else _without_targets(found)
    return task._replace(what=shlex.join(["serve", *_shown(found)])), found.detach


def _from_targets(found: argparse.Namespace) -> Task:
    if found.config or found.empty:
        raise UsageError(f"give TARGETs or {'-c' if found.config else '--empty'}, not both")
    settings, problems = resolve(given_settings(found), os.environ)
    declared, more = declare(
        found.targets,
        found.route,
        found.name,
        base_dir=Path.cwd(),
        server=settings.server(),
        backend=settings.backend(),
    )
    more += _check_admin(settings.server())
    if not problems:
        more += misfits_of_flags(declared)
    if problems or more:
        raise UsageErrors([*more, *problems])
    return Task(declared, tether=found.tether)


def _without_targets(found: argparse.Namespace) -> Task:
    """A file, nothing, or what was declared last."""
    if found.config and found.empty:
        raise UsageError("give -c or --empty, not both")
    flags = given_settings(found)
    alien = [SETTINGS[name].flag for name in flags if SETTINGS[name].scope == "backend"]
    alien += [flag for flag, given in (("--route", found.route), ("--name", found.name)) if given]
    if alien and (found.config or found.empty):
        raise UsageError(f"{alien[0]} belongs to a TARGET, and there is none; a file says it for each backend")
    declared = declare_file(Path(found.config)) if found.config else Declared()
    places = {name: getattr(declared.server, name) for name in _PLACES}
    given = {name: text for name, text in places.items() if text and SETTINGS[name].env not in os.environ}
    settings, problems = resolve({**given, **flags}, os.environ)
    if problems:
        raise UsageErrors(problems)
    restored = not found.config and not found.empty
    if restored:
        declared = restore(settings.server())
        if alien:
            raise UsageError(
                f"{alien[0]} belongs to a TARGET, and there is none; muleteer apply changes what is declared"
            )
    declared = msgspec.structs.replace(declared, server=_merged(settings, declared.server))
    more = _check_admin(declared.server) + [SpecError(str(misfit)) for misfit in misfits(declared)]
    if more:
        raise UsageErrors(more)
    return Task(declared, restored=restored, tether=found.tether)


def _merged(settings: Settings, declared: ServerSettings) -> ServerSettings:
    """A flag or variable before what is declared."""
    own = settings.server()
    kept = {
        name: getattr(declared, name)
        for name, resolved in settings.values.items()
        if resolved.setting.scope == "server"
        and resolved.origin == "default"
        and name not in _PLACES
        and not resolved.setting.secret
    }
    return msgspec.structs.replace(own, **kept)


def _check_admin(server: ServerSettings) -> list[UsageError]:
    if server.admin_port is not None and server.admin_token is None:
        return [UsageError("--admin-port needs a token: set MULETEER_ADMIN_TOKEN to at least 16 characters")]
    return []


def _shown(found: argparse.Namespace) -> list[str]:
    if found.config:
        return ["-c", str(found.config)]
    return ["--empty"] if found.empty else list(found.targets)
