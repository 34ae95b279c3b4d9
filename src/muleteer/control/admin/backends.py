"""Operations on backends."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from muleteer.control import change
from muleteer.control.admin.operation import Ask, BackendShape, Control, Operation, Shape
from muleteer.control.change import NotFoundError
from muleteer.control.commands import Changed
from muleteer.spec.shape import write_backend


class Retried(msgspec.Struct, frozen=True):
    """Ids of the replicas that are started afresh."""

    retried: list[str]


async def _list(control: Control, _ask: Ask) -> dict[str, Any]:
    rows = {row["name"]: row for row in (await control.status())["backends"]}
    declared = control.commands.declared.backends
    return {
        "backends": [{**rows.get(spec.name, {"name": spec.name}), "declared": write_backend(spec)} for spec in declared]
    }


async def _get(control: Control, ask: Ask) -> dict[str, Any]:
    spec = change.backend_of(control.commands.declared, ask.name)
    rows = [row for row in (await control.status())["backends"] if row["name"] == ask.name]
    users = [each.name for each in control.commands.declared.endpoints if ask.name in change.needed_by(each)]
    return {**(rows[0] if rows else {"name": ask.name}), "declared": write_backend(spec), "endpoints": users}


def _put(control: Control, ask: Ask) -> Changed:
    make = partial(change.put_backend, name=ask.name, shape=ask.body, create=ask.flag("create"))
    return control.commands.make(make, who=ask.who, what=f"declare backend {ask.name}")


def _patch(control: Control, ask: Ask) -> Changed:
    make = partial(change.patch_backend, name=ask.name, shape=ask.body)
    return control.commands.make(make, who=ask.who, what=f"set {', '.join(ask.body)[:150]} of backend {ask.name}")


def _delete(control: Control, ask: Ask) -> Changed:
    make = partial(change.delete_backend, name=ask.name)
    return control.commands.make(make, who=ask.who, what=f"delete backend {ask.name}")


def _retry(control: Control, ask: Ask) -> Retried:
    retried = control.retry(ask.name)
    if retried is None:
        raise NotFoundError(f"there is no backend {ask.name!r}")
    return Retried(retried)


_ONE = "/v1/backends/{name}"
OPERATIONS = (
    Operation(method="GET", path="/v1/backends", call=_list, summary="Every backend: what is declared, what runs."),
    Operation(method="GET", path=_ONE, call=_get, summary="One backend: what is declared, what runs, who uses it."),
    Operation(
        method="PUT",
        path=_ONE,
        call=_put,
        body=BackendShape,
        answer=Changed,
        query={"create": "1: refuse (409) if it is there already"},
        summary="Declare a backend as in muleteer.yaml, with an absolute `base_dir`.",
    ),
    Operation(
        method="PATCH",
        path=_ONE,
        call=_patch,
        body=Shape,
        answer=Changed,
        summary="Change some settings of a backend; null stands for the default.",
    ),
    Operation(
        method="DELETE", path=_ONE, call=_delete, answer=Changed, summary="Remove a backend that no endpoint uses."
    ),
    Operation(
        method="POST", path=f"{_ONE}/retry", call=_retry, answer=Retried, summary="Start its failed replicas afresh."
    ),
)
