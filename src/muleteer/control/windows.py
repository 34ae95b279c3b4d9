"""What the gateways counted of an endpoint's versions, as rollouts compare it. Pure; must not know gateways.

A request counts against a version if it ended in a 5xx of any kind, or in arguments that the model did not take: a new
version may ask for others, and clients who err of themselves err alike with both. Clients that went away and requests
refused by a server that drains say nothing about a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from muleteer.base.errors import CODES, BadArguments, Draining
from muleteer.control.rollout import Window
from muleteer.telemetry.versions import EndpointStatistics, ShadowStatistics, VersionStatistics

_SAYS_NOTHING = frozenset({"client_gone", Draining.code})
_ERRORS = frozenset(code for code, kind in CODES.items() if kind.status >= 500) | {BadArguments.code}


class Counted(msgspec.Struct, frozen=True):
    """The part of a gateway's statistics that tells of versions; the rest is let pass."""

    epoch: str = ""
    endpoints: dict[str, EndpointStatistics] = {}


class Reading(msgspec.Struct, frozen=True):
    """All gateways at one moment. `epochs`: gateway → which of its lives counted."""

    epochs: dict[str, str]
    counted: tuple[Counted, ...]

    def backends(self, endpoint: str) -> set[str]:
        """Backends that ever answered for an endpoint."""
        found = (gateway.endpoints[endpoint].versions for gateway in self.counted if endpoint in gateway.endpoints)
        return {name for versions in found for name in versions}

    def version(self, endpoint: str, backend: str) -> VersionStatistics:
        """One backend behind one endpoint, over all gateways."""
        found = VersionStatistics()
        for gateway in self.counted:
            if endpoint in gateway.endpoints and backend in gateway.endpoints[endpoint].versions:
                found = _sum(found, gateway.endpoints[endpoint].versions[backend])
        return found

    def shadow(self, endpoint: str, backend: str) -> ShadowStatistics:
        """Copies of an endpoint's calls to one backend, over all gateways."""
        found = [
            gateway.endpoints[endpoint].shadows[backend]
            for gateway in self.counted
            if endpoint in gateway.endpoints and backend in gateway.endpoints[endpoint].shadows
        ]
        names = ShadowStatistics.__struct_fields__
        return ShadowStatistics(**{name: sum(getattr(each, name) for each in found) for name in names})


def read(gateways: Mapping[str, dict[str, Any] | None]) -> Reading | None:
    """What the gateways told; None while one of them is silent or tells what we cannot read: then nothing is known."""
    counted = {}
    for name, told in gateways.items():
        try:
            counted[name] = msgspec.convert(told, Counted, str_keys=True)  # as in JSON
        except msgspec.ValidationError:
            return None
    return Reading({name: each.epoch for name, each in counted.items()}, tuple(counted.values()))


def window_of_version(version: VersionStatistics) -> Window:
    """A version's running totals."""
    counts = {code: count for code, count in version.outcomes.items() if code not in _SAYS_NOTHING}
    errors = sum(count for code, count in counts.items() if code in _ERRORS)
    return Window(sum(counts.values()), errors, version.latency)


def window_of_shadow(shadow: ShadowStatistics) -> Window:
    """A copy's running totals: what was dropped was never asked."""
    return Window(shadow.equal + shadow.different + shadow.uncompared + shadow.error, shadow.error)


def _sum(one: VersionStatistics, other: VersionStatistics) -> VersionStatistics:
    outcomes = dict(one.outcomes)
    for code, count in other.outcomes.items():
        outcomes[code] = outcomes.get(code, 0) + count
    return VersionStatistics(outcomes, one.latency.merge(other.latency))
