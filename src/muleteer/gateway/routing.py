"""From a path to an endpoint and from an endpoint to a backend. Pure; must not know links or calls."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from collections.abc import Callable
from functools import lru_cache
from typing import Generic

from muleteer.base.errors import Loading, MethodNotAllowed, NotFound, SpecError
from muleteer.gateway.sessions import Session, Sessions
from muleteer.gateway.split import Choice, Split
from muleteer.gateway.versions import EndpointCounts
from muleteer.gateway.way import B, Mirror, Way
from muleteer.spec.routes import RESERVED
from muleteer.spec.snapshot import EndpointRoute, Snapshot


class Context(Generic[B]):
    """What the endpoints of one gateway have in common, over all snapshots.

    Args:
        backend_of: who takes the calls for a backend of the snapshot, given its name.
        new_mirror: makes what copies the calls of an endpoint that has a shadow.
    """

    def __init__(
        self,
        backend_of: Callable[[str], B],
        new_mirror: Callable[[EndpointRoute, EndpointCounts], Mirror],
    ) -> None:
        self.sessions = Sessions()
        self.backend_of = backend_of
        self.new_mirror = new_mirror


class Endpoint(Generic[B]):
    """One endpoint, ready for the hot path.

    Among thousands nothing of an endpoint is in the processor's cache when a request comes for it, and each object that
    is looked at on the way costs as much as a hundred instructions: so there are few.

    Args:
        counts: of the endpoint of this name, whatever its traffic was.
    """

    __slots__ = ("_context", "_mirror", "_ways", "counts", "methods", "route", "split")

    def __init__(self, route: EndpointRoute, cookie_key: bytes, context: Context[B], counts: EndpointCounts) -> None:
        self.route = route
        self.methods = _methods(route.methods)
        self.split = Split(route, cookie_key)
        self.counts = counts
        self._context = context
        self._mirror = None if route.shadow is None else context.new_mirror(route, counts)
        self._ways: tuple[Way[B] | None, ...] = (None,) * len(route.traffic)

    def way(self, choice: Choice) -> Way[B]:
        """To the chosen backend; made when it is first gone."""
        return self._ways[choice.number] or self._new_way(choice)

    def session(self, choice: Choice) -> Session | None:
        """Of a request that has one."""
        if choice.session is None:
            return None
        affinity = self.route.affinity
        assert affinity is not None
        return Session(choice, self.route.name, replica=affinity.replica, sessions=self._context.sessions)

    def _new_way(self, choice: Choice) -> Way[B]:
        backend = choice.backend
        mirror = self._mirror
        if mirror is not None and mirror.backend == backend:
            mirror = None  # it would be compared with itself
        way = Way(self._context.backend_of(backend), self.counts.version(backend), mirror)
        self._ways = (*self._ways[: choice.number], way, *self._ways[choice.number + 1 :])
        return way


@lru_cache(maxsize=256)
def _methods(names: tuple[str, ...]) -> frozenset[str]:
    """The same few sets for all endpoints."""
    return frozenset(names)


class Routes(Generic[B]):
    """All endpoints of one snapshot. Raises SpecError if the snapshot contradicts itself.

    Args:
        context: of the gateway.
        before: what this one replaces: endpoints that stay the same are taken over, counts of the others too.
    """

    __slots__ = ("_by_path", "_cookie_key", "backends", "revision")

    def __init__(self, snapshot: Snapshot, context: Context[B], before: Routes[B] | None = None) -> None:
        self.revision = snapshot.revision
        self.backends = {backend.name for backend in snapshot.backends}
        self._cookie_key = _cookie_key(snapshot)
        self._by_path: dict[str, Endpoint[B]] = {}
        if len(self.backends) < len(snapshot.backends):
            raise SpecError("two backends have the same name")
        known = {} if before is None else {each.route.name: each for each in before.endpoints}
        same_key = before is not None and before._cookie_key == self._cookie_key
        names = set()
        for route in snapshot.endpoints:
            if route.route in RESERVED or route.route in self._by_path:
                raise SpecError(f"route {route.route} of endpoint {route.name!r} is taken")
            if route.name in names:
                raise SpecError(f"two endpoints are called {route.name!r}")
            names.add(route.name)
            _check_backends(route, self.backends)
            former = known.get(route.name)
            if former is not None and same_key and former.route == route:
                self._by_path[route.route] = former
                continue
            if route.affinity is not None and route.affinity.source == "cookie" and not self._cookie_key:
                raise SpecError(f"endpoint {route.name!r} issues cookies, and the snapshot has no key to sign them")
            counts = EndpointCounts() if former is None else former.counts
            self._by_path[route.route] = Endpoint(route, self._cookie_key, context, counts)

    @property
    def endpoints(self) -> list[Endpoint[B]]:
        """All of them."""
        return list(self._by_path.values())

    def find(self, method: str, path: str) -> Endpoint[B]:
        """The endpoint of exactly this path. Raises NotFound, or MethodNotAllowed with what is allowed; Loading before
        the first snapshot, when nobody can know what there is not.
        """
        endpoint = self._by_path.get(path)
        if endpoint is None:
            if not self.revision:
                raise Loading("this gateway has no routes yet", retry_after_s=1)
            raise NotFound("no endpoint has this route")
        if method not in endpoint.methods:
            allow = sorted(endpoint.methods)
            raise MethodNotAllowed(f"this route takes {', '.join(allow)}", allow=allow)
        return endpoint

    def backends_with_traffic(self) -> set[str]:
        """Names of all backends that get requests by weight."""
        return {name for endpoint in self._by_path.values() for name in endpoint.split.backends}


def _cookie_key(snapshot: Snapshot) -> bytes:
    try:
        return b64decode(snapshot.cookie_key, validate=True)
    except (binascii.Error, ValueError):
        raise SpecError("the cookie key is not base64") from None


def _check_backends(route: EndpointRoute, backends: set[str]) -> None:
    weights = route.traffic.values()
    if any(not math.isfinite(weight) or weight < 0 for weight in weights) or not any(weights):
        raise SpecError(
            f"traffic {route.traffic} of endpoint {route.name!r} must hold finite weights, none negative, "
            "at least one positive"
        )
    named = set(route.traffic) if route.shadow is None else {*route.traffic, route.shadow.backend}
    if not named <= backends:
        raise SpecError(f"endpoint {route.name!r} names unknown backends: {sorted(named - backends)}")
