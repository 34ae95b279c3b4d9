"""`muleteer config`: every setting with value, default, origin and reason; every limit with its reason."""

from __future__ import annotations

import os
from collections.abc import Sequence

from muleteer.base.errors import UsageErrors
from muleteer.base.limits import LIMITS
from muleteer.cli.declare import misfits_of_flags
from muleteer.cli.flags import Parser, add_settings, given_settings
from muleteer.cli.output import say, table
from muleteer.spec.load import Resolved, resolve, show_value
from muleteer.spec.settings import SETTINGS, BackendSpec, Declared


def run(arguments: Sequence[str]) -> int:
    """Show what `muleteer serve` with the same flags and environment would use."""
    parser = Parser("config", "Show every setting with its value and where it came from, and every limit.")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_settings(parser, list(SETTINGS.values()))
    found = parser.parse(arguments)
    settings, problems = resolve(given_settings(found), os.environ)
    if not problems:
        one = BackendSpec(name="m", target="", base_dir="", settings=settings.backend())
        problems += misfits_of_flags(Declared(server=settings.server(), backends=(one,)))
    if problems:
        raise UsageErrors(problems)
    resolved = list(settings.values.values())
    if found.json:
        say(_as_json(resolved))
    else:
        say(_as_text(resolved))
    return 0


def _as_text(resolved: Sequence[Resolved]) -> str:
    settings = table(
        ("SETTING", "VALUE", "DEFAULT", "FROM", "WHAT IT IS; WHY THE DEFAULT"),
        [
            (
                each.setting.name,
                show_value(each.setting, each.value),
                show_value(each.setting, each.setting.default) or "-",
                each.origin,
                f"{each.setting.description}; {each.setting.why}",
            )
            for each in resolved
        ],
    )
    limits = table(
        ("LIMIT", "VALUE", "UNIT", "WHY"),
        [(limit.name, f"{limit.value:.10g}", limit.unit, limit.why) for limit in LIMITS.values()],
    )
    return f"{settings}\n\nLimits are not settings; they are the same everywhere.\n\n{limits}"


def _as_json(resolved: Sequence[Resolved]) -> str:
    import json

    import msgspec

    settings = [
        {
            "name": each.setting.name,
            "value": show_value(each.setting, each.value) if each.setting.secret else msgspec.to_builtins(each.value),
            "default": each.setting.default,
            "origin": each.origin,
            "flag": each.setting.flag,
            "env": each.setting.env,
            "description": each.setting.description,
            "why": each.setting.why,
            "cost": each.setting.cost,
        }
        for each in resolved
    ]
    return json.dumps({"settings": settings, "limits": [limit._asdict() for limit in LIMITS.values()]}, indent=2)
