"""Times and sizes as people write them: `100ms`, `64MiB`. Pure text; must not know which setting it reads.

Inside the program a time is a number of seconds and a size a number of bytes; only this module knows the text forms.
"""

from __future__ import annotations

import math
import re

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
"""Factor of each unit of time; a bare number is seconds."""

BYTES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
"""Factor of each unit of size, whatever the case; a bare number is bytes. `MB` is 10⁶ and `MiB` is 2²⁰."""

_NUMBER = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[A-Za-z]*)", re.ASCII)


def parse_seconds(text: str) -> float:
    """Seconds, e.g. 0.1 for `100ms`. Raises ValueError that says what may be written."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match["unit"] not in SECONDS:
        raise ValueError(f"{text!r} is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)")
    seconds = float(match["number"]) * SECONDS[match["unit"]]
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is not a finite time")
    return seconds


def parse_bytes(text: str) -> int:
    """Bytes, e.g. 67108864 for `64MiB`. Raises ValueError that says what may be written."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match["unit"].lower() not in BYTES:
        raise ValueError(f"{text!r} is not a size: write 64MiB, 500KB or 2GiB (a bare number is bytes)")
    size = float(match["number"]) * BYTES[match["unit"].lower()]
    if not size.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_seconds(seconds: float) -> str:
    """The shortest text that reads well: `30s`, `100ms`, `250us`. At most three significant digits below a second."""
    if seconds == 0:
        return "0s"
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:  # above, three digits round up to the next unit
            return f"{seconds * factor:.3g}{unit}"
    return f"{seconds:g}s"


def format_bytes(size: int) -> str:
    """`64MiB`, `1.5GiB`, `300B`: binary units, at most one decimal."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + unit


def format_rate(per_second: float) -> str:
    """`0.213 calls/s`, `45.6 calls/s`, `1,230 calls/s`."""
    return f"{format_number(per_second)} calls/s"


def format_number(value: float) -> str:
    """`0.213`, `45.6`, `1,230`: three digits, above 100 all of them."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def format_rough(value: float) -> str:
    """`0.04`, `0.5`, `1.2`, `45`, `0` below 0.005: two digits, of what is read and not calculated with."""
    return f"{value:.0f}" if value >= 9.95 else f"{round(value, 2):.2g}"
