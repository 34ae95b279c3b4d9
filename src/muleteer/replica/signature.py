"""The signature of the user's method: a JSON value in, its arguments out. Must not know JSON text, calls or models.

A JSON object becomes keyword arguments; any other value is the first argument. An object stands for the argument as a
whole where the method has exactly one parameter and either the parameter is positional-only, or its hint is a record
(dict, Mapping, TypedDict, dataclass, Struct, pydantic model) and the object's only key is not the parameter's name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Optional, get_type_hints

import msgspec

from muleteer.base.errors import BadArguments
from muleteer.replica.hints import Convert, Unchecked, converter, is_record, show, unaliased, unknown_name

_Kind = inspect.Parameter
NAMED = (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)

Arguments = tuple[list[Any], dict[str, Any]]


class Parameter(msgspec.Struct, frozen=True):
    """One named parameter. `text` is for a person, e.g. `top_k: int = 5`."""

    name: str
    convert: Convert | None
    required: bool
    keyword_only: bool
    positional_only: bool
    default: Any
    record: bool
    text: str


class Signature:
    """What a method takes.

    Args:
        parameters: the named ones, in order.
        spread: it has `*args`, so a single argument needs no name.
        rest: it has `**kwargs`: how each of them is converted; `accepts_rest` tells whether.
        name: of the method, for messages.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        *,
        spread: bool = False,
        accepts_rest: bool = False,
        rest: Convert | None = None,
        name: str = "predict",
    ) -> None:
        self._parameters = parameters
        self._name = name
        self._by_name = {parameter.name: parameter for parameter in parameters}
        self._required = [parameter.name for parameter in parameters if parameter.required]
        self._positional_only = [parameter for parameter in parameters if parameter.positional_only]
        self._spread = spread
        self._accepts_rest = accepts_rest
        self._rest = rest
        only = parameters[0] if len(parameters) == 1 and not accepts_rest else None
        self._whole = only is not None and only.positional_only
        self._record = only.name if only is not None and only.record else None
        if not parameters and spread and not accepts_rest:
            self._whole = True
        self._only = only if not spread else None
        self._defaults = {parameter.name: parameter.default for parameter in parameters if not parameter.required}

    @classmethod
    def of(cls, method: Callable[..., Any], notice: Callable[[str], None] = lambda _: None) -> Signature:
        """Read it off. A method without a readable signature (C code) takes one argument, any JSON.

        `notice` gets one line for each hint that cannot be checked; such an argument is passed as it came.
        """
        try:
            found = inspect.signature(method)
        except (TypeError, ValueError):
            notice("predict has no readable signature: the JSON value is passed as its only argument")
            return cls([], spread=True)
        hints = resolved_hints(method, found, notice)
        parameters: list[Parameter] = []
        rest: Convert | None = None
        for name, parameter in found.parameters.items():
            hint = hints[name]
            if parameter.default is None and hint is not _Kind.empty:
                hint = Optional[hint]  # noqa: UP045 - the hint is a value here; `def f(x: int = None)` means it
            convert = checked(name, hint, notice)
            if parameter.kind in NAMED:
                parameters.append(_parameter(parameter, hint, convert))
            elif parameter.kind is _Kind.VAR_KEYWORD:
                rest = convert
        kinds = {parameter.kind for parameter in found.parameters.values()}
        return cls(parameters, spread=_Kind.VAR_POSITIONAL in kinds, accepts_rest=_Kind.VAR_KEYWORD in kinds, rest=rest)

    @classmethod
    def of_item(cls, parameter: inspect.Parameter, hint: Any, convert: Convert | None, *, name: str) -> Signature:
        """Of the method that would take one item of what `parameter` of the method `name` takes many of."""
        one = parameter.replace(default=_Kind.empty, annotation=hint)
        return cls([_parameter(one, hint, convert)], name=name)

    @property
    def is_single(self) -> bool:
        """Whether it takes exactly one argument."""
        return self._only is not None or (self._spread and not self._parameters and not self._accepts_rest)

    @property
    def first(self) -> str:
        """The name of the first parameter."""
        return self._parameters[0].name if self._parameters else "input"

    def texts(self) -> list[str]:
        """One line for each parameter, for people."""
        extra = ["*args"] if self._spread else []
        return [parameter.text for parameter in self._parameters] + extra + (["**kwargs"] if self._accepts_rest else [])

    def bind(self, value: Any) -> Arguments:
        """Positional and keyword arguments for a JSON value. Raises BadArguments: all that is missing or unknown."""
        if type(value) is not dict or self._whole or (self._record is not None and value.keys() != {self._record}):
            return self._bind_single(value)
        keywords: dict[str, Any] = {}
        unknown: list[str] = []
        for name, item in value.items():
            parameter = self._by_name.get(name)
            if parameter is not None:
                keywords[name] = item if parameter.convert is None else parameter.convert(item, name)
            elif self._accepts_rest:
                keywords[name] = item if self._rest is None else self._rest(item, name)
            else:
                unknown.append(name)
        missing = [name for name in self._required if name not in keywords]
        if missing or unknown:
            raise BadArguments(self._complaint(missing, unknown))
        return self._take_positional(keywords), keywords

    def bind_input(self, value: Any) -> Any:
        """The argument for a JSON value if the method has exactly one parameter, else a dict of all of them, with the
        defaults of those left out. Raises BadArguments.
        """
        only = self._only
        if only is not None and type(value) is dict and len(value) == 1 and only.name in value and not self._whole:
            item = value[only.name]
            return item if only.convert is None else only.convert(item, only.name)
        positional, keywords = self.bind(value)
        if only is not None:
            return positional[0] if positional else keywords.get(only.name, only.default)
        if positional and not self._parameters:
            return positional[0]
        given = dict(zip(self._by_name, positional, strict=False))
        return {**self._defaults, **given, **keywords}

    def _take_positional(self, keywords: dict[str, Any]) -> list[Any]:
        """Move positional-only arguments out of `keywords`; those left out before a given one take their default."""
        if not self._positional_only:
            return []
        return [keywords.pop(parameter.name, parameter.default) for parameter in self._positional_only]

    def _bind_single(self, value: Any) -> Arguments:
        first = self._parameters[0] if self._parameters else None
        if first is None or first.keyword_only:
            if self._spread:
                return [value], {}
            names = ", ".join(parameter.text for parameter in self._parameters) or "none"
            raise BadArguments(f"{self._name} takes a JSON object of arguments ({names}), not a single value")
        missing = [name for name in self._required if name != first.name]
        if missing:
            raise BadArguments(self._complaint(missing, []) + f"; the value sent stands for {first.name!r}")
        return [value if first.convert is None else first.convert(value, first.name)], {}

    def _complaint(self, missing: list[str], unknown: list[str]) -> str:
        known = list(self._by_name)
        parts = [unknown_name(name, known, "argument") for name in unknown[:5]]
        if missing:
            parts.append(f"missing argument{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}")
        takes = ", ".join(self.texts()) or "no arguments"
        return f"{'; '.join(parts)}; {self._name} takes {takes}"


def checked(name: str, hint: Any, notice: Callable[[str], None]) -> Convert | None:
    """The converter of argument `name`; one that cannot be checked is passed as it came, and `notice` is told."""
    try:
        return converter(hint)
    except Unchecked as why:
        notice(f"the type of argument {name!r} cannot be checked: {why}")
        return None


def _parameter(parameter: inspect.Parameter, hint: Any, convert: Convert | None) -> Parameter:
    required = parameter.default is _Kind.empty
    written = show(parameter.annotation)
    text = parameter.name + (f": {written}" if written else "")
    return Parameter(
        name=parameter.name,
        convert=convert,
        required=required,
        keyword_only=parameter.kind is _Kind.KEYWORD_ONLY,
        positional_only=parameter.kind is _Kind.POSITIONAL_ONLY,
        default=parameter.default,
        record=is_record(hint),
        text=text if required else f"{text} = {_short(parameter.default)}",
    )


def _short(default: Any) -> str:
    text = repr(default)
    return text if len(text) <= 60 else text[:57] + "..."


def resolved_hints(
    method: Callable[..., Any], found: inspect.Signature, notice: Callable[[str], None]
) -> dict[str, Any]:
    """The resolved hint of each parameter; one that names what is not there at run time counts as none."""
    function: Any = method
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    scope = getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, parameter in found.parameters.items():
        hints[name] = parameter.annotation
        if parameter.annotation is not _Kind.empty:
            holder = SimpleNamespace(__annotations__={name: parameter.annotation})
            try:
                hints[name] = unaliased(get_type_hints(holder, globalns=scope, include_extras=True)[name])
            except Exception as why:  # noqa: BLE001 - whatever the expression in the hint raises
                notice(f"the type of argument {name!r} cannot be checked: {why}")
                hints[name] = _Kind.empty
    return hints
