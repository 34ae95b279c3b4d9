"""What every verb that changes something does: ask the controller, show what changed and how to undo it, wait for it.
Must not know what the change is. Quick to start, like `status`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from muleteer.base.errors import (
    ConflictError,
    NotRunningError,
    StartupFailedError,
    StateError,
    UsageError,
    UsageErrors,
)
from muleteer.cli.flags import Parser, add_run_dir, run_dir_flag
from muleteer.cli.output import harmless, say
from muleteer.client.admin import Admin, user
from muleteer.client.errors import AdminRefused, AdminUnreachable, StartFailed
from muleteer.client.settle import wait_until_settled
from muleteer.spec.run_dir import find_run_dir

T = TypeVar("T")
_ERRORS: dict[str, type[UsageError]] = {"conflict": ConflictError, "state_unwritable": StateError}
"""Codes of the admin API that have an exit status of their own."""


class Steering:
    """The server that a command line means.

    Args:
        found: has `run_dir`.
    """

    def __init__(self, found: argparse.Namespace) -> None:
        self.run_dir = find_run_dir(found.run_dir, os.environ)
        self._admin = Admin(Path(self.run_dir, "admin.sock"), who=f"cli:{user()}")

    def get(self, path: str) -> Any:
        """What the admin API answers. Raises UsageError, NotRunningError."""
        return self._asked(lambda: self._admin.get_patiently(path))

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """The same, for what changes something; sent once."""
        return self._asked(lambda: self._admin.send(method, path, body))

    def change(self, method: str, path: str, body: Any = None, *, wait: bool = True) -> int:
        """Make one change, show it, wait until it is so. Returns the exit status; raises as `get`, and
        StartupFailedError.
        """
        answer = self.send(method, path, body)
        say(harmless_lines(answer["text"]))
        if not answer["changes"]:
            say(f"revision {answer['revision']}, as before")
            return 0
        say(f"revision {answer['revision']}; undo: {self.command(answer['undo'])}")
        if wait:
            self._wait(answer["changes"])
        return 0

    def command(self, text: str) -> str:
        """A command to paste, with the flag that finds this server."""
        return harmless(text) + run_dir_flag(self.run_dir, os.environ)

    def _wait(self, changes: Collection[dict[str, Any]]) -> None:
        try:
            settled = self._asked(lambda: wait_until_settled(self._admin, changes))
        except StartFailed as error:
            raise StartupFailedError(harmless_lines(str(error))) from None
        for name, why in settled.short.items():
            say(harmless(f"{name}: {why}"))
        say(f"settled after {settled.took_s:.2f} s")

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except AdminRefused as error:
            if len(error.problems) > 1:
                raise UsageErrors([UsageError(harmless(problem)) for problem in error.problems]) from None
            raise _ERRORS.get(error.code, UsageError)(harmless(str(error))) from None
        except AdminUnreachable as error:
            self._raise_unless_running()
            raise UsageError(f"the controller does not answer: {error}; see muleteer logs controller") from None

    def _raise_unless_running(self) -> None:
        from muleteer.supervise.rundir import read_lock  # msgspec: only when something is wrong

        if read_lock(Path(self.run_dir)) is None:
            raise NotRunningError(
                f"no muleteer runs in {self.run_dir}; start one with muleteer serve, or name its --run-dir"
            )


def steering_parser(verb: str, about: str) -> Parser:
    """A parser with the flags of every verb that changes something."""
    parser = Parser(verb, about)
    parser.add_argument("--no-wait", action="store_true", help="return when it is declared, not when it is so")
    add_run_dir(parser)
    return parser


def harmless_lines(text: str) -> str:
    """`text` with its line ends, each line harmless."""
    return "\n".join(harmless(line) for line in text.split("\n"))
