"""The JSON Schema of `muleteer.yaml`, for editors: derived from `spec.settings`, so it cannot say something else.

`python -m muleteer.spec.schema` prints it; the repository keeps it as schema/muleteer.schema.json. What a schema cannot
say (a backend that is not declared, weights that sum to 0, a file that is missing) only `spec.file` checks.
"""

from __future__ import annotations

import json
from typing import Any

from muleteer.base.limits import REPLICAS_MAX
from muleteer.spec.file import AFFINITY_SOURCES, FIELD_NAME_PATTERN, METHODS
from muleteer.spec.forms import SLO_S_MAX
from muleteer.spec.load import UNSET
from muleteer.spec.names import NAME_PATTERN
from muleteer.spec.routes import ROUTE_PATTERN
from muleteer.spec.setting import Setting
from muleteer.spec.settings import SETTINGS
from muleteer.spec.traffic import WEIGHT_MAX

_SECONDS = r"^\s*[0-9]+(\.[0-9]+)?\s*(us|ms|s|m|min|h)?\s*$"
_BYTES = r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGg][Ii]?)?[Bb]?\s*$"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
_NAME = {"type": "string", "pattern": f"^{NAME_PATTERN}$"}
_FIELD_NAME = {"type": "string", "pattern": f"^{FIELD_NAME_PATTERN}$"}


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    backend = {
        "model": {"type": "string", "description": "file.py:Name or package.module:Name", "pattern": ":[^:]+$"},
        "base_dir": {
            "type": "string",
            "description": "where a relative model file starts; default: this file's folder",
        },
        **_settings("backend"),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "muleteer.yaml",
        "description": "Backends, endpoints and how traffic moves between them",
        **_object(
            {
                "backends": _named(_object(backend, required=["model"]), "name → model and how to run it"),
                "endpoints": _named(_endpoint(), "name → route and the backends behind it"),
                "server": _object(_settings("server")),
            }
        ),
    }


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def _named(entry: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "propertyNames": _NAME, "additionalProperties": entry}


def _settings(scope: str) -> dict[str, Any]:
    shown = (setting for setting in SETTINGS.values() if setting.scope == scope and not setting.secret)
    return {setting.name: _setting(setting) for setting in shown}


def _setting(setting: Setting) -> dict[str, Any]:
    kinds: dict[type, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
    choices: list[dict[str, Any]] = []
    if setting.kind != "slo" and not (setting.choices and setting.type is str):
        plain: dict[str, Any] = {"type": kinds[setting.type]}
        plain |= {_BOUNDS[key]: bound for key, bound in setting.bounds.items()}
        choices.append(plain | ({"minLength": 1} if setting.type is str else {}))
    if setting.kind and setting.kind != "parts":
        choices.append(_forms(setting.kind))
    words: list[str | None] = list(setting.choices)
    if setting.optional:
        words += [None, *UNSET[setting.unset]]
    if words:
        choices.append({"enum": words})
    shape = {"anyOf": choices} if len(choices) > 1 else choices[0]
    return {"description": f"{setting.description} ({setting.why})", "default": setting.default, **shape}


def _forms(kind: str) -> dict[str, Any]:
    """What may stand in place of a plain number."""
    seconds = {"type": "string", "pattern": _SECONDS}
    if kind == "replicas":
        count = {"type": "integer", "minimum": 0, "maximum": REPLICAS_MAX}
        return {**_object({"min": count, "max": count}), "minProperties": 1}
    if kind == "slo":
        number = {"type": "number", "exclusiveMinimum": 0, "maximum": SLO_S_MAX}
        return _object({"p99": {"anyOf": [number, seconds]}}, required=["p99"])
    if kind == "ray":
        return _object(
            {
                "resources": {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
                "placement": {"enum": ["spread", "pack"]},
                "node": {"type": "string"},
                "runtime_env": {"type": "object"},
            }
        )
    if kind == "devices":
        return {"type": "integer", "minimum": 0}
    return seconds if kind == "seconds" else {"type": "string", "pattern": _BYTES}


def _endpoint() -> dict[str, Any]:
    weight = {"type": "number", "minimum": 0, "maximum": WEIGHT_MAX}
    method = {"enum": list(METHODS)}
    timeout = [{"type": "number", "exclusiveMinimum": 0, "maximum": 3600}, {"type": "string", "pattern": _SECONDS}]
    properties = {
        "route": {"type": "string", "pattern": f"^({ROUTE_PATTERN})$"},
        "methods": {"anyOf": [{"type": "array", "items": method, "minItems": 1, "uniqueItems": True}, method]},
        "backend": {**_NAME, "description": "the only backend: all traffic goes there"},
        "traffic": {
            "type": "object",
            "description": "backend → weight; requests are shared in proportion",
            "propertyNames": _NAME,
            "additionalProperties": weight,
            "minProperties": 1,
        },
        "timeout": {"description": "deadline of this endpoint's requests", "anyOf": timeout},
        "affinity": _object(
            {
                "header": {**_FIELD_NAME, "description": "request header that holds the session's key"},
                "cookie": {**_FIELD_NAME, "description": "cookie that the gateway issues and signs"},
                "json": {"type": "string", "minLength": 1, "maxLength": 128, "description": "field of the JSON body"},
                "replica": {"type": "boolean", "default": False, "description": "also keep to one replica"},
            },
            oneOf=[{"required": [source]} for source in AFFINITY_SOURCES],
        ),
        "shadow": _object(
            {
                "backend": {**_NAME, "description": "gets copies of calls; its answers are compared, never sent"},
                "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
                "tolerance": {"type": "number", "minimum": 0, "maximum": 1, "default": 1e-6},
            },
            required=["backend", "percent"],
        ),
        "override": _object(
            {
                "header": {**_FIELD_NAME, "description": "request header that may name the backend"},
                "cookie": {**_FIELD_NAME, "description": "cookie that may name the backend"},
            },
            minProperties=1,
        ),
    }
    one_of = [{"required": ["backend"]}, {"required": ["traffic"]}]
    return _object(properties, required=["route"], oneOf=one_of)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
