"""What one input of a batch is: a JSON value in, a member of the list or stack out. Must not know calls or links.

Where the class has a `predict` of its own, that says what one call takes: with exactly one parameter an input is its
value, else a dict of all arguments. Otherwise the method that takes the batch says it: its first parameter, hinted
`list[T]`, stands for a method with one parameter of that name and of the type T. So the rules of `signature` hold for
every call, and a body means the same with and without batches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, get_args, get_origin

from muleteer.base.errors import BadArguments, BadModelOutput, StartError
from muleteer.replica.arrays import is_array, is_array_hint, row_from_json, stack
from muleteer.replica.config import Batch
from muleteer.replica.signature import NAMED, Signature, checked, resolved_hints

_Kind = inspect.Parameter
_LISTS = (list, tuple, Sequence, Collection, Iterable)
_NOT_ANSWERS = (str, bytes, bytearray, Mapping, set, frozenset)


class Inputs:
    """How calls become what the method takes, and what it returns becomes answers.

    Args:
        signature: what one call takes.
        name: of the method that takes the batch.
        rows: the hint of the stacked array, or None where the method takes a list.

    Attributes:
        signature, name: as given.
    """

    def __init__(self, signature: Signature, name: str, rows: Any = None) -> None:
        self.signature = signature
        self.name = name
        self._rows = rows

    @classmethod
    def of(
        cls,
        method: Callable[..., Any],
        single: Callable[..., Any] | None,
        *,
        batch: Batch,
        notice: Callable[[str], None] = lambda _: None,
    ) -> Inputs:
        """Read off `method`, which takes the batch, and `single`, the `predict` beside it, if there is one.

        Raises StartError (bad_batch) where the method cannot be called with one list.
        """
        if inspect.isasyncgenfunction(method):
            raise StartError("bad_batch", f"{_name(method)} is an asynchronous generator: have it return a list")
        first, hint = _first(method, notice)
        stacked = batch == "stack" or (batch == "auto" and is_array_hint(hint))
        rows = (hint if is_array_hint(hint) else _any_array()) if stacked else None
        if single is not None:
            signature = Signature.of(single, notice)
            if stacked and not signature.is_single:
                raise StartError("bad_batch", "inputs can be stacked only where predict takes one argument")
            return cls(signature, _name(method), rows)
        item = _Kind.empty if stacked else _item_of(hint)
        convert = checked(first.name, item, notice)
        return cls(Signature.of_item(first, item, convert, name=_name(method)), _name(method), rows)

    def take(self, value: Any) -> Any:
        """The input for a JSON value. Raises BadArguments."""
        one = self.signature.bind_input(value)
        if self._rows is None:
            return one
        try:
            return row_from_json(self._rows, one)
        except ValueError as error:
            text = str(error)
            raise BadArguments(f"argument {self.signature.first!r}: {text[0].lower()}{text[1:]}") from None

    def portions(self, inputs: Mapping[int, Any]) -> list[list[int]]:
        """Which inputs go together, by their keys: arrays of one shape and type only, so that none is changed."""
        if self._rows is None:
            return [list(inputs)]
        alike: dict[Any, list[int]] = {}
        for place, one in inputs.items():
            alike.setdefault((one.shape, one.dtype), []).append(place)
        return list(alike.values())

    def join(self, inputs: list[Any]) -> Any:
        """The argument of the method."""
        return inputs if self._rows is None else stack(inputs)

    def split(self, result: Any, count: int) -> list[Any]:
        """What the method returned, as one answer for each of `count` inputs. Raises BadModelOutput where it is
        something else, and whatever a generator of the user raises.
        """
        if is_array(result) and result.ndim:
            answers = result.tolist() if result.ndim == 1 and result.dtype.kind in "biuf" else list(result)
        elif isinstance(result, Iterable) and not isinstance(result, _NOT_ANSWERS):
            answers = list(islice(result, count + 1))
        else:
            raise BadModelOutput(f"{self.name} returned a value of type {type(result).__name__}, not a list of answers")
        if len(answers) != count:
            said = f"more than {count}" if len(answers) > count else str(len(answers))
            inputs = "one input" if count == 1 else f"{count} inputs"
            raise BadModelOutput(f"{self.name} returned {said} answers for {inputs}")
        return answers


def _first(method: Callable[..., Any], notice: Callable[[str], None]) -> tuple[inspect.Parameter, Any]:
    """The parameter that takes the inputs, with its hint."""
    try:
        found = inspect.signature(method)
    except (TypeError, ValueError):  # C code
        return _Kind("inputs", _Kind.POSITIONAL_OR_KEYWORD), _Kind.empty
    parameters = list(found.parameters.values())
    fitting = bool(parameters) and (parameters[0].kind in NAMED or parameters[0].kind is _Kind.VAR_POSITIONAL)
    needless = all(each.default is not _Kind.empty or each.kind not in NAMED for each in parameters[1:])
    if not fitting or parameters[0].kind is _Kind.KEYWORD_ONLY or not needless:
        raise StartError("bad_batch", f"{_name(method)}{found} cannot be called with one list of inputs")
    if parameters[0].kind is _Kind.VAR_POSITIONAL:
        return _Kind("inputs", _Kind.POSITIONAL_OR_KEYWORD), _Kind.empty
    return parameters[0], resolved_hints(method, found, notice)[parameters[0].name]


def _item_of(hint: Any) -> Any:
    """T of `list[T]`; nothing where the hint does not say it."""
    arguments = get_args(hint)
    if get_origin(hint) not in _LISTS or not arguments:
        return _Kind.empty
    if get_origin(hint) is tuple and arguments[1:] != (Ellipsis,):
        return _Kind.empty
    return arguments[0]


def _name(method: Callable[..., Any]) -> str:
    return str(getattr(method, "__name__", "predict"))


def _any_array() -> Any:
    try:
        import numpy as np
    except ImportError:
        raise StartError("bad_batch", "`batch: stack` needs numpy, which is not installed here") from None
    return np.ndarray
