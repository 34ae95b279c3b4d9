"""What one request makes of a declaration: the declaration before and the request in, the one after out. Pure; must not
know HTTP, the store or what runs.

Everything is checked by the reader of `muleteer.yaml`, so that API and file agree. A request that would change nothing
gives an equal declaration back. All functions raise ShapeError with every mistake in the request, and:

ChangeError
├── NotFoundError       there is no such backend or endpoint
├── ExistsError         it should be new, and is not
├── InUseError          endpoints need it
└── RolloutActiveError  a rollout moves this traffic
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import chain
from typing import Any, ClassVar, TypeVar

import msgspec

from muleteer.base.errors import SpecError
from muleteer.spec.fit import misfits
from muleteer.spec.nearest import did_you_mean
from muleteer.spec.settings import BackendSpec, Declared, EndpointSpec
from muleteer.spec.shape import (
    ShapeError,
    read_backend,
    read_declared,
    read_endpoint,
    write_backend,
    write_endpoint,
)

Named = TypeVar("Named", BackendSpec, EndpointSpec)


class ChangeError(SpecError):
    """A change that does not fit what is declared. `code` and `status`: for the admin API."""

    code: ClassVar[str] = ""
    status: ClassVar[int] = 409


class NotFoundError(ChangeError):
    """There is no such backend or endpoint."""

    code, status = "not_found", 404


class ExistsError(ChangeError):
    """It should be new, and is not."""

    code = "exists"


class InUseError(ChangeError):
    """Endpoints need it."""

    code = "in_use"


class RolloutActiveError(ChangeError):
    """A rollout moves this traffic."""

    code = "rollout_active"


class UnobservedError(ChangeError):
    """Nobody has told yet what runs."""

    code, status = "unobserved", 503


def apply(before: Declared, shape: Any, base_dir: str) -> Declared:
    """What a whole FILE declares. Settings of the server that it does not name stay as they are."""
    after = read_declared(shape, base_dir=base_dir)
    named = shape.get("server") or {}
    given = {name: getattr(after.server, name) for name in named}
    for name in ("port", "admin_port"):
        if given.get(name) == 0:
            del given[name]  # any port will do, so the one it has will
    return msgspec.structs.replace(after, server=msgspec.structs.replace(before.server, **given))


def put_backend(before: Declared, name: str, shape: dict[str, Any], *, create: bool = False) -> Declared:
    """One backend, declared anew. With `create` it must not be there yet."""
    if create and _find(before.backends, name) is not None:
        raise ExistsError(f"there is a backend {name!r} already")
    return _with_backend(before, _read_backend(name, shape))


def patch_backend(before: Declared, name: str, shape: dict[str, Any]) -> Declared:
    """Some of a backend's settings; null stands for the default."""
    old = write_backend(backend_of(before, name))
    merged = {key: value for key, value in {**old, **shape}.items() if value is not None}
    return _with_backend(before, _read_backend(name, merged, check_files=not {"model", "base_dir"}.isdisjoint(shape)))


def delete_backend(before: Declared, name: str) -> Declared:
    """Without this backend, which no endpoint may need."""
    backend_of(before, name)
    users = [endpoint.name for endpoint in before.endpoints if name in needed_by(endpoint)]
    if users:
        raise InUseError(f"backend {name!r} is in use by {_listed('endpoint', users)}")
    backends = tuple(backend for backend in before.backends if backend.name != name)
    return msgspec.structs.replace(before, backends=backends)


def put_endpoint(before: Declared, name: str, shape: dict[str, Any], *, create: bool = False) -> Declared:
    """One endpoint, declared anew. With `create` it must not be there yet."""
    if create and _find(before.endpoints, name) is not None:
        raise ExistsError(f"there is an endpoint {name!r} already")
    return _with_endpoint(before, name, shape)


def patch_endpoint(before: Declared, name: str, shape: dict[str, Any]) -> Declared:
    """Some parts of an endpoint, each whole; null takes one away."""
    old = write_endpoint(endpoint_of(before, name))
    if "backend" in shape or "traffic" in shape:
        old = {key: value for key, value in old.items() if key not in ("backend", "traffic")}
    merged = {key: value for key, value in {**old, **shape}.items() if value is not None}
    return _with_endpoint(before, name, merged)


def delete_endpoint(before: Declared, name: str) -> Declared:
    """Without this endpoint."""
    endpoint_of(before, name)
    endpoints = tuple(endpoint for endpoint in before.endpoints if endpoint.name != name)
    return msgspec.structs.replace(before, endpoints=endpoints)


def roll_back(before: Declared, to: Declared) -> Declared:
    """The backends and endpoints of an earlier revision. The server's settings stay: they are of this start."""
    return msgspec.structs.replace(to, server=before.server)


def needed_by(endpoint: EndpointSpec) -> set[str]:
    """The backends that an endpoint names."""
    shadow = {endpoint.shadow.backend} if endpoint.shadow is not None else set()
    return {*endpoint.traffic, *shadow}


def endpoint_of(declared: Declared, name: str) -> EndpointSpec:
    """The endpoint of this name. Raises NotFoundError."""
    found = _find(declared.endpoints, name)
    if found is None:
        names = [endpoint.name for endpoint in declared.endpoints]
        raise NotFoundError(f"there is no endpoint {name!r}{did_you_mean(name, names)}")
    return found


def check_rollouts(before: Declared, after: Declared, moving: Iterable[str]) -> None:
    """Raises RolloutActiveError if `after` changes how an endpoint travels that a rollout moves (those in `moving`)."""
    for name in moving:
        old, new = _find(before.endpoints, name), _find(after.endpoints, name)
        if old is not None and (new is None or (new.traffic, new.shadow) != (old.traffic, old.shadow)):
            raise RolloutActiveError(f"a rollout moves the traffic of endpoint {name!r}: abort it first")


def check_fit(after: Declared) -> None:
    """Raises ShapeError if settings of `after` do not go together: a backend's and the server's, say."""
    if found := misfits(after):
        raise ShapeError([str(misfit) for misfit in found])


def undo_of(before: Declared, after: Declared, revision: int) -> str:
    """The command that takes back one change. `revision`: the one before it."""
    changed = [
        (old, new)
        for old, new in zip(before.endpoints, after.endpoints, strict=False)
        if old.name == new.name and old != new
    ]
    if len(changed) == 1 and before.backends == after.backends and before.server == after.server:
        old, new = changed[0]
        if msgspec.structs.replace(new, traffic=old.traffic) == old:
            return shlex.join(["muleteer", "traffic", old.name, *(f"{name}={w:g}" for name, w in old.traffic.items())])
    return f"muleteer rollback {revision}"


def set_traffic(before: Declared, name: str, weights: dict[str, Any]) -> Declared:
    """Other weights of an endpoint; a backend that is not named gets nothing any more."""
    return patch_endpoint(before, name, {"traffic": weights})


def _find(items: tuple[Named, ...], name: str) -> Named | None:
    return next((item for item in items if item.name == name), None)


def backend_of(declared: Declared, name: str) -> BackendSpec:
    """The backend of this name. Raises NotFoundError."""
    found = _find(declared.backends, name)
    if found is None:
        names = [backend.name for backend in declared.backends]
        raise NotFoundError(f"there is no backend {name!r}{did_you_mean(name, names)}")
    return found


def _read_backend(name: str, shape: dict[str, Any], *, check_files: bool = True) -> BackendSpec:
    base_dir = shape.get("base_dir")
    if not isinstance(base_dir, str):
        raise ShapeError(["base_dir: needed, the absolute path where a relative model file starts"])
    return read_backend(name, shape, base_dir=base_dir, check_files=check_files)


def _with_backend(declared: Declared, backend: BackendSpec) -> Declared:
    return msgspec.structs.replace(declared, backends=_with(declared.backends, backend))


def _with_endpoint(declared: Declared, name: str, shape: dict[str, Any]) -> Declared:
    endpoint = read_endpoint(name, shape, backends=(backend.name for backend in declared.backends))
    for other in declared.endpoints:
        if other.route == endpoint.route and other.name != name:
            raise ShapeError([f"endpoints.{name}: its route {endpoint.route} is that of {other.name}"])
    return msgspec.structs.replace(declared, endpoints=_with(declared.endpoints, endpoint))


def _with(items: tuple[Named, ...], item: Named) -> tuple[Named, ...]:
    """In the place of its namesake, else at the end."""
    if _find(items, item.name) is None:
        return tuple(chain(items, (item,)))
    return tuple(item if other.name == item.name else other for other in items)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {shown}{more}"
