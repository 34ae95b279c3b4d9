"""Operations on endpoints."""

from __future__ import annotations

from functools import partial
from typing import Any

from muleteer.control import change
from muleteer.control.admin.operation import Ask, Control, EndpointShape, Operation, Shape
from muleteer.control.commands import Changed
from muleteer.spec.shape import write_endpoint


async def _list(control: Control, _ask: Ask) -> dict[str, Any]:
    rows = {row["name"]: row for row in (await control.status())["endpoints"]}
    declared = control.commands.declared.endpoints
    return {
        "endpoints": [
            {**rows.get(spec.name, {"name": spec.name}), "declared": write_endpoint(spec)} for spec in declared
        ]
    }


async def _get(control: Control, ask: Ask) -> dict[str, Any]:
    spec = change.endpoint_of(control.commands.declared, ask.name)
    rows = [row for row in (await control.status())["endpoints"] if row["name"] == ask.name]
    return {**(rows[0] if rows else {"name": ask.name}), "declared": write_endpoint(spec)}


def _put(control: Control, ask: Ask) -> Changed:
    make = partial(change.put_endpoint, name=ask.name, shape=ask.body, create=ask.flag("create"))
    return control.commands.make(make, who=ask.who, what=f"declare endpoint {ask.name}")


def _patch(control: Control, ask: Ask) -> Changed:
    make = partial(change.patch_endpoint, name=ask.name, shape=ask.body)
    return control.commands.make(make, who=ask.who, what=f"set {', '.join(ask.body)[:150]} of endpoint {ask.name}")


def _delete(control: Control, ask: Ask) -> Changed:
    make = partial(change.delete_endpoint, name=ask.name)
    return control.commands.make(make, who=ask.who, what=f"delete endpoint {ask.name}")


def _traffic(control: Control, ask: Ask) -> Changed:
    make = partial(change.set_traffic, name=ask.name, weights=ask.body)
    return control.commands.make(make, who=ask.who, what=f"set traffic of endpoint {ask.name}")


_ONE = "/v1/endpoints/{name}"
OPERATIONS = (
    Operation(
        method="GET", path="/v1/endpoints", call=_list, summary="Every endpoint: what is declared, what travels."
    ),
    Operation(method="GET", path=_ONE, call=_get, summary="One endpoint: what is declared, what travels."),
    Operation(
        method="PUT",
        path=_ONE,
        call=_put,
        body=EndpointShape,
        answer=Changed,
        query={"create": "1: refuse (409) if it is there already"},
        summary="Declare an endpoint as in muleteer.yaml.",
    ),
    Operation(
        method="PATCH",
        path=_ONE,
        call=_patch,
        body=Shape,
        answer=Changed,
        summary="Change some parts of an endpoint, each whole; null takes one away.",
    ),
    Operation(
        method="DELETE", path=_ONE, call=_delete, answer=Changed, summary="Remove an endpoint: its route answers 404."
    ),
    Operation(
        method="PUT",
        path=f"{_ONE}/traffic",
        call=_traffic,
        body=dict[str, float],
        answer=Changed,
        summary="Weights by backend; one that is not named gets nothing any more.",
    ),
)
