"""Where settings come from: a flag, else the MULETEER_* environment, else the default. With `cli`, the only place
that reads the environment. Must not know processes; every problem is collected, none is repaired in silence.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from muleteer.base.errors import SpecError
from muleteer.spec.forms import format_replicas, format_slo, parse_devices, parse_replicas, parse_slo
from muleteer.spec.nearest import did_you_mean
from muleteer.spec.ray_options import parse_ray
from muleteer.spec.run_dir import complete_run_dir, default_run_dir, default_state_dir
from muleteer.spec.setting import Setting
from muleteer.spec.settings import SETTINGS, BackendSettings, ServerSettings
from muleteer.spec.units import format_bytes, format_seconds, parse_bytes, parse_seconds

PREFIX = "MULETEER_"
_COMPARE = {"ge": operator.ge, "gt": operator.gt, "le": operator.le}
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"-?(\.[0-9]{1,400}|[0-9]{1,18}(\.[0-9]{0,400})?)([eE][-+]?[0-9]{1,3})?", re.ASCII)
UNSET = {"off": ("off", "none"), "none": ("off", "none"), "auto": ("auto",)}  # the word for None → what may be written
_FORMS: dict[str, Callable[[str], Any]] = {
    "replicas": parse_replicas,
    "slo": parse_slo,
    "devices": parse_devices,
    "ray": parse_ray,
}
_PRINTABLE = re.compile(r"[!-~]+")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Resolved(msgspec.Struct, frozen=True):
    """One setting's value. `origin` names the flag or variable it came from, or is `default`."""

    setting: Setting
    value: Any
    origin: str


class Settings(msgspec.Struct, frozen=True):
    """All settings of one command, by name."""

    values: dict[str, Resolved]

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def server(self) -> ServerSettings:
        """The server's share."""
        return ServerSettings(**self._of("server"))

    def backend(self) -> BackendSettings:
        """The backends' share."""
        return BackendSettings(**self._of("backend"))

    def _of(self, scope: str) -> dict[str, Any]:
        return {name: found.value for name, found in self.values.items() if found.setting.scope == scope}


def resolve(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Settings, list[SpecError]]:
    """The value of every setting, and everything that is wrong with what was given.

    Args:
        flags: setting name → text, for those given on the command line.
        environ: the process environment; names that are close to a setting's, but none, are problems.
    """
    problems = _strangers(environ)
    values: dict[str, Resolved] = {}
    for setting in SETTINGS.values():
        value, origin = setting.default, "default"
        if setting.name in flags:
            text, origin = flags[setting.name], setting.flag
        elif setting.env in environ and not _of_kubernetes(environ[setting.env]):
            text, origin = environ[setting.env], setting.env
        if origin != "default":
            try:
                value = read_value(setting, text)
            except ValueError as error:
                problems.append(SpecError(f"{origin}: {error}"))
                value = setting.default
        values[setting.name] = Resolved(setting, value, origin)
    _complete_directories(values, environ, problems)
    return Settings(values), problems


def read_value(setting: Setting, text: str) -> Any:
    """The value that `text` stands for. Raises ValueError that says what may be written."""
    if setting.optional and text.lower() in UNSET[setting.unset]:
        return None
    if text in setting.choices:
        return text
    if setting.kind in _FORMS:
        return _FORMS[setting.kind](text)
    if setting.type is bool:
        return _parse_bool(text)
    if setting.type is str:
        return _check_text(setting, text)
    value = _parse_number(setting, text)
    if not all(_COMPARE[key](value, bound) for key, bound in setting.bounds.items()):
        raise ValueError(f"{text} is not allowed: {describe_bounds(setting)}")
    if setting.kind == "parts" and value > 1 and not float(value).is_integer():
        raise ValueError(f"{text} is not allowed: a whole number, or a part of one below 1")
    return value


def show_value(setting: Setting, value: Any) -> str:
    """`value` as one would write it: `64MiB`, `30s`, `on`, `0:8`."""
    if value is None:
        return setting.unset
    if setting.secret:
        return "***"
    if setting.type is bool:
        return "on" if value else "off"
    if setting.kind == "seconds":
        return format_seconds(value)
    if setting.kind == "bytes":
        return format_bytes(value)
    if setting.kind == "replicas":
        return format_replicas(value)
    if setting.kind == "slo":
        return format_slo(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def describe_bounds(setting: Setting) -> str:
    """`at least 1 and at most 1024`, or nothing for an unbounded setting."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "min_length": "at least", "max_length": "at most"}
    bounds = " and ".join(f"{words[key]} {bound}" for key, bound in setting.bounds.items())
    return f"{bounds} characters" if "min_length" in setting.bounds else bounds


def _parse_number(setting: Setting, text: str) -> float:
    if setting.kind == "seconds":
        return parse_seconds(text)
    if setting.kind == "bytes":
        return parse_bytes(text)
    if setting.type is float:
        if not _DECIMAL.fullmatch(text):
            raise ValueError(f"{text!r} is not a number")
        return float(text)
    if not _INTEGER.fullmatch(text):
        words = "".join(f", nor {choice}" for choice in setting.choices)
        raise ValueError(f"{text!r} is not a whole number{words}")
    return int(text)


def _check_text(setting: Setting, text: str) -> str:
    if setting.choices:
        raise ValueError(f"{text!r} is not one of {', '.join(setting.choices)}{did_you_mean(text, setting.choices)}")
    if not text:
        raise ValueError("must not be empty")
    if not setting.bounds.get("min_length", 0) <= len(text) <= setting.bounds.get("max_length", len(text)):
        raise ValueError(f"not allowed: {describe_bounds(setting)}")  # the text may be a secret
    if setting.secret and not _PRINTABLE.fullmatch(text):
        raise ValueError("only printable ASCII without spaces is allowed: it travels in a header")
    return text


def _complete_directories(values: dict[str, Resolved], environ: Mapping[str, str], problems: list[SpecError]) -> None:
    found = values["run_dir"]
    try:
        path = complete_run_dir(found.value or default_run_dir(environ))
    except SpecError as error:
        problems.append(error)
    else:
        values["run_dir"] = Resolved(found.setting, path, found.origin)
        state = values["state_dir"]
        given = str(Path(state.value).expanduser().absolute()) if state.value else default_state_dir(environ, path)
        values["state_dir"] = Resolved(state.setting, given, state.origin)


def _parse_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _of_kubernetes(value: str) -> bool:
    """A Service named `muleteer` makes Kubernetes set MULETEER_PORT=tcp://10.0.0.1:80 in every container."""
    return value.startswith(("tcp://", "udp://"))


def _strangers(environ: Mapping[str, str]) -> list[SpecError]:
    """Variables that look like a mistyped setting. Others with our prefix may belong to something else."""
    known = {setting.env for setting in SETTINGS.values()}
    problems = []
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            hint = did_you_mean(name.removeprefix(PREFIX), [other.upper() for other in SETTINGS], cutoff=0.75)
            if hint:
                problems.append(SpecError(f"{name} in the environment is not a setting{hint}"))
    return problems
