"""Numpy arrays, in and out. The only module that touches numpy, and only when the user's model has loaded it."""

from __future__ import annotations

import math
import sys
from typing import Any, get_args, get_origin

import msgspec

_EXACT = 2**53  # beyond it a float skips integers


def is_array_hint(hint: Any) -> bool:
    """Whether `hint` is `np.ndarray`, or `np.typing.NDArray[...]`."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and (get_origin(hint) or hint) is numpy.ndarray


def is_array(value: Any) -> bool:
    """Whether `value` is a numpy array or scalar."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


def array_from_json(hint: Any, value: Any) -> Any:
    """Nested lists → array; the element type is inferred, or the one the hint names. Raises ValueError.

    Refused: ragged lists, mixtures of text and numbers, null, objects, integers that the element type cannot hold.
    """
    numpy = sys.modules["numpy"]
    if type(value) is not list:
        raise ValueError(f"Expected an array (nested lists), got `{_json_name(value)}`")
    try:
        array = numpy.array(value)
    except ValueError:
        raise ValueError("Expected an array, got ragged lists") from None
    except OverflowError:
        raise ValueError("Expected an array, got integers beyond 64 bits") from None
    kind = array.dtype.kind
    if kind == "O" or (kind == "U" and not all(isinstance(leaf, str) for leaf in _leaves(value))):
        raise ValueError("Expected an array of numbers, of booleans or of text only")
    if kind == "f" and array.size and numpy.abs(array).max() >= _EXACT:
        for leaf in _leaves(value):
            if type(leaf) is int and abs(leaf) >= _EXACT:
                raise ValueError(f"Expected an array, {leaf} cannot be kept exactly beside these numbers")
    declared = _declared(hint)
    return array if declared is None else _as(array, declared)


def row_from_json(hint: Any, value: Any) -> Any:
    """One member of a stack: an array as in `array_from_json`, or a single number. Raises ValueError."""
    if not is_array(value):
        number = isinstance(value, (int, float))
        value = array_from_json(hint, [value])[0] if number else array_from_json(hint, value)
    if value.dtype.kind not in "biufc":
        raise ValueError(f"Expected numbers or booleans, got {value.dtype}")
    return value


def stack(rows: list[Any]) -> Any:
    """Arrays of one shape, along a new first axis."""
    return sys.modules["numpy"].stack(rows)


def _declared(hint: Any) -> Any:
    numpy = sys.modules["numpy"]
    for argument in get_args(hint)[1:]:
        scalar = next(iter(get_args(argument)), None)
        if isinstance(scalar, type) and issubclass(scalar, numpy.generic):
            try:
                return numpy.dtype(scalar)
            except TypeError:  # an abstract one such as np.floating: any will do
                return None
    return None


def _as(array: Any, dtype: Any) -> Any:
    numpy = sys.modules["numpy"]
    if array.size == 0 or array.dtype == dtype:
        return array.astype(dtype)
    number = array.dtype.kind in "iu"
    if number and dtype.kind in "iu":
        bounds = numpy.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise ValueError(f"Expected an array of {dtype}, got integers outside its range")
    elif not (dtype.kind in "fc" and (number or array.dtype.kind == "f")) and array.dtype.kind != dtype.kind:
        raise ValueError(f"Expected an array of {dtype}, got {array.dtype}")
    if number and dtype.kind in "fc" and numpy.abs(array).max() >= _EXACT:
        raise ValueError(f"Expected an array of {dtype}, got integers that it cannot keep exactly")
    with numpy.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and not numpy.isfinite(converted).all():
        raise ValueError(f"Expected an array of {dtype}, got numbers outside its range")
    return converted


def _leaves(value: Any) -> Any:
    for item in value:
        if type(item) is list:
            yield from _leaves(item)
        else:
            yield item


def _json_name(value: Any) -> str:
    names = {dict: "object", str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def array_to_json(value: Any) -> Any:
    """What stands for a numpy array or scalar in msgspec's encoder. Raises ValueError for NaN, Infinity and NaT."""
    fault = not_finite(value)
    if fault:
        raise ValueError(fault)
    numpy = sys.modules["numpy"]
    kind = value.dtype.kind
    if isinstance(value, numpy.ndarray):
        if value.ndim and (kind in "biuM" or (kind == "f" and value.dtype.itemsize <= 8)):
            from orjson import OPT_SERIALIZE_NUMPY, dumps

            # orjson wants what lies in memory as C would have it; it is 3 times as fast as tolist()
            return msgspec.Raw(
                dumps(
                    numpy.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False)),
                    option=OPT_SERIALIZE_NUMPY,
                )
            )
        return value.tolist()
    if kind == "M":
        return str(value)
    return float(value) if kind == "f" else value.item()  # a longdouble's item() is itself


def not_finite(value: Any) -> str:
    """Why a numpy array or scalar, or a float, is not finite: `NaN`, `Infinity`, `NaT`, or an empty string."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity"
    numpy = sys.modules["numpy"]
    kind = value.dtype.kind
    if kind == "f" and not numpy.isfinite(value).all():
        return "NaN" if numpy.isnan(value).any() else "Infinity"
    if kind == "M" and numpy.isnat(value).any():
        return "NaT"
    return ""
