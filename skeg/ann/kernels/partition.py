"""Inner loops of dividing rows into cells: k-means over rows given by their 8-bit codes, sums of stored vectors.

The nearest centroid c of x has the least |c|^2 / 2 - <x, c>.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.prepare import square_sum
from skeg.ann.kernels.score import dot_f32
from skeg.jit import kernel


@kernel()
def _decode(codes: Any, scales: Any, row: Any, point: Any) -> None:
    """The vector that an 8-bit code stands for; point (dim,) float32 is written."""
    for j in range(point.shape[0]):
        point[j] = np.float32(np.int32(codes[row, j]) - np.int32(128)) * scales[row]


@kernel(inline=True)
def _nearest(point: Any, centroids: Any, half_squares: Any, first: Any, stop: Any) -> Any:
    """The nearest of the centroids first to stop - 1, the first of them if nothing is nearer than any other."""
    nearest = first
    least = np.float32(np.inf)
    for c in range(first, stop):
        distance = half_squares[c] - dot_f32(centroids, np.int64(c), point)
        if distance < least:
            least = distance
            nearest = np.int64(c)
    return np.int32(nearest)


@kernel()
def halve_squares(centroids: Any, half_squares: Any) -> None:
    """Half the squared norm of each centroid (c, dim) to half_squares (c,) float32."""
    for c in range(centroids.shape[0]):
        half_squares[c] = square_sum(centroids[c]) * np.float32(0.5)


@kernel()
def assign_rows(codes: Any, scales: Any, rows: Any, centroids: Any, half_squares: Any, point: Any, labels: Any) -> None:
    """Number of the nearest centroid of each of ``rows`` (m,) uint32, the first among equals, to labels (m,) int32.

    codes (n, row_bytes) uint8 and scales (n,) float32 of the rows' vectors; centroids (c, dim) float32; half_squares
    (c,) float32, half their squared norms; point (dim,) float32 is overwritten. Twin: ``reference.assign_rows``.
    """
    for i in range(rows.shape[0]):
        _decode(codes, scales, np.int64(rows[i]), point)
        labels[i] = _nearest(point, centroids, half_squares, np.int64(0), np.int64(centroids.shape[0]))


@kernel()
def assign_in_regions(
    codes: Any, scales: Any, rows: Any, regions: Any, centroids: Any, half_squares: Any, point: Any, labels: Any
) -> None:
    """`assign_rows`, but each row to a centroid from regions[r] to regions[r + 1] - 1, where r is its label before."""
    for i in range(rows.shape[0]):
        _decode(codes, scales, np.int64(rows[i]), point)
        first, stop = np.int64(regions[labels[i]]), np.int64(regions[labels[i] + 1])
        labels[i] = _nearest(point, centroids, half_squares, first, stop)


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


@kernel()
def train_centroids(
    codes: Any, scales: Any, rows: Any, rounds: Any, point: Any, labels: Any, work: Any, centroids: Any
) -> None:
    """So many rounds of Lloyd's k-means; a centroid that no row is nearest to stays where it is.

    centroids (c, dim) float32 are written; labels (m,) int32 and work = (sums (c, dim) float32, counts (c,) int32,
    half_squares (c,) float32) are overwritten; the other arguments are those of `assign_rows`.
    Twin: ``reference.train_centroids``.
    """
    sums, counts, half_squares = work
    for _ in range(rounds):
        halve_squares(centroids, half_squares)
        assign_rows(codes, scales, rows, centroids, half_squares, point, labels)
        sums[:] = np.float32(0)
        counts[:] = np.int32(0)
        sum_rows(codes, scales, rows, labels, point, sums, counts)
        for c in range(centroids.shape[0]):
            if counts[c] > 0:
                for j in range(centroids.shape[1]):
                    centroids[c, j] = sums[c, j] / np.float32(counts[c])


@kernel()
def sum_cells(vectors: Any, first: Any, cells: Any, cell: Any, is_cosine: Any, sums: Any) -> Any:
    """Add stored vectors (m, dim) float32, those of the rows from ``first`` on, to the sums (c, dim) of their cells.

    Rows cells[c] to cells[c + 1] - 1 are those of cell c; cell: that of the first row, or one before; gives that of the
    last. With is_cosine every vector counts with length 1; none may be zero. Twin: ``reference.sum_cells``.
    """
    for i in range(vectors.shape[0]):
        while np.int64(cells[cell + 1]) <= first + i:
            cell += 1
        weight = np.float32(1)
        if is_cosine:
            weight = np.float32(1) / np.sqrt(square_sum(vectors[i]))
        for j in range(vectors.shape[1]):
            sums[cell, j] += vectors[i, j] * weight
    return cell
