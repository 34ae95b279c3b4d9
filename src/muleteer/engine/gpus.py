"""Which GPUs a replica gets: first fit, parts of one device together, whole ones alone. Pure; must not know processes.

What is given out is counted, not enforced: a model that takes more of a shared device than its part harms its
neighbours there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_EXACT = 1e-6  # ten tenths are one device, whatever their float sum


class Taken(NamedTuple):
    """Devices of one replica, and how much of each it has: 1, or a part."""

    devices: tuple[str, ...]
    part: float


def assign(devices: Sequence[str], taken: Iterable[Taken], amount: float) -> Taken | None:
    """Devices for a replica that wants `amount`: a part of one (below 1), or so many whole ones. None: no room now."""
    used = dict.fromkeys(devices, 0.0)
    for each in taken:
        for device in each.devices:
            used[device] = used.get(device, 0.0) + each.part
    if amount < 1:
        fitting = [device for device in devices if used[device] + amount <= 1 + _EXACT]
        return Taken((fitting[0],), amount) if fitting else None
    free = [device for device in devices if used[device] < _EXACT]
    count = round(amount)
    return Taken(tuple(free[:count]), 1.0) if len(free) >= count else None


def impossible(devices: Sequence[str], amount: float) -> str | None:
    """Why `amount` can never be had here; None if it can."""
    if amount > 1 and not math.isclose(amount, round(amount)):
        return f"gpus {amount:g}: more than one must be a whole number"
    if math.ceil(amount) > len(devices):
        has = f"has {len(devices)}: {', '.join(devices)}" if devices else "has none"
        return f"gpus {amount:g}: this machine {has} (gpu_devices names them where they are not found)"
    return None
