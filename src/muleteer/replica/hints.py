"""One type hint → a function that turns a JSON value into what the hint says. Must not know signatures or calls."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, is_typeddict

import msgspec

from muleteer.base.errors import BadArguments
from muleteer.replica.arrays import array_from_json, is_array_hint

Convert = Callable[[Any, str], Any]
"""(JSON value, name of the argument) → what the hint says. Raises BadArguments that names argument and path."""

_PATH = re.compile(r"^(.*?)(?: - at `\$\[0\](.*)`)?$", re.DOTALL)
_OPEN = (Any, object, inspect.Parameter.empty)
_ALIAS: Any = getattr(typing, "TypeAliasType", ())  # of Python 3.12; before there is none


class Unchecked(Exception):
    """The hint cannot be checked; the argument is passed as it came."""


def converter(hint: Any) -> Convert | None:
    """None where the hint accepts any JSON. Raises Unchecked where the hint means nothing to us."""
    if hint in _OPEN or isinstance(hint, TypeVar):
        return None
    # msgspec keeps what it learned about a type on Structs only: a holder is 3 times as fast as convert(value, hint)
    holder = msgspec.defstruct("Holder", [("value", hint)], array_like=True)
    try:
        msgspec.convert((None,), holder, dec_hook=_foreign)
    except msgspec.ValidationError:
        pass
    except (TypeError, NameError, AttributeError, RecursionError) as error:
        members = _members(hint)
        if len(members) > 1:
            return _either(members, optional=members != get_args(_bare(hint)))
        raise Unchecked(str(error)) from None
    fields = _record_fields(hint)
    floats = float in _members(hint) and int not in _members(hint)
    exact = hint if hint in (str, int, float, bool) else None  # of this very type nothing is left to check

    def convert(value: Any, name: str) -> Any:
        if type(value) is exact:
            return value
        if floats and type(value) is int and not _is_exact(value):
            raise BadArguments(f"argument {name!r}: {value} cannot be kept exactly in a `float`")
        if fields is not None and type(value) is dict and not value.keys() <= fields:
            unknown = next(key for key in value if key not in fields)
            raise BadArguments(f"argument {name!r}: {unknown_name(unknown, fields, 'field')}")
        try:
            return msgspec.convert((value,), holder, dec_hook=_foreign).value  # type: ignore[attr-defined]
        except msgspec.ValidationError as error:
            raise BadArguments(_say(str(error), name)) from None

    return convert


def is_record(hint: Any) -> bool:
    """Whether a JSON object as a whole fits `hint`: dict, Mapping, TypedDict, dataclass, Struct, pydantic model."""
    for member in _members(hint):
        kind = get_origin(member) or member
        if is_typeddict(kind):
            return True
        if isinstance(kind, type) and (
            issubclass(kind, (dict, Mapping, msgspec.Struct)) or dataclasses.is_dataclass(kind) or _is_pydantic(kind)
        ):
            return True
    return False


def show(hint: Any) -> str:
    """The hint for a person, as it was written where that is known; empty where there is none."""
    if isinstance(hint, str):
        return hint
    return "" if hint is inspect.Parameter.empty else inspect.formatannotation(hint)


def unknown_name(name: str, known: Sequence[str] | frozenset[str], what: str) -> str:
    """`unknown argument 'txt' (did you mean 'text'?)`. `what` is the noun."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    shown = repr(name if len(name) <= 80 else name[:77] + "...")
    return f"unknown {what} {shown}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, without None; of anything else, itself."""
    hint = _bare(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for member in get_args(hint) if member is not type(None))
    return (hint,)


def unaliased(hint: Any) -> Any:
    """What a name made by `type Row = list[float]` (Python 3.12) stands for, as NumPy's NDArray is since 2.5; else
    `hint`.
    """
    while isinstance(alias := get_origin(hint) or hint, _ALIAS):
        arguments = get_args(hint)
        hint = alias.__value__[arguments] if arguments else alias.__value__
    return hint


def _bare(hint: Any) -> Any:
    while get_origin(hint := unaliased(hint)) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _is_exact(value: int) -> bool:
    try:
        return float(value) == value
    except OverflowError:
        return False


def _either(members: tuple[Any, ...], *, optional: bool) -> Convert:
    """Unions that msgspec refuses (two text-like or two record types, numpy arrays, pydantic models): the first fit."""
    converters = [converter(member) for member in members]

    def convert(value: Any, name: str) -> Any:
        if value is None and optional:
            return None
        reasons: list[str] = []
        for one in converters:
            if one is None:
                return value
            try:
                return one(value, name)
            except BadArguments as error:
                reasons.append(error.message.partition(": ")[2])
        raise BadArguments(f"argument {name!r} fits none of its types: {'; '.join(reasons)}")

    return convert


def _record_fields(hint: Any) -> frozenset[str] | None:
    """Fields of a dataclass or TypedDict, whose unknown keys msgspec would drop in silence."""
    members = _members(hint)
    kind = get_origin(members[0]) or members[0]
    if len(members) != 1:
        return None
    if is_typeddict(kind):
        return frozenset(kind.__annotations__)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not _is_pydantic(kind):
        return frozenset(field.name for field in dataclasses.fields(kind) if field.init)
    return None


def _is_pydantic(kind: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _foreign(hint: Any, value: Any) -> Any:
    """The hook for the types that msgspec does not know. A ValueError becomes its ValidationError, with the path."""
    if is_array_hint(hint):
        return array_from_json(hint, value)
    if _is_pydantic(hint):
        try:
            # pydantic's own JSON rules, so that a strict model still reads dates and bytes
            return hint.model_validate_json(msgspec.json.encode(value))
        except ValueError as error:
            raise ValueError(_say_pydantic(error)) from None
    raise ValueError(f"`{getattr(hint, '__name__', hint)}` cannot be made from JSON")


def _say_pydantic(error: Any) -> str:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(".".join(map(str, fault["loc"])) + ": " + fault["msg"] for fault in faults[:5])


def _say(text: str, name: str) -> str:
    found = _PATH.match(text)
    what, path = (found[1], found[2]) if found else (text, None)
    place = f" at {name}{path.replace('[...]', '[*]')}" if path else ""
    return f"argument {name!r}: {what[0].lower() + what[1:]}{place}"
