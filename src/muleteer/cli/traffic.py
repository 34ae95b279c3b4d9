"""`muleteer traffic`: how an endpoint's requests are split over backends."""

from __future__ import annotations

import math
from collections.abc import Sequence

from muleteer.base.errors import UsageError
from muleteer.cli.change import Steering, steering_parser
from muleteer.client.admin import path_of


def run(arguments: Sequence[str]) -> int:
    """Set the weights of one endpoint."""
    parser = steering_parser("traffic", "Split an endpoint's requests by weight; a backend not named gets none.")
    parser.add_argument("endpoint", metavar="ENDPOINT")
    parser.add_argument("weights", nargs="+", metavar="BACKEND=WEIGHT", help="lr:v1=90 lr:v2=10")
    found = parser.parse(arguments)
    body = read_weights(found.weights)
    return Steering(found).change("PUT", path_of("endpoints", found.endpoint, "traffic"), body, wait=not found.no_wait)


def read_weights(texts: Sequence[str]) -> dict[str, float]:
    """`["lr:v1=90", …]` → weights. Raises UsageError."""
    weights: dict[str, float] = {}
    for text in texts:
        name, mark, number = text.rpartition("=")
        if not mark or not name:
            raise UsageError(f"{text!r} is no weight: write BACKEND=WEIGHT, for example lr:v1=90")
        if name in weights:
            raise UsageError(f"{name} is given twice")
        try:
            weights[name] = float(number.removesuffix("%"))
            if not math.isfinite(weights[name]):
                raise ValueError
        except ValueError:
            raise UsageError(f"{text!r}: {number!r} is not a number") from None
    return weights
