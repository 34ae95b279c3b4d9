"""What is known of one setting, and how that is read off its declaration. Must not know which settings there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

Cost = Literal["live", "reconfigure", "replace", "restart"]
"""What changing a setting costs: nothing · a message to running replicas · new replicas (surge) · a new server."""
Scope = Literal["backend", "server"]

_BOUNDS = ("ge", "gt", "le", "min_length", "max_length")


def about(
    description: str,
    *,
    why: str,
    cost: Cost,
    kind: str = "",
    unset: str = "off",
    secret: bool = False,
    **bounds: Any,
) -> Meta:
    """What stands beside the type of a setting; the arguments are those of `Setting`."""
    extra = {"why": why, "cost": cost, "kind": kind, "unset": unset, "secret": secret}
    return Meta(description=description, extra=extra, **bounds)


class Setting(msgspec.Struct, frozen=True):
    """One setting, read off its declaration.

    Attributes:
        type: of the value, or of the first kind of value if there are several.
        kind: how text is read: `seconds`, `bytes`, `replicas`, `slo`, `devices`, `ray`, `parts` (of a
            whole one, or whole ones); empty: as its type says.
        choices: words that are values.
        optional: None is a value.
        unset: the word for None.
        bounds: of a number any of `ge`, `gt`, `le`, and of a text `min_length`, `max_length`.
        secret: never shown, stored or read from a file.
    """

    name: str
    scope: Scope
    type: type
    choices: tuple[str, ...]
    optional: bool
    default: Any
    description: str
    why: str
    cost: Cost
    kind: str
    unset: str
    bounds: dict[str, float]
    secret: bool = False

    @property
    def flag(self) -> str:
        """`--max-body`."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """`MULETEER_MAX_BODY`."""
        return "MULETEER_" + self.name.upper()


def read_settings(scope: Scope, struct: type[msgspec.Struct]) -> Iterator[Setting]:
    """The settings that the fields of `struct` declare."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        declared, meta = get_args(hints[field.name])
        members = [declared] if get_origin(declared) is Literal or not get_args(declared) else list(get_args(declared))
        choices: list[str] = []
        types: list[type] = []
        bounds: dict[str, float] = {}
        for member in members:
            if get_origin(member) is Literal:
                choices += get_args(member)
            elif member is not type(None):  # msgspec wants the bounds of a union at its member
                base, bounded = get_args(member) or (member, meta)
                types.append(base)
                bounds |= {key: getattr(bounded, key) for key in _BOUNDS if getattr(bounded, key) is not None}
        yield Setting(
            name=field.name,
            scope=scope,
            type=types[0] if types else str,
            choices=tuple(choices),
            optional=type(None) in members,
            default=field.default,
            description=meta.description,
            bounds=bounds,
            **meta.extra,
        )
