"""`python -m bench.sharing`: what four replicas need with and without a shared template, and how soon one is back.

Memory is PSS, which counts a page that n processes share as 1/n of a page in each, so the sum is what is really used.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.measure import memory, processes
from bench.server import Server, wait_until

_MIB = 1024 * 1024
_MODEL = """\
import numpy as np

class Held:
    example = 0
    def __init__(self):
        self.weights = np.ones({count})
    def predict(self, n: int):
        return float(self.weights[n])

class Mapped(Held):
    def __init__(self):
        self.weights = np.load({file!r}, mmap_mode="r")
        self.weights.sum()
"""
_WAYS = (("Held", "none"), ("Held", "preload"), ("Mapped", "none"))


class Row(NamedTuple):
    """One way to serve: PSS of all replicas, of the template, in bytes; seconds until a killed replica is ready."""

    way: str
    replicas: int
    template: int
    again_s: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="memory of replicas, shared and not")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--mib", type=int, default=200, help="size of the model's array (default: 200)")
    given = parser.parse_args()
    print(f"{given.replicas} replicas of a model with {given.mib} MiB of weights; PSS in MiB")
    print("| model | share | replicas | template | together | a killed one is ready after |")
    print("|---|---|---|---|---|---|")
    for name, share in _WAYS:
        row = _measure(name, share, given.replicas, given.mib)
        together = (row.replicas + row.template) / _MIB
        print(
            f"| {row.way} | {share} | {row.replicas / _MIB:.0f} | {row.template / _MIB:.0f} | {together:.0f} "
            f"| {row.again_s * 1000:.0f} ms |",
            flush=True,
        )


def _measure(name: str, share: str, replicas: int, mib: int) -> Row:
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="mule") as directory:
        folder = Path(directory).resolve()
        count = mib * _MIB // 8
        file = folder / "weights.npy"
        if name == "Mapped":
            np.save(file, np.ones(count))
        (folder / "model.py").write_text(_MODEL.format(count=count, file=str(file)))
        with Server(folder, f"model.py:{name}", "--replicas", str(replicas), "--share", share) as server:
            wait_until(lambda: len(_ready(server)) == replicas, "all ready", seconds=60)
            used = sum(memory(pid).pss for pid in _ready(server))
            template = [each.pid for each in server.tree() if each.command.startswith("muleteer: template")]
            beside = sum(memory(pid).pss for pid in template)
            victim = min(_ready(server))
            began = time.monotonic()
            server.kill(victim)
            wait_until(lambda: victim not in processes(), "the victim is gone")
            wait_until(lambda: len(_ready(server) - {victim}) == replicas, "all ready again", seconds=60)
            return Row(name, used, beside, time.monotonic() - began)


def _ready(server: Server) -> set[int]:
    rows = server.status()["backends"][0]["replicas"]
    return {row["pid"] for row in rows if row["state"] == "ready"}


if __name__ == "__main__":
    main()
