"""What is declared → `muleteer.yaml`, which `spec.file` reads back to the same. Defaults are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from muleteer.spec.document import resolve_plain
from muleteer.spec.settings import (
    SETTINGS,
    BackendSettings,
    BackendSpec,
    Declared,
    EndpointSpec,
    Replicas,
    ServerSettings,
    Slo,
)
from muleteer.spec.traffic import Affinity, Override, Shadow
from muleteer.spec.units import format_bytes, format_seconds, parse_bytes, parse_seconds

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+-]*|[0-9]+(\.[0-9]+)?(us|ms|s|B|KiB|MiB|GiB)")


def dump(declared: Declared, *, base_dir: str = "") -> str:
    """YAML text that declares the same.

    `base_dir`: the folder the text is meant for; backends whose relative files start elsewhere say so.
    """
    tree = shape(declared, base_dir=base_dir)
    return "\n".join(_block({key: value for key, value in tree.items() if value}, 0)) + "\n"


def shape(declared: Declared, *, base_dir: str = "") -> dict[str, Any]:
    """The mappings of that text; numbers that need every digit are Decimals. Secrets are left out."""
    return {
        "backends": {backend.name: backend_shape(backend, base_dir) for backend in declared.backends},
        "endpoints": {endpoint.name: endpoint_shape(endpoint) for endpoint in declared.endpoints},
        "server": _settings(declared.server),
    }


def backend_shape(backend: BackendSpec, base_dir: str = "") -> dict[str, Any]:
    """What stands under a backend's name."""
    folder = {} if backend.base_dir == base_dir else {"base_dir": backend.base_dir}
    return {"model": backend.target, **folder, **_settings(backend.settings)}


def _settings(settings: BackendSettings | ServerSettings) -> dict[str, Any]:
    given = {}
    for name in settings.__struct_fields__:
        value, setting = getattr(settings, name), SETTINGS[name]
        if value == setting.default or setting.secret:
            continue
        if setting.kind == "seconds":
            value = _seconds(value)
        elif setting.kind == "bytes":
            value = _exactly(format_bytes(value), parse_bytes, value) or value
        elif setting.kind == "ray":
            value = json.loads(value)
        elif isinstance(value, Replicas):
            value = {"min": value.min, "max": value.max}
        elif isinstance(value, Slo):
            value = {"p99": _seconds(value.p99)}
        given[name] = value
    return given


def endpoint_shape(endpoint: EndpointSpec) -> dict[str, Any]:
    """What stands under an endpoint's name."""
    given: dict[str, Any] = {"route": endpoint.route}
    if endpoint.methods != ("POST",):
        given["methods"] = list(endpoint.methods)
    if len(endpoint.traffic) == 1 and 1.0 in endpoint.traffic.values():
        given["backend"] = next(iter(endpoint.traffic))
    else:
        given["traffic"] = dict(endpoint.traffic)
    if endpoint.timeout is not None:
        given["timeout"] = _seconds(endpoint.timeout)
    for part in (endpoint.affinity, endpoint.shadow, endpoint.override):
        if part is not None:
            given[type(part).__name__.lower()] = _travel(part)
    return given


def _travel(part: Affinity | Shadow | Override) -> dict[str, Any]:
    match part:
        case Affinity():
            return {part.source: part.name, **({"replica": True} if part.replica else {})}
        case Shadow():
            tolerance = {} if part.tolerance == 1e-6 else {"tolerance": part.tolerance}
            return {"backend": part.backend, "percent": part.percent, **tolerance}
        case Override():
            named = {"header": part.header, "cookie": part.cookie}
            return {key: name for key, name in named.items() if name is not None}


def _seconds(value: float) -> str | Decimal:
    return _exactly(format_seconds(value), parse_seconds, value) or Decimal(repr(value))  # without an exponent


def _exactly(text: str, read: Callable[[str], float], value: float) -> str:
    """`text`, unless it was rounded."""
    try:
        return text if read(text) == value else ""
    except ValueError:
        return ""


def _block(tree: dict[str, Any], depth: int) -> Iterator[str]:
    """Block style down to the third level, flow style below: one line a policy."""
    for key, value in tree.items():
        if isinstance(value, dict) and depth < 2:
            yield f"{'  ' * depth}{_text(key)}:"
            yield from _block(value, depth + 1)
        else:
            yield f"{'  ' * depth}{_text(key)}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float) and value.is_integer() and value < 2**53:
        return str(int(value))
    return json.dumps(value)


def _text(text: str) -> str:
    """Unquoted where that reads back as the same text in YAML 1.1 too, else in double quotes."""
    if text.lower() in ("y", "n", "yes", "no", "on", "off"):  # booleans to YAML 1.1
        return f'"{text}"'
    if _PLAIN.fullmatch(text) and isinstance(resolve_plain(text), str):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
