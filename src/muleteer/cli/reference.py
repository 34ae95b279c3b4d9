"""docs/settings.md, written from the declarations: `make docs` prints this module into it, a test compares the two."""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.base.limits import LIMITS
from muleteer.spec.load import describe_bounds, show_value
from muleteer.spec.setting import Setting
from muleteer.spec.settings import SETTINGS

_HEAD = """\
# Settings and limits

Written by `make docs` from `spec/settings.py` and `base/limits.py`; edit there.

A setting comes from its flag, else from its variable in the environment, else it has its default; `muleteer config`
shows which. A variable that looks like a mistyped setting is refused; `MULETEER_PORT=tcp://…`, which Kubernetes sets
for a Service called `muleteer`, is not ours and is passed over. Settings that do not go together are refused.

| what | on the command line | in `muleteer.yaml` and the admin API |
| --- | --- | --- |
| a time | `100ms`, `2s`, `5min`, `1h` | the same; a bare number is seconds |
| a size | `64MiB`, `500KB`, `2GiB` | the same; a bare number is bytes |
| a switch | `--reload`, `--no-reload`; in the environment `on`, `off` | `true`, `false` |
| replicas | `2`, or from 0 to 8: `0:8` | `2`, `{min: 0, max: 8}`, `{min: 0}`: up to 1024, `{max: 8}`: from 1 |
| an slo | `p99=100ms` | `{p99: 100ms}` |
| back to a default of `off`, `none` or `auto` | that word | that word, or `null` |

What a change costs: **live** nothing · **replace** new replicas, the old ones finish first · **restart** a new server.
"""
_SCOPES = {
    "backend": "## Of a backend\n\nHow one model is run; each applies to every TARGET of the command line.",
    "server": "## Of the server",
}


def settings_markdown() -> str:
    """The whole page."""
    parts = [_HEAD]
    for scope, title in _SCOPES.items():
        rows = [_setting_row(setting) for setting in SETTINGS.values() if setting.scope == scope]
        columns = ("Flag", "Environment", "Default", "What it is", "Why the default", "A change costs")
        parts.append(f"{title}\n\n{_table(columns, rows)}\n")
    limits = [(f"`{limit.name}`", f"{limit.value:,.10g} {limit.unit}", limit.why) for limit in LIMITS.values()]
    parts.append(
        f"## Limits\n\nThe same everywhere; nobody has to choose them.\n\n{_table(('Limit', 'Value', 'Why'), limits)}\n"
    )
    return "\n".join(parts)


def _setting_row(setting: Setting) -> tuple[str, ...]:
    flag = f"`{setting.flag}`"
    if setting.type is bool:
        flag += f" `{setting.flag.replace('--', '--no-', 1)}`"
    bounds = describe_bounds(setting)
    default = show_value(setting, setting.default)
    return (
        flag,
        f"`{setting.env}`",
        f"`{default}`" if default else "",
        f"{setting.description} ({bounds})" if bounds else setting.description,
        setting.why,
        setting.cost,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    print(settings_markdown(), end="")
