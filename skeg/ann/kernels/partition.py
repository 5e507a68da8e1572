"""k-means over rows given by their 8-bit codes: the inner loops of dividing rows into cells.

The nearest centroid c of x has the least |c|^2 / 2 - <x, c>.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.score import dot_f32
from skeg.jit import kernel


@kernel()
def _decode(codes: Any, scales: Any, row: Any, point: Any) -> None:
    """The vector that an 8-bit code stands for; point (dim,) float32 is written."""
    for j in range(point.shape[0]):
        point[j] = np.float32(np.int32(codes[row, j]) - np.int32(128)) * scales[row]


@kernel()
def assign_rows(codes: Any, scales: Any, rows: Any, centroids: Any, half_squares: Any, point: Any, labels: Any) -> None:
    """Number of the nearest centroid of each of ``rows`` (m,) uint32, the first among equals, to labels (m,) int32.

    codes (n, row_bytes) uint8 and scales (n,) float32 of the rows' vectors; centroids (c, dim) float32; half_squares
    (c,) float32, half their squared norms; point (dim,) float32 is overwritten. Twin: ``reference.assign_rows``.
    """
    for i in range(rows.shape[0]):
        _decode(codes, scales, np.int64(rows[i]), point)
        least = np.float32(np.inf)
        for c in range(centroids.shape[0]):
            distance = half_squares[c] - dot_f32(centroids, np.int64(c), point)
            if distance < least:
                least = distance
                labels[i] = np.int32(c)


@kernel()
def sum_rows(codes: Any, scales: Any, rows: Any, labels: Any, point: Any, sums: Any, counts: Any) -> None:
    """Add the vector of each of ``rows`` (m,) uint32 to ``sums[label]`` (c, dim) float32 and one to ``counts[label]``.

    The other arguments are those of `assign_rows`. Twin: ``reference.sum_rows``.
    """
    for i in range(rows.shape[0]):
        _decode(codes, scales, np.int64(rows[i]), point)
        label = np.int64(labels[i])
        counts[label] += 1
        for j in range(point.shape[0]):
            sums[label, j] += point[j]
