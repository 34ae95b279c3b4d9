"""What this machine, or the container we are in, has: cores, memory, GPUs. Reads files; must not know replicas.

A limit may stand on any group above ours, so all that can be seen are read, and the least counts. Inside a container
the path in /proc/self/cgroup may be the host's: then our own group is what is mounted at the top.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from muleteer.base.limits import DRIVER_ANSWER_S_MAX

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes the largest number of pages instead of a word


class Memory(NamedTuple):
    """In bytes. `total`: what there is, or may be used; `available`: of that, what nobody uses now, caches that can be
    dropped included.
    """

    total: int
    available: int


def cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """Cores we may use: by affinity, and by the quota of every group above us."""
    found = [float(len(os.sched_getaffinity(0)))]
    for group in groups("cpu", proc, cgroups):
        quota, period = _words(group / "cpu.max", 2) or (_word(group / "cpu.cfs_quota_us"), "")
        period = period or _word(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found)


def memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> Memory | None:
    """Of the host, bounded by every group above us; None where the host tells nothing."""
    host = _table(proc / "meminfo")
    if "MemTotal" not in host:
        return None
    total = host["MemTotal"] * 1024
    available = host.get("MemAvailable", host.get("MemFree", 0)) * 1024
    for group in groups("memory", proc, cgroups):
        counts = _table(group / "memory.stat")
        limits = [
            int(word)
            for word in (_word(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
            if word.isdigit() and int(word) < _UNLIMITED
        ]
        if counts.get("hierarchical_memory_limit", _UNLIMITED) < _UNLIMITED:  # version 1: of groups we cannot see
            limits.append(counts["hierarchical_memory_limit"])
        if not limits:
            continue
        used = _word(group / "memory.current") or _word(group / "memory.usage_in_bytes")
        droppable = counts.get("total_inactive_file", counts.get("inactive_file", 0))
        total = min(total, *limits)
        available = min(available, min(limits) - max(0, int(used or 0) - droppable))
    return Memory(total, max(0, available))


def groups(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Folders of our control group for `cpu` or `memory`, version 1 or 2, then of those above it."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [cgroups]
        elif controller in controllers.split(","):
            mounts = [cgroups / controllers, cgroups / controller]
        else:
            continue
        mount = next((mount for mount in mounts if mount.is_dir()), None)
        if mount is None:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            group = mount.joinpath(*parts[:depth])
            if group.is_dir():
                yield group


def gpus(declared: str | None, environ: Mapping[str, str], proc: Path = PROC) -> tuple[str, ...] | None:
    """GPUs by the names CUDA_VISIBLE_DEVICES takes: those declared, those we were given, those of the driver's
    folder; None if only the driver's own tool could tell.
    """
    for told in (declared, environ.get("CUDA_VISIBLE_DEVICES")):
        if told is not None:
            names = [name.strip() for name in told.split(",")]
            end = next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))  # as CUDA reads it
            return tuple(dict.fromkeys(names[:end]))
    try:
        return tuple(str(number) for number, _ in enumerate((proc / "driver" / "nvidia" / "gpus").iterdir()))
    except OSError:
        return None if shutil.which("nvidia-smi") else ()


def ask_driver() -> tuple[str, ...]:
    """GPUs as `nvidia-smi -L` lists them; blocks for seconds at most."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=DRIVER_ANSWER_S_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return listed(said.stdout)


def listed(text: str) -> tuple[str, ...]:
    """Numbers of the devices in `nvidia-smi -L`: lines like `GPU 0: NVIDIA H100 (UUID: …)`."""
    return tuple(re.findall(r"^GPU (\d+):", text, re.MULTILINE))


def _word(path: Path) -> str:
    return (_words(path, 1) or ("",))[0]


def _words(path: Path, count: int) -> tuple[str, ...] | None:
    try:
        words = path.read_text().split()
    except OSError:
        return None
    return tuple(words[:count]) if len(words) >= count else None


def _table(path: Path) -> dict[str, int]:
    """Lines `name number` or `name: number kB`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.replace(":", " ").split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
