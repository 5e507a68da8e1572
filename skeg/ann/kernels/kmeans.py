"""Nearest centroids: the inner loops of k-means and of product quantization.

The nearest centroid c of x has the least |c|^2 / 2 - <x, c>: no square of x and no square root. Sums run over the
coordinates in order for 256 centroids side by side, so they fill vector registers and still come out bit-identical
for every kernel family; ties go to the lowest number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.pool import PAST_EVERY_KEY
from skeg.jit import kernel

N_CENTROIDS = 256
"""Centroids of a subspace: a code is one byte."""

SUB_DIM = 8
"""Dimensions of a subspace; a constant, so that the loop over them unrolls and the loop around it vectorizes."""

_LARGEST = np.int32(PAST_EVERY_KEY >> 32)


@kernel()
def nearest_centroid(point: Any, columns: Any, half_squares: Any, orders: Any) -> Any:
    """Number of the centroid nearest to ``point`` (8,) float32.

    columns (8, 256) float32: the centroids' coordinates, one row each; half_squares (256,) float32: half their squared
    norms; orders (256,) int32 is overwritten with |c|^2 / 2 - <x, c>, mapped to integers as in `skeg.ann.kernels.pool`.
    Twin: ``reference.nearest_centroid``.
    """
    least = _LARGEST
    for c in range(N_CENTROIDS):
        total = half_squares[c]
        for j in range(SUB_DIM):
            total -= point[j] * columns[j, c]
        order = np.float32(total).view(np.int32)
        order = np.int32(order ^ ((order >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        orders[c] = order
        least = min(least, order)
    nearest = np.int32(N_CENTROIDS)
    for c in range(N_CENTROIDS):
        nearest = min(nearest, np.int32(c) if orders[c] == least else np.int32(N_CENTROIDS))
    return np.int64(nearest)


@kernel()
def assign_points(points: Any, columns: Any, half_squares: Any, orders: Any, labels: Any) -> None:
    """Write the number of the nearest centroid of each of ``points`` (n, 8) float32 to labels (n,) int64.

    The other arguments are those of `nearest_centroid`. Cost: 512 operations a coordinate.
    """
    for i in range(points.shape[0]):
        labels[i] = nearest_centroid(points[i], columns, half_squares, orders)


@kernel()
def encode_pq(turned: Any, squares: Any, columns: Any, half_squares: Any, work: Any, codes: Any, scales: Any) -> None:
    """Product-quantizer codes of turned rows with the scale that makes the inner product with the row itself exact.

    turned (n, dim) float32; squares (n,) float32, their squared norms; columns (n_subspaces, 8, 256) and half_squares
    (n_subspaces, 256) float32, the centroids as in `nearest_centroid`; work = (point (8,) float32, orders (256,) int32)
    is overwritten; codes (n, n_subspaces) uint8; scales (n,) float32: <turned, q> is estimated by scale * <centroids
    named by the code, q>. A row whose product with its centroids is not positive gets scale 0.
    Twin: ``reference.encode_pq``.
    """
    point, orders = work
    dim = turned.shape[1]
    for i in range(turned.shape[0]):
        product = np.float32(0)
        for m in range(columns.shape[0]):
            start = m * SUB_DIM
            for j in range(SUB_DIM):
                point[j] = turned[i, start + j] if start + j < dim else np.float32(0)
            nearest = nearest_centroid(point, columns[m], half_squares[m], orders)
            codes[i, m] = np.uint8(nearest)
            for j in range(SUB_DIM):
                product += point[j] * columns[m, j, nearest]
        scales[i] = squares[i] / product if product > np.float32(0) else np.float32(0)
