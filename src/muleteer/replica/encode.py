"""What `predict` returned → JSON, or BadModelOutput that names the value and its path. Must not know calls.

bytes become base64 text, dates ISO 8601, sets and tuples arrays, Decimal text, numpy arrays nested lists. NaN and
Infinity have no JSON form: msgspec writes them as `null`, so wherever that word appears the value is looked at again,
in msgpack, where every float keeps its bits and one search in C finds them.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import msgspec

from muleteer.base.errors import BadModelOutput
from muleteer.replica.arrays import array_to_json, is_array, not_finite

_PATH_DEPTH_MAX = 100  # how deep a fault is looked for


def encode(value: Any) -> bytes:
    """The JSON of `value`. Raises BadModelOutput; its message says what cannot be encoded, and where in the value."""
    try:
        body = _encoder.encode(value)
        if b"null" in body:
            _check_finite(value)
    except Exception as error:  # the boundary to the user's types: their properties and serialisers run in here
        raise BadModelOutput(_explain(value, error)) from error
    return body


def _check_finite(value: Any) -> None:
    try:
        suspicious = _NOT_FINITE.search(_packer.encode(value)) is not None
    except OverflowError:  # msgpack has no integers beyond 64 bits
        suspicious = True
    if suspicious and any(_fault(node) for _, node in _walk(value, "", 0)):
        raise ValueError("not finite")


def _hook(value: Any) -> Any:
    """What stands for a value that msgspec does not know. Raises TypeError, or ValueError where it is not finite."""
    if is_array(value):
        return array_to_json(value)
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (str, int, float)):  # subclasses
        return next(kind for kind in (str, int, float) if isinstance(value, kind))(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (deque, range, KeysView, ValuesView, ItemsView)):
        return list(value)
    raise TypeError(f"a value of type {_name(value)}, which has no JSON form")


def _pack_hook(value: Any) -> Any:
    if not is_array(value):
        return _hook(value)
    # arrays of numbers were checked when they were encoded; the others are lists of anything
    return value.tolist() if value.ndim and value.dtype.kind in "OV" else None


_encoder = msgspec.json.Encoder(enc_hook=_hook)
_packer = msgspec.msgpack.Encoder(enc_hook=_pack_hook)
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]", re.DOTALL)  # float64 marker, exponent all ones


def _explain(value: Any, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "predict returned a value that is nested too deep or contains itself"
    try:
        for path, node in _walk(value, "", 0):
            fault = _fault(node)
            if fault:
                return f"predict returned {fault}" + (f" at {path}" if path else "")
    except Exception as broken:  # noqa: BLE001 - the user's types again, while we look into them
        error = broken
    return f"predict returned a value that cannot be encoded: {type(error).__name__}: {error}"


def _fault(node: Any) -> str:
    """Why a node, apart from what it contains, has no JSON form; empty if it has one."""
    if isinstance(node, float) or is_array(node):
        fault = not_finite(node)
        if fault:
            return fault if isinstance(node, float) or not node.ndim else f"an array with {fault}"
    if isinstance(node, dict):
        try:
            _encoder.encode(dict.fromkeys(node))
        except Exception:  # noqa: BLE001 - the reason does not matter, the keys do
            kinds = ", ".join(sorted({_name(key) for key in node if type(key) is not str}))
            return f"an object with keys of type {kinds or 'str that are not Unicode'}"
        return ""
    if list(_children(node, "")):
        return ""
    if type(node).__name__ in ("generator", "async_generator", "coroutine"):
        return f"a {type(node).__name__.replace('_', ' ')}, not a value"
    try:
        _encoder.encode(node)
    except UnicodeEncodeError:
        return "text that is not Unicode (a lone surrogate)"
    except Exception as error:  # noqa: BLE001 - any reason is one for the answer
        return str(error) if isinstance(error, TypeError) else f"a value of type {_name(node)} ({error})"
    return ""


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every node with its path, parents first."""
    yield path, value
    if depth < _PATH_DEPTH_MAX:
        for place, child in _children(value, path):
            yield from _walk(child, place, depth + 1)


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", child) for key, child in value.items())
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((f"{path}[{index}]", child) for index, child in enumerate(value))
    elif is_array(value):
        if value.ndim and value.dtype.kind in "OcV":  # the others are checked as a whole
            yield from _children(value.tolist(), path)
    elif isinstance(value, msgspec.Struct):
        yield from ((f"{path}.{name}", getattr(value, name)) for name in value.__struct_fields__)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f"{path}.{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
    else:
        pydantic = sys.modules.get("pydantic")
        if pydantic is not None and isinstance(value, pydantic.BaseModel):
            yield from ((f"{path}.{name}", getattr(value, name)) for name in type(value).model_fields)


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__name__}"
