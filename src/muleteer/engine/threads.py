"""A replica's share of the cores, as its libraries and the kernel understand it: thread pools and priority. Pure; must
not know processes.

Libraries that compute size their pools by the cores of the machine. Four replicas on sixteen cores then have 64
threads, which spend their time in each other's way. The variables below are read by those that are named with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from muleteer.spec.settings import BackendSettings
from muleteer.supervise.priority import NICE_MAX

OPENMP = "OMP_NUM_THREADS"
"""OpenMP itself: torch, scikit-learn, XGBoost, LightGBM."""
FALLING_BACK = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""numpy and scipy by their BLAS, numexpr: each reads its own name first, then OMP_NUM_THREADS."""
ALONE = ("VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS")
"""numpy on macOS; tokenizers and other Rust libraries."""
CPUS = "MODEL_CPUS"
"""For the model's own code, and for libraries that take it as an argument only (onnxruntime). No MULETEER_ name: those
are settings of a muleteer that the model may start.
"""

NICE = 5
"""Of a backend of weight 1: the front, at 0, comes first."""
_NICE_STEP = 1.25  # the kernel's: one level less is 1.25 times the time


def threads(settings: BackendSettings, cores: float) -> int:
    """Threads of one replica: the cores it declares, rounded up, else its part when all its backend's replicas run."""
    if settings.cpus is not None:
        return max(1, math.ceil(settings.cpus))
    return max(1, math.floor(cores / max(1, settings.bounds.max)))


def environment(settings: BackendSettings, cores: float, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables for one replica, beside the `inherited` ones; what those say about threads is left to say it."""
    names = [OPENMP, *ALONE] if OPENMP in inherited else [OPENMP, *FALLING_BACK, *ALONE]
    count = str(threads(settings, cores))
    return {name: count for name in names if name not in inherited} | {CPUS: count}


def nice(settings: BackendSettings) -> int:
    """The kernel's priority of one replica, from 0 (most time when cores are short) to 19.

    A backend has time in proportion to its weight, whatever number of replicas it declares: each has the time of
    weight ÷ replicas. Above three times the time of weight 1 it counts as three.
    """
    part = settings.weight / max(1, settings.bounds.min)
    return max(0, min(NICE_MAX, round(NICE - math.log(part) / math.log(_NICE_STEP))))
