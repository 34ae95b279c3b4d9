"""From a path to an endpoint and from an endpoint to a backend. Pure; must not know links or calls."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate

from muleteer.base.errors import Loading, MethodNotAllowed, NotFound, SpecError
from muleteer.spec.snapshot import EndpointRoute, Snapshot

RESERVED = frozenset({"/livez", "/readyz"})
"""Routes of our own; no endpoint may have them."""


class Traffic:
    """The weighted choice of a backend, afresh for each request.

    Args:
        weights: backend name → weight, finite and ≥ 0, with a sum > 0. Raises SpecError otherwise.
    """

    __slots__ = ("_names", "_only", "_sums")

    def __init__(self, weights: dict[str, float]) -> None:
        weighed = {name: weight for name, weight in weights.items() if weight != 0}
        if not weighed or any(not math.isfinite(weight) or weight < 0 for weight in weighed.values()):
            raise SpecError(f"traffic {weights} must hold finite weights, none negative, at least one positive")
        self._names = tuple(weighed)
        self._sums = tuple(accumulate(weighed.values()))
        self._only = self._names[0] if len(weighed) == 1 else None

    @property
    def backends(self) -> tuple[str, ...]:
        """Those that get any requests."""
        return self._names

    def choose(self, uniform: Callable[[], float]) -> str:
        """A backend's name. `uniform()` gives a number from [0, 1)."""
        if self._only is not None:
            return self._only
        return self._names[bisect(self._sums, uniform() * self._sums[-1], hi=len(self._names) - 1)]


class Endpoint:
    """One endpoint, ready for the hot path."""

    __slots__ = ("methods", "route", "traffic")

    def __init__(self, route: EndpointRoute) -> None:
        self.route = route
        self.methods = frozenset(route.methods)
        self.traffic = Traffic(route.traffic)


class Routes:
    """All endpoints of one snapshot. Raises SpecError if the snapshot contradicts itself."""

    __slots__ = ("_by_path", "revision")

    def __init__(self, snapshot: Snapshot) -> None:
        self.revision = snapshot.revision
        self._by_path: dict[str, Endpoint] = {}
        backends = {backend.name for backend in snapshot.backends}
        if len(backends) < len(snapshot.backends):
            raise SpecError("two backends have the same name")
        for route in snapshot.endpoints:
            if route.route in RESERVED or route.route in self._by_path:
                raise SpecError(f"route {route.route} of endpoint {route.name!r} is taken")
            unknown = set(route.traffic) - backends
            if unknown:
                raise SpecError(f"endpoint {route.name!r} sends traffic to unknown backends: {sorted(unknown)}")
            self._by_path[route.route] = Endpoint(route)

    def find(self, method: str, path: str) -> Endpoint:
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
        """Names of all backends that get requests."""
        return {name for endpoint in self._by_path.values() for name in endpoint.traffic.backends}
