"""Flags, generated from the settings; near names for mistyped ones. Must not know what a verb does with them.

A setting's value stays text here: `spec.load` reads it, with the environment, and reports every problem at once.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from muleteer.base.errors import UsageError
from muleteer.spec.nearest import did_you_mean
from muleteer.spec.run_dir import default_run_dir

if TYPE_CHECKING:
    from muleteer.spec.setting import Setting

SETTING_PREFIX = "setting_"


class Parser(argparse.ArgumentParser):
    """argparse for one verb: errors are UsageErrors of one line, flags are not abbreviated."""

    def __init__(self, verb: str, about: str) -> None:
        super().__init__(prog=f"muleteer {verb}", description=about, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """What argparse calls for what it cannot parse."""
        raise UsageError(f"{message}; muleteer {self._verb} --help lists the flags")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Flags and positionals in any order. Raises UsageError that names the first thing not known."""
        found, unknown = self.parse_known_intermixed_args(arguments)
        for argument in unknown:
            flag = argument.split("=", 1)[0]
            if flag.startswith("-"):
                hint = did_you_mean(flag, self._option_string_actions) or f"; muleteer {self._verb} --help lists them"
                raise UsageError(f"unknown flag {flag}{hint}")
            raise UsageError(f"muleteer {self._verb} does not expect {argument!r}")
        return found

    @property
    def _verb(self) -> str:
        return self.prog.split(" ", 1)[1]


def add_run_dir(parser: Parser) -> None:
    """The flag that every verb has."""
    parser.add_argument(
        "--run-dir", metavar="DIR", help="run directory of the server (default: $XDG_RUNTIME_DIR/muleteer)"
    )


def run_dir_flag(run_dir: str, environ: Mapping[str, str]) -> str:
    """What other verbs need in order to find this server: nothing for the default directory."""
    if run_dir == str(Path(default_run_dir(environ)).resolve()):
        return ""
    return f" --run-dir {shlex.quote(run_dir)}"


def forget_secrets(environ: MutableMapping[str, str], settings: Iterable[Setting]) -> None:
    """Remove them once they are read: what is started now must not inherit them, the user's model least of all."""
    for setting in settings:
        if setting.secret:
            environ.pop(setting.env, None)


def add_settings(parser: Parser, settings: Sequence[Setting]) -> None:
    """One flag per setting; `--x/--no-x` for those that are true or false."""
    group = parser.add_argument_group("settings", "also as MULETEER_NAME in the environment; the flag wins")
    for setting in settings:
        dest = SETTING_PREFIX + setting.name
        if setting.type is bool:
            negative = setting.flag.replace("--", "--no-", 1)
            about = f"{setting.description} (default: {'on' if setting.default else 'off'})"
            group.add_argument(
                setting.flag, dest=dest, action="store_const", const="true", default=argparse.SUPPRESS, help=about
            )
            group.add_argument(
                negative, dest=dest, action="store_const", const="false", default=argparse.SUPPRESS, help="the opposite"
            )
        else:
            group.add_argument(
                setting.flag, dest=dest, metavar=metavar(setting), default=argparse.SUPPRESS, help=_about(setting)
            )


def given_settings(found: argparse.Namespace) -> dict[str, str]:
    """Setting name → text, for the flags that were given."""
    return {
        name.removeprefix(SETTING_PREFIX): text for name, text in vars(found).items() if name.startswith(SETTING_PREFIX)
    }


def metavar(setting: Setting) -> str:
    """What stands behind the flag in help texts."""
    by_kind = {"seconds": "TIME", "bytes": "SIZE", "replicas": "N|MIN:MAX", "slo": "p99=TIME"}
    if setting.kind in by_kind:
        return by_kind[setting.kind]
    if setting.choices:
        return "|".join(("N",) * (setting.type is not str) + setting.choices)
    return {int: "N", float: "X", str: setting.name.upper()}[setting.type]


def _about(setting: Setting) -> str:
    from muleteer.spec.load import show_value

    default = show_value(setting, setting.default)
    text = f"{setting.description} (default: {default or setting.why})"
    return text.replace("%", "%%")  # argparse formats help texts
