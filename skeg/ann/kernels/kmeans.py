"""Nearest centroids: the inner loops of k-means and of product quantization.

The nearest centroid c of x has the least |c|^2 / 2 - <x, c>: no square of x and no square root. Sums run over the
coordinates in order for 256 centroids side by side, so they fill vector registers and still come out bit-identical
for every kernel family; ties go to the lowest number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.pool import PAST_EVERY_KEY, distance_of, pack, row_of
from skeg.jit import kernel

N_CENTROIDS = 256
"""Centroids of a subspace: a code is one byte."""


@kernel()
def nearest_key(x: Any, start: Any, stop: Any, columns: Any, half_squares: Any, work: Any) -> Any:
    """Key (`skeg.ann.kernels.pool`) of the centroid nearest to ``x[start:stop]``: |c|^2 / 2 - <x, c> and its number.

    columns (sub_dim, 256) float32: the centroids' coordinates, one row each; half_squares (256,) float32: half their
    squared norms; work (256,) float32 is overwritten. Twin: ``reference.nearest_centroid``.
    """
    work[:] = half_squares
    for j in range(stop - start):
        value = x[start + j]
        for c in range(N_CENTROIDS):
            work[c] -= value * columns[j, c]
    least = PAST_EVERY_KEY
    for c in range(N_CENTROIDS):
        least = min(least, pack(work[c], c))
    return least


@kernel()
def assign_rows(points: Any, columns: Any, half_squares: Any, work: Any, labels: Any, costs: Any) -> None:
    """Nearest centroid of each of ``points`` (n, sub_dim) float32.

    labels (n,) int64 receives its number and costs (n,) float32 its |c|^2 / 2 - <x, c>; the others as in `nearest_key`.
    Cost: 512 operations a coordinate. Twin: ``reference.nearest_centroid``.
    """
    for i in range(points.shape[0]):
        key = nearest_key(points[i], 0, points.shape[1], columns, half_squares, work)
        labels[i] = row_of(key)
        costs[i] = distance_of(key)


@kernel()
def encode_pq(turned: Any, squares: Any, columns: Any, half_squares: Any, work: Any, codes: Any, scales: Any) -> None:
    """Product-quantizer codes of turned rows with the scale that makes inner products with the row itself exact.

    turned (n, dim) float32; squares (n,) float32, their squared norms; columns (n_subspaces, sub_dim, 256) and
    half_squares (n_subspaces, 256) float32, the centroids as in `nearest_key`; work (256,) float32 is overwritten;
    codes (n, n_subspaces) uint8; scales (n,) float32: <turned, q> is estimated by scale * <centroids named by the code,
    q>. A row whose product with its centroids is not positive gets scale 0. Twin: ``reference.encode_pq``.
    """
    n_subspaces, sub_dim, _ = columns.shape
    dim = turned.shape[1]
    for i in range(turned.shape[0]):
        product = np.float32(0)
        for m in range(n_subspaces):
            start = m * sub_dim
            stop = min(start + sub_dim, dim)
            nearest = row_of(nearest_key(turned[i], start, stop, columns[m], half_squares[m], work))
            codes[i, m] = np.uint8(nearest)
            for j in range(start, stop):
                product += turned[i, j] * columns[m, j - start, nearest]
        scales[i] = squares[i] / product if product > np.float32(0) else np.float32(0)
