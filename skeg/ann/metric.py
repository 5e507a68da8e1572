"""The three metrics: names, numbers, and the one place where scores and distances are converted.

Inside graph code smaller is nearer; results carry scores, larger is nearer:

========  ==========================  =======================
metric    score                       distance
========  ==========================  =======================
cosine    cosine similarity           1 - score
ip        inner product               1 - score (as hnswlib)
l2        minus the squared distance  squared distance
========  ==========================  =======================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.prepare import COSINE, IP, L2
from skeg.checks import as_choice

METRICS: dict[str, int] = {"cosine": COSINE, "ip": IP, "l2": L2}


def metric_number(metric: Any) -> int:
    """Number of a metric for the kernels; `ParameterError` for an unknown name."""
    return METRICS[as_choice("metric", metric, METRICS)]


def distances_of(scores: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Distances, smaller is nearer, of scores of any shape; padding becomes +inf."""
    if metric == "l2":
        return np.negative(scores)
    return np.subtract(np.float32(1), scores)
