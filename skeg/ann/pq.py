"""Product quantization: each subspace of a vector is replaced by the number of one of 256 centroids.

Jegou, Douze & Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011: subspaces are runs of consecutive
dimensions, centroids come from k-means on a sample, and a query is scored against codes through one table of inner
products for each subspace (asymmetric distance).
"""

from __future__ import annotations

from functools import cached_property

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.kmeans import N_CENTROIDS, SUB_DIM, assign_points, encode_pq
from skeg.ann.kernels.score import SCHEME_PQ
from skeg.ann.transform import Float32s, RowTransform

TRAINING_ROWS = 20_000
"""Rows of the sample that k-means looks at: 78 for each centroid."""

LLOYD_ROUNDS = 15
"""Rounds of k-means at most."""


@attrs.frozen(eq=False)
class PqQuantizer:
    """One byte for each 8 dimensions: kind pq.

    transform : what happens to a vector before it is encoded; codebook (n_subspaces, 256, 8) float32 : the centroids,
    zero past the vectors' last dimension.
    """

    transform: RowTransform
    codebook: Float32s
    kind: str = attrs.field(default="pq", init=False)
    scheme: int = attrs.field(default=SCHEME_PQ, init=False)
    center: float = attrs.field(default=0.0, init=False)

    @classmethod
    def fit(cls, transform: RowTransform, turned_sample: Float32s, seed: int) -> PqQuantizer:
        """Train the centroids on turned rows (m, dim) float32; the same sample and seed give the same centroids."""
        generator = np.random.default_rng(seed)
        rows = turned_sample
        if len(rows) > TRAINING_ROWS:
            rows = rows[np.sort(generator.choice(len(rows), TRAINING_ROWS, replace=False))]
        n_subspaces = -(-transform.dim // SUB_DIM)
        codebook = np.empty((n_subspaces, N_CENTROIDS, SUB_DIM), np.float32)
        points = np.zeros((len(rows), SUB_DIM), np.float32)
        for m in range(n_subspaces):
            subspace = rows[:, m * SUB_DIM : (m + 1) * SUB_DIM]
            points[:, : subspace.shape[1]] = subspace
            points[:, subspace.shape[1] :] = 0
            codebook[m] = train_centroids(points, generator)
        return cls(transform, codebook)

    @property
    def row_bytes(self) -> int:
        """Bytes of one code row: one for each subspace."""
        return int(self.codebook.shape[0])

    @cached_property
    def _columns(self) -> tuple[Float32s, Float32s]:
        """Centroids as kernels read them: (n_subspaces, 8, 256), and half their squares (n_subspaces, 256)."""
        return np.ascontiguousarray(self.codebook.transpose(0, 2, 1)), _half_squares(self.codebook)

    def encode(self, turned: Float32s, squares: Float32s) -> tuple[npt.NDArray[np.uint8], Float32s]:
        """Codes (n, n_subspaces) and scales; see `skeg.ann.quantizers.Quantizer.encode`."""
        codes = np.empty((len(turned), self.row_bytes), np.uint8)
        scales = np.empty(len(turned), np.float32)
        columns, half_squares = self._columns
        work = (np.empty(SUB_DIM, np.float32), np.empty(N_CENTROIDS, np.int32))
        encode_pq(turned, squares, columns, half_squares, work, codes, scales)
        return codes, scales


def _half_squares(centroids: Float32s) -> Float32s:
    squares: Float32s = np.square(centroids).sum(axis=-1)
    return squares * np.float32(0.5)


def train_centroids(points: Float32s, generator: np.random.Generator) -> Float32s:
    """256 centroids (256, 8) of points (m, 8) float32 by Lloyd's k-means.

    The start is 256 different points drawn at random. A centroid that loses all its points moves to the point that is
    farthest from its own. If fewer than 256 points differ, these are the centroids, and what is left over repeats the
    first of them (zeros for an empty sample).
    """
    centroids = _different_points(points, generator)
    if len(centroids) < N_CENTROIDS:
        padded = np.zeros((N_CENTROIDS, SUB_DIM), np.float32)
        padded[:] = centroids[:1] if len(centroids) else 0
        padded[: len(centroids)] = centroids
        return padded
    orders = np.empty(N_CENTROIDS, np.int32)
    labels = np.full(len(points), -1, np.int64)
    for _ in range(LLOYD_ROUNDS):
        previous = labels.copy()
        assign_points(points, np.ascontiguousarray(centroids.T), _half_squares(centroids), orders, labels)
        if np.array_equal(previous, labels):
            break
        centroids = _means(points, centroids, labels)
    return centroids


def _different_points(points: Float32s, generator: np.random.Generator) -> Float32s:
    """Up to 256 points that differ from each other, drawn at random."""
    points = points + np.float32(0)  # -0.0 becomes 0.0, so that equal points have equal bytes
    chosen: dict[bytes, int] = {}
    for row in generator.permutation(len(points)):
        chosen.setdefault(points[row].tobytes(), int(row))
        if len(chosen) == N_CENTROIDS:
            break
    return points[list(chosen.values())]


def _means(points: Float32s, centroids: Float32s, labels: npt.NDArray[np.int64]) -> Float32s:
    """Mean of each centroid's points; a centroid without points gets the next of those farthest from theirs."""
    counts = np.bincount(labels, minlength=N_CENTROIDS)
    sums = [np.bincount(labels, weights=column, minlength=N_CENTROIDS) for column in points.T]
    means = (np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        errors = np.square(points - centroids[labels]).sum(axis=1)
        means[empty] = points[np.argsort(-errors, kind="stable")[: len(empty)]]
    return means
