"""Random rotation in O(dim log dim): a fast Hadamard-Kac transform for every number of dimensions.

Each round flips signs at random, applies a normalized Walsh-Hadamard transform to the first (even rounds) or last (odd
rounds) 2^t coordinates, 2^t the largest power of two that fits, and, where the dimension is no power of two, turns the
pairs (i, i + dim - dim // 2) of the two halves by 45 degrees. Every step is orthogonal. Windows that overlap plus the
turned pairs mix all coordinates after four rounds, odd dimensions included, so that the coordinates of a rotated unit
vector are close to normal with variance 1 / dim, which is what uniform codes assume (RaBitQ, Gao & Long, SIGMOD 2024,
section 3.1.2; Kac's walk for the pairs).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.simd import butterfly, hadamard_16
from skeg.jit import kernel


@kernel()
def hadamard(x: Any, start: Any, length: Any) -> None:
    """Unnormalized Walsh-Hadamard transform of ``x[start:start + length]`` in place; length is a power of two.

    Twin: ``reference.hadamard``.
    """
    one = np.float32(1)
    step = 1
    if length >= 16:
        hadamard_16(x, start, length // 16)
        step = 16
    while step < length:
        for i in range(start, start + length, 2 * step):
            butterfly(x, i, i + step, step, one)
        step *= 2


@kernel()
def rotate(x: Any, signs: Any) -> None:
    """Rotate ``x`` (dim,) float32 in place.

    signs (rounds, dim) int8 of +1 and -1; no rounds leave ``x`` as it is. Cost: about ``rounds * dim * log2(dim)``
    additions. Twin: ``reference.rotate``.
    """
    dim = x.shape[0]
    window = 1
    while 2 * window <= dim:
        window *= 2
    half = dim // 2
    scale = np.sqrt(np.float32(1) / np.float32(window))
    for r in range(signs.shape[0]):
        start = 0 if r % 2 == 0 else dim - window
        flips = signs[r]
        for i in range(dim):
            x[i] *= np.float32(flips[i])
        windowed = x[start : start + window]
        for i in range(window):
            windowed[i] *= scale
        hadamard(x, start, window)
        if window < dim:
            butterfly(x, 0, dim - half, half, np.sqrt(np.float32(0.5)))
