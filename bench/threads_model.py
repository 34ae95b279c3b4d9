"""A model that multiplies matrices, as numpy does it: by the threads that its BLAS has."""

from pathlib import Path

import numpy as np


class Multiplies:
    """About 5 ms on one core."""

    example = {"nonce": 0}

    def __init__(self) -> None:
        self.matrix = np.random.default_rng(0).standard_normal((480, 480))

    def predict(self, nonce: int) -> dict[str, int]:
        """The product is thrown away; `threads` are those of the process."""
        product = self.matrix @ self.matrix
        return {"nonce": nonce, "threads": len(list(Path("/proc/self/task").iterdir())), "rows": len(product)}
