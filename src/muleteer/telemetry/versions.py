"""What a gateway counts of each version of an endpoint: the shape in which status, rollouts and metrics read it.

It stands in the gateway's statistics as `"epoch": TEXT, "endpoints": {ENDPOINT: EndpointStatistics}`. Everything is
cumulative since the gateway started, and the reader subtracts; `epoch` differs for every start of a gateway, so that a
reader knows when the counts began again. Types only.
"""

from __future__ import annotations

import msgspec

from muleteer.telemetry.histogram import Distribution


class VersionStatistics(msgspec.Struct, frozen=True):
    """One backend behind one endpoint.

    Attributes:
        outcomes: terminal outcomes of the requests routed to it: `ok` for a 200, else the error's code, `client_gone`
            if nobody waited for it any more.
        latency: seconds from the first byte of the request to the answer, of `ok` only.
    """

    outcomes: dict[str, int] = {}
    latency: Distribution = Distribution()


class ShadowStatistics(msgspec.Struct, frozen=True):
    """Copies of one endpoint's calls to one backend.

    Attributes:
        sent: dispatched; each ends in exactly one of the four below.
        equal, different: the answers were compared.
        uncompared: it answered, but comparing was not affordable, or the primary failed.
        error: it failed.
        dropped: not dispatched (busy, gone, over a bound).
    """

    sent: int = 0
    equal: int = 0
    different: int = 0
    uncompared: int = 0
    error: int = 0
    dropped: int = 0


class EndpointStatistics(msgspec.Struct, frozen=True):
    """One endpoint, by name of backend."""

    versions: dict[str, VersionStatistics] = {}
    shadows: dict[str, ShadowStatistics] = {}
