"""Divide rows into regions and cells, by which they are stored and found (`skeg.ann.kernels.cells`).

k-means in two levels: regions from a sample of all rows, then the cells of each region from a sample of its rows.
Two levels take n * (regions + cells of a region) distances instead of n * cells. All of it on the 8-bit codes that the
build has in memory anyway. Nothing depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.partition import assign_rows, sum_rows
from skeg.ann.parallel import Workers, spans
from skeg.ann.transform import Float32s

CELL_ROWS = 24
"""Rows of a cell, on the average. One query a call took 13.8, 12.9 and 14.3 us with 16, 24 and 48 at recall .950, .952
and .956 (117,620 x 96); 24 and 48 measured alike on 117,659 x 384."""

SAMPLE_ROWS = 16
"""Rows of the sample for each cell of a region, and four times as many for each region."""

ROUNDS = 5
"""Rounds of k-means."""

SHORTEST_MEAN = 1e-6
"""A mean of unit vectors that is shorter has no direction."""

ROWS_A_CALL = 2048
"""Rows assigned by one kernel call."""

Rows = npt.NDArray[np.uint32]


@attrs.frozen(eq=False)
class Partition:
    """Rows in the order of their cells.

    order (n,) uint32: the rows, cell by cell, ascending within a cell; cells (n_cells + 1,) uint32: cell c is
    ``order[cells[c]:cells[c + 1]]``, never empty; regions (n_regions + 1,) uint32: region r has the cells
    ``regions[r]`` to ``regions[r + 1]``, at least one.
    """

    order: Rows
    cells: Rows
    regions: Rows


class Partitioner:
    """Divides rows that are known by their 8-bit codes.

    Parameters
    ----------
    codes : (n, row_bytes) uint8
    scales : (n,) float32
        What a code less 128 is multiplied with.
    dim : int
        Dimension of the vectors.
    workers : Workers
    seed : int
    """

    def __init__(self, codes: npt.NDArray[np.uint8], scales: Float32s, dim: int, workers: Workers, seed: int) -> None:
        self._codes = codes
        self._scales = scales
        self._dim = dim
        self._workers = workers
        self._seed = seed

    def run(self) -> Partition:
        """Divide all rows."""
        rows = np.arange(len(self._scales), dtype=np.uint32)
        n_cells = max(1, round(len(rows) / CELL_ROWS))
        n_regions = min(n_cells, round(1.5 * n_cells**0.5))
        centroids = self._train(rows, n_regions, 4 * SAMPLE_ROWS, 0)
        labels = np.zeros(len(rows), np.int32)
        pieces = spans(len(rows), ROWS_A_CALL)

        def assign(piece: int, _worker: int) -> None:
            here = slice(*pieces[piece])
            self._assign(rows[here], centroids, labels[here])

        self._workers.run(len(pieces), assign)
        members = [part for part in _by_label(rows, labels, len(centroids)) if len(part)]
        divided: list[list[Rows]] = [[]] * len(members)

        def divide(region: int, _worker: int) -> None:
            divided[region] = self._divide(members[region], region + 1)

        self._workers.run(len(members), divide)
        cells = [cell for region in divided for cell in region]
        return Partition(
            np.concatenate(cells),
            _offsets([len(cell) for cell in cells]),
            _offsets([len(region) for region in divided]),
        )

    def _divide(self, rows: Rows, stream: int) -> list[Rows]:
        """The cells of one region."""
        n_cells = max(1, round(len(rows) / CELL_ROWS))
        labels = np.zeros(len(rows), np.int32)
        centroids = self._train(rows, n_cells, SAMPLE_ROWS, stream)
        self._assign(rows, centroids, labels)
        return [cell for cell in _by_label(rows, labels, n_cells) if len(cell)]

    def _assign(self, rows: Rows, centroids: Float32s, labels: npt.NDArray[np.int32]) -> None:
        half_squares = (np.square(centroids).sum(axis=1) / 2).astype(np.float32)
        assign_rows(self._codes, self._scales, rows, centroids, half_squares, self._point(), labels)

    def _train(self, rows: Rows, count: int, sample: int, stream: int) -> Float32s:
        """Centroids (count, dim) of a sample of some rows, by Lloyd's k-means from rows drawn at random.

        A centroid that loses its rows stays where it was.
        """
        generator = np.random.default_rng([self._seed, stream])
        if len(rows) > count * sample:
            rows = np.sort(generator.choice(rows, count * sample, replace=False))
        labels = np.zeros(len(rows), np.int32)
        centroids, _ = self._sums(generator.choice(rows, count, replace=False), np.arange(count, dtype=np.int32), count)
        for _ in range(ROUNDS if count > 1 else 0):
            self._assign(rows, centroids, labels)
            sums, counts = self._sums(rows, labels, count)
            kept = counts > 0
            centroids[kept] = sums[kept] / counts[kept, None]
        return centroids

    def _sums(self, rows: Rows, labels: npt.NDArray[np.int32], count: int) -> tuple[Float32s, npt.NDArray[np.int32]]:
        """Sum (count, dim) and number (count,) of the rows of each label."""
        sums, counts = np.zeros((count, self._dim), np.float32), np.zeros(count, np.int32)
        sum_rows(self._codes, self._scales, rows, labels, self._point(), sums, counts)
        return sums, counts

    def _point(self) -> Float32s:
        return np.empty(self._dim, np.float32)


class Centroids:
    """Means of the stored vectors of regions and cells, from rows that come in the order of a partition.

    Under cosine every vector counts with length 1.
    """

    def __init__(
        self,
        partition: Partition,
        metric: str,
        dim: int,
        new_array: Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]] = np.zeros,
    ) -> None:
        self._metric = metric
        self._regions = partition.regions.astype(np.int64)
        self._cells = partition.cells.astype(np.int64)
        n_regions = len(self._regions) - 1
        self._sums = new_array((n_regions + len(self._cells) - 1, dim), np.float32)
        self._of_cells = self._sums[n_regions:]
        self._done = 0

    def add(self, vectors: Float32s) -> None:
        """Take the next rows (m, dim) float32."""
        if self._metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = np.arange(self._done, self._done + len(vectors))
        cells = np.searchsorted(self._cells, rows, side="right") - 1
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        self._of_cells[cells[starts]] += np.add.reduceat(vectors, starts, axis=0)
        self._done += len(vectors)

    def finish(self, vectors: Callable[[npt.NDArray[np.int64]], Float32s]) -> Float32s:
        """Centroids (n_regions + n_cells, dim) float32, those of the regions first; to be called once.

        vectors : gives stored vectors by place in the order; a mean that has no direction, as cosine needs one, is
        replaced by the first row's.
        """
        n_regions = len(self._regions) - 1
        self._sums[:n_regions] = np.add.reduceat(self._of_cells, self._regions[:-1], axis=0)
        firsts = np.concatenate([self._cells[self._regions[:-1]], self._cells[:-1]])
        counts = np.concatenate([np.diff(self._cells[self._regions]), np.diff(self._cells)])
        self._sums /= counts[:, None].astype(np.float32)
        if self._metric == "cosine":
            lost = np.flatnonzero(np.linalg.norm(self._sums, axis=1) < SHORTEST_MEAN)
            self._sums[lost] = vectors(firsts[lost])
        return self._sums


def _by_label(rows: Rows, labels: npt.NDArray[np.int32], count: int) -> list[Rows]:
    """The rows of each label, in order."""
    sizes = np.bincount(labels, minlength=count)
    return np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(sizes)[:-1])


def _offsets(sizes: list[int]) -> Rows:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32)
