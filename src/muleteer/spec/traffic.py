"""How one endpoint's requests travel beyond their weights: affinity, shadow, override. Shared by what is declared
(`spec.settings`) and what a gateway is told (`spec.snapshot`). Types only.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

AffinitySource = Literal["header", "cookie", "json"]

WEIGHT_MAX = 1e9
"""Of one backend. Far above any use; sums and ratios stay exact enough."""


class Affinity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests with the same key go to the same backend while the weights allow it.

    Attributes:
        source: where the key comes from: a request header, a cookie that the gateway issues and signs, or a top-level
            field of a JSON body.
        name: of the header (lower case), cookie or field.
        replica: also keep to one replica of that backend while it is ready.
    """

    source: AffinitySource
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    replica: bool = False


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A copy of `percent` of the calls goes to `backend`, whose answers are compared and thrown away.

    `tolerance`: relative difference up to which two numbers count as equal.
    """

    backend: str
    percent: Annotated[float, Meta(gt=0, le=100)]
    tolerance: Annotated[float, Meta(ge=0, le=1)] = 1e-6


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client may name the backend itself, among those in the endpoint's traffic (a weight of 0 included).

    Attributes:
        header: request header (lower case) whose value is a backend's name; None: not by header.
        cookie: cookie whose value is a backend's name; None: not by cookie. The header wins.
    """

    header: str | None = None
    cookie: str | None = None
