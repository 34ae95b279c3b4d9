"""What several gateways count, as if it were one. Pure; must not know what the counts mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def summed(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers are added up, tables within too; of yes and no one yes is enough."""
    found: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            before = found.get(name)
            if isinstance(value, Mapping):
                found[name] = summed([before or {}, value])
            elif isinstance(value, bool):
                found[name] = bool(before) or value
            else:
                found[name] = value if before is None else before + value
    return found


def services(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Service times of one backend: means by how many calls there were; of the quantiles, which cannot be joined, the
    largest.
    """
    known = [table for table in tables if table]
    if len(known) < 2:
        return dict(known[0]) if known else {}
    calls = sum(table["samples"] for table in known)
    found: dict[str, Any] = {"samples": calls}
    for name in known[0]:
        if name.endswith("mean_s"):
            found[name] = sum(table[name] * table["samples"] for table in known) / max(1, calls)
        elif name != "samples":
            found[name] = max(table[name] for table in known)
    return found
