"""Reads CPU time and memory of processes from /proc, and names the machine. Must not know muleteer."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
KIB = 1024


class Memory(NamedTuple):
    """Bytes. `pss` shares each page among its users; `private` is what ending the process would free."""

    rss: int
    pss: int
    private: int


class Process(NamedTuple):
    """One process of a tree."""

    pid: int
    parent: int
    command: str


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def cpu_s(pids: list[int]) -> float:
    """User and system seconds so far, of all these processes together; in steps of 10 ms. Dead ones count as 0."""
    total = 0
    for pid in pids:
        try:
            fields = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def memory(pid: int) -> Memory:
    """What the kernel says the process takes now."""
    values = {"Rss": 0, "Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in values:
            values[name] = int(rest.split()[0]) * KIB
    return Memory(values["Rss"], values["Pss"], values["Private_Clean"] + values["Private_Dirty"])


def processes() -> dict[int, Process]:
    """Everything that runs, zombies left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = _stat(int(entry.name))
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in "ZX":
            found[int(entry.name)] = Process(int(entry.name), int(fields[1]), command)
    return found


def descendants(root: int) -> list[Process]:
    """The process `root` and all below it, parents first; nothing if it is gone."""
    everything = processes()
    if root not in everything:
        return []
    tree = [everything[root]]
    for process in tree:
        tree += [other for other in everything.values() if other.parent == process.pid]
    return tree


def busy_share(seconds: float = 1.0) -> float:
    """How much of all cores is used now, by anybody, from 0 to 1."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    total, idle = read()
    time.sleep(seconds)
    total_after, idle_after = read()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def machine() -> dict[str, object]:
    """Facts that figures depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "busy_before_percent": round(100 * busy_share()),
    }
