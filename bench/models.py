"""The models that are measured."""

from __future__ import annotations

import time
from typing import Any


class DoNothing:
    """What is left is muleteer itself."""

    example = {"nonce": 0}

    def predict(self, nonce: int) -> int:
        """The nonce."""
        return nonce


class FancyModel:
    """The article's model: 50 ms to load, 5 ms of waiting a call. Says how long it really slept, in µs."""

    example = {"nonce": 0}

    def __init__(self) -> None:
        time.sleep(0.05)

    def predict(self, nonce: int) -> dict[str, Any]:
        """The nonce, and the sleep as the kernel did it."""
        start = time.perf_counter_ns()
        time.sleep(0.005)
        return {"nonce": nonce, "slept_us": (time.perf_counter_ns() - start) // 1000}


class Hangs:
    """Loads, and never answers."""

    def predict(self, nonce: int) -> int:
        """For ever."""
        while True:
            time.sleep(nonce and 3600)
