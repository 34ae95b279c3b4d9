"""Routes of endpoints: what may be one. Must not know which endpoint it is."""

from __future__ import annotations

import re

from muleteer.base.errors import SpecError

RESERVED = ("/livez", "/readyz")
"""Routes that the gateway answers itself."""

ROUTE_PATTERN = r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+|/"
_ROUTE = re.compile(ROUTE_PATTERN)


def check_route(route: str) -> str:
    """`route`, if requests can be sent to it. Raises SpecError that says what may stand there."""
    if not route.startswith("/"):
        raise SpecError(f"{route!r} must start with a slash: /{route}")
    if not _ROUTE.fullmatch(route) or any(part in (".", "..") for part in route.split("/")):
        raise SpecError(f"{route!r} is not a path: letters, digits and -._~ between single slashes, none at the end")
    if route in RESERVED:
        raise SpecError(f"{route} is taken: the gateway answers it itself")
    return route
