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


class Vectorised:
    """Rows of a table through two layers, in numpy; many at once cost far less than one after the other."""

    example = 0
    width = 3072

    def __init__(self) -> None:
        import numpy as np

        dice = np.random.default_rng(1)
        shapes = ((4096, 256), (256, self.width), (self.width, self.width), (self.width, 10))
        self._numpy = np
        self._rows, *self._layers = (dice.standard_normal(shape, dtype=np.float32) for shape in shapes)

    def predict(self, nonce: int) -> int:
        """The class of one row."""
        return self.predict_batch([nonce])[0]

    def predict_batch(self, nonces: list[int]) -> list[int]:
        """The classes of many."""
        np = self._numpy
        values = self._rows[np.asarray(nonces) % len(self._rows)]
        for layer in self._layers[:-1]:
            values = np.maximum(values @ layer, 0)
        found: list[int] = (values @ self._layers[-1]).argmax(1).tolist()
        return found


class Hangs:
    """Loads, and never answers."""

    def predict(self, nonce: int) -> int:
        """For ever."""
        while True:
            time.sleep(nonce and 3600)


class Sleeps:
    """20 ms of waiting a call: as many replicas help as there are calls. Says how long it really took, in µs."""

    example = {"nonce": 0}

    def predict(self, nonce: int) -> dict[str, Any]:
        """The nonce, and the time that passed."""
        start = time.perf_counter_ns()
        time.sleep(0.02)
        return {"nonce": nonce, "took_us": (time.perf_counter_ns() - start) // 1000}


class Spins:
    """10 ms of CPU a call: replicas help as far as there are cores. Says how long it really took, in µs."""

    example = {"nonce": 0}

    def predict(self, nonce: int) -> dict[str, Any]:
        """The nonce, and the time that passed, the wait for a core included."""
        start, end = time.perf_counter_ns(), time.thread_time_ns() + 10_000_000
        while time.thread_time_ns() < end:
            pass
        return {"nonce": nonce, "took_us": (time.perf_counter_ns() - start) // 1000}


class Weighs:
    """40 MB, and 5 ms of waiting a call. Says since when it has been warm, in seconds of the machine's clock."""

    example = {"nonce": 0}

    def __init__(self) -> None:
        self.weights = bytearray(b"\1") * 40_000_000
        self.warm_at = 0.0

    def predict(self, nonce: int) -> dict[str, Any]:
        """The nonce, and the end of the first call, which is the warm-up."""
        time.sleep(0.005)
        self.warm_at = self.warm_at or time.monotonic()
        return {"nonce": nonce, "warm_at": self.warm_at}
