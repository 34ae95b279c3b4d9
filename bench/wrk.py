"""Runs wrk, the closed-loop load generator. Must not know what it measures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import msgspec

SCRIPT = Path(__file__).with_name("wrk.lua")
MISSING = "wrk is missing; on Debian: apt-get install wrk"


class Figures(NamedTuple):
    """Of one run; `failed` counts answers other than 2xx/3xx and broken connections."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    max_us: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def available() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def run(url: str, *, connections: int, seconds: int) -> Figures:
    """Keep `connections` busy for `seconds` from one thread."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed: {done.stderr or done.stdout}")
    return Figures(**msgspec.json.decode(lines[-1]))
