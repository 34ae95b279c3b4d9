"""The OpenAPI 3.1 document, made from the same rows as the routes, so that it cannot say something else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from muleteer import __version__
from muleteer.base.limits import ADMIN_BODY_BYTES_MAX
from muleteer.control.admin.operation import SCHEMAS, Operation
from muleteer.spec.names import NAME_PATTERN
from muleteer.spec.schema import schema


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Every error. `code`: a machine word; `problems`: each mistake in what was sent, if there may be several."""

    error: str
    code: str
    problems: list[str] = []


ERRORS = {
    "400": "`invalid`, `bad_request`: the request is wrong; `problems` names every mistake",
    "401": "`unauthorized`: on TCP, no token or a wrong one",
    "403": "`foreign_origin`, `bad_host`: a web page from elsewhere",
    "404": "`not_found`: no such backend, endpoint, rollout, revision or path",
    "409": "`exists`, `in_use`, `conflict`, `rollout_active`: it does not fit what is declared now",
    "413": f"`body_too_large`: over {ADMIN_BODY_BYTES_MAX} bytes",
    "415": "`unsupported_media_type`: not JSON",
    "503": "`unobserved`: a retry while nobody has told yet what runs",
    "507": "`state_unwritable`: the state directory cannot be written; nothing was changed, and serving goes on",
}
_PATH_NAMES = {
    "name": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
    "revision": {"type": "integer", "minimum": 1},
}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The whole document, ready for JSON."""
    operations = list(operations)
    types = [type for each in operations for type in (each.body, each.answer) if type is not None]
    found, components = msgspec.json.schema_components([*types, ErrorAnswer], ref_template=SCHEMAS + "/{name}")
    *schemas, error = found
    of_type = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, of_type, error)
    file = schema()
    file.pop("$schema")
    parts = {
        "File": file,
        "Backend": file["properties"]["backends"]["additionalProperties"],
        "Endpoint": file["properties"]["endpoints"]["additionalProperties"],
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "muleteer admin API",
            "version": __version__,
            "description": "Backends, endpoints, and their traffic. The header `x-muleteer-who` says who asks.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, **parts},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "on TCP only"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(operation: Operation, of_type: dict[int, Any], error: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path.removeprefix('/v1')}").strip(
            "_"
        ),
        "summary": operation.summary,
        "responses": {
            "200": {"description": "done", "content": _json(of_type[id(operation.answer)])},
            **{status: {"description": words, "content": _json(error)} for status, words in ERRORS.items()},
        },
    }
    names = re.findall(r"{(\w+)}", operation.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_NAMES[name]} for name in names
    ]
    for name, words in operation.query.items():
        parameters.append({"name": name, "in": "query", "description": words, "schema": {"type": "string"}})
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _json(of_type[id(operation.body)])}
    return found


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
