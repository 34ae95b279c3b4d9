"""Ranges, response times and devices as people write them: `0:8`, `p99=100ms`, `0,1`. Pure text; must not know
which setting it reads.
"""

from __future__ import annotations

import re

from muleteer.base.limits import REPLICAS_MAX
from muleteer.spec.settings import Replicas, Slo
from muleteer.spec.units import format_seconds, parse_seconds

_COUNT = re.compile(r"(-?[0-9]{1,18})(?::([0-9]{1,18}))?", re.ASCII)
_SLO = re.compile(r"\s*p99\s*=(.*)", re.ASCII)
_DEVICE = re.compile(r"[0-9]{1,4}|(GPU|MIG)-[A-Za-z0-9/-]{1,64}", re.ASCII)
SLO_S_MAX = 3600.0
"""As long as the longest timeout."""


def parse_replicas(text: str) -> int | Replicas:
    """`2` or `0:8`. Raises ValueError that says what may be written."""
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is neither a whole number nor a range such as 1:8")
    counts = [int(count) for count in match.groups() if count is not None]
    if not all(0 <= count <= REPLICAS_MAX for count in counts):
        raise ValueError(f"{text} is not allowed: at least 0 and at most {REPLICAS_MAX}")
    return make_range(*counts) if len(counts) == 2 else counts[0]


def make_range(low: int, high: int) -> Replicas:
    """Between `low` and `high` replicas. Raises ValueError that says what may be written."""
    if low > high:
        raise ValueError(f"min {low} is more than max {high}")
    return Replicas(low, high)


def format_replicas(replicas: int | Replicas) -> str:
    """`2` or `0:8`."""
    if isinstance(replicas, Replicas):
        return f"{replicas.min}:{replicas.max}" if replicas.min != replicas.max else str(replicas.min)
    return str(replicas)


def describe_replicas(bounds: Replicas) -> str:
    """`1 replica`, `2 replicas`, `0 to 8 replicas`."""
    if bounds.min != bounds.max:
        return f"{bounds.min} to {bounds.max} replicas"
    return "1 replica" if bounds.min == 1 else f"{bounds.min} replicas"


def parse_slo(text: str) -> Slo:
    """`p99=100ms`. Raises ValueError that says what may be written."""
    match = _SLO.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a response time to keep: write p99=100ms")
    return make_slo(match[1])


def make_slo(text: str) -> Slo:
    """From the time alone. Raises ValueError that says what may be written."""
    p99_s = parse_seconds(text)
    if not 0 < p99_s <= SLO_S_MAX:
        raise ValueError(f"{text.strip()} is not allowed: more than 0 and at most {SLO_S_MAX:g}")
    return Slo(p99_s)


def format_slo(slo: Slo) -> str:
    """`p99=100ms`."""
    return f"p99={format_seconds(slo.p99)}"


def parse_devices(text: str) -> str:
    """`0,1`: devices as CUDA_VISIBLE_DEVICES names them, each once. Raises ValueError that says what may be written."""
    names = [name.strip() for name in text.split(",")]
    if not all(map(_DEVICE.fullmatch, names)):
        raise ValueError(f"{text!r} does not name GPUs: write their numbers, such as 0,1")
    if len(set(names)) < len(names):
        raise ValueError(f"{text!r} names a GPU twice")
    return ",".join(names)


def count_devices(devices: str) -> int:
    """Of `0,1`: 2."""
    return devices.count(",") + 1
