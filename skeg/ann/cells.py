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

from skeg.ann.kernels.partition import (
    assign_in_regions,
    assign_rows,
    halve_squares,
    sum_cells,
    sum_rows,
    train_centroids,
)
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

PAIRS_A_CALL = 1 << 17
"""Pairs of a row and a centroid up to which all rounds are one kernel call: some 10 ms."""

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
    new_array : callable
        Gives the array of the means of cells, from shape and dtype; zeroed.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        scales: Float32s,
        dim: int,
        workers: Workers,
        seed: int,
        new_array: Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]] = np.zeros,
    ) -> None:
        self._new_array = new_array
        self._codes = codes
        self._scales = scales
        self._dim = dim
        self._workers = workers
        self._seed = seed

    def run(self) -> Partition:
        """Divide all rows."""
        n = len(self._scales)
        # In random order, so that the first of them, or of any part of them, are a sample.
        rows = np.random.default_rng(self._seed).permutation(np.arange(n, dtype=np.uint32))
        n_cells = max(1, round(n / CELL_ROWS))
        n_regions = min(n_cells, round(1.5 * n_cells**0.5))
        centroids = self._train(rows, n_regions, 4 * SAMPLE_ROWS)
        labels = np.zeros(n, np.int32)
        pieces = spans(n, ROWS_A_CALL)

        def assign(piece: int, _worker: int) -> None:
            start, stop = pieces[piece]
            self._assign(np.arange(start, stop, dtype=np.uint32), centroids, labels[start:stop])

        self._workers.run(len(pieces), assign)
        ordered, sizes = _by_label(rows, labels[rows], n_regions)
        ends = np.cumsum(sizes).tolist()
        divided: list[tuple[Rows, npt.NDArray[np.int64]]] = [(rows[:0], sizes[:0])] * len(sizes)

        def divide(region: int, _worker: int) -> None:
            divided[region] = self._divide(ordered[ends[region] - sizes[region] : ends[region]])

        self._workers.run(len(sizes), divide)
        return Partition(
            np.concatenate([rows for rows, _ in divided]),
            _offsets(np.concatenate([sizes for _, sizes in divided])),
            _offsets([len(sizes) for _, sizes in divided]),
        )

    def extend(self, cells: npt.NDArray[np.int32], regions: Rows) -> Partition:
        """Leave the first rows where they were before; the others go to the nearest of the cells that are left.

        cells (m,) int32: cell of each of the first rows; regions (n_regions + 1,) uint32: as in `Partition`.
        """
        n, m = len(self._scales), len(cells)
        region_of = np.repeat(np.arange(len(regions) - 1, dtype=np.int32), np.diff(regions))
        of_regions = self._means(region_of[cells], len(regions) - 1)
        of_cells = self._means(cells, int(regions[-1]))
        labels = np.zeros(n, np.int32)
        labels[:m] = cells
        pieces = spans(n - m, ROWS_A_CALL)

        def assign(piece: int, _worker: int) -> None:
            start, stop = pieces[piece]
            rows = np.arange(m + start, m + stop, dtype=np.uint32)
            args = self._codes, self._scales, rows
            found, point = labels[m + start : m + stop], self._point()
            assign_rows(*args, *of_regions, point, found)
            assign_in_regions(*args, regions, *of_cells, point, found)

        self._workers.run(len(pieces), assign)
        sizes = np.bincount(labels, minlength=int(regions[-1]))
        filled = np.bincount(region_of[sizes > 0])
        order, sizes = _by_label(np.arange(n, dtype=np.uint32), labels, len(sizes))
        return Partition(order, _offsets(sizes), _offsets(filled[filled > 0]))

    def _means(self, labels: npt.NDArray[np.int32], count: int) -> tuple[Float32s, Float32s]:
        """Means (count, dim) of the first rows by label, and half their squares: infinite where there is no row."""
        means, sizes = self._new_array((count, self._dim), np.float32), np.zeros(count, np.int32)
        for start, stop in spans(len(labels), ROWS_A_CALL):
            rows = np.arange(start, stop, dtype=np.uint32)
            sum_rows(self._codes, self._scales, rows, labels[start:stop], self._point(), means, sizes)
        means /= np.maximum(sizes, 1)[:, None].astype(np.float32)
        half_squares = np.empty(count, np.float32)
        halve_squares(means, half_squares)
        half_squares[sizes == 0] = np.inf
        return means, half_squares

    def _divide(self, rows: Rows) -> tuple[Rows, npt.NDArray[np.int64]]:
        """Rows of a region, which come in random order, cell by cell, and the number of rows of each."""
        n_cells = max(1, round(len(rows) / CELL_ROWS))
        labels = np.zeros(len(rows), np.int32)
        centroids = self._train(rows, n_cells, SAMPLE_ROWS)
        ascending = np.sort(rows)
        self._assign(ascending, centroids, labels)
        return _by_label(ascending, labels, n_cells)

    def _assign(self, rows: Rows, centroids: Float32s, labels: npt.NDArray[np.int32]) -> None:
        half_squares = np.empty(len(centroids), np.float32)
        halve_squares(centroids, half_squares)
        assign_rows(self._codes, self._scales, rows, centroids, half_squares, self._point(), labels)

    def _train(self, rows: Rows, count: int, sample: int) -> Float32s:
        """Centroids (count, dim) of rows that come in random order, by Lloyd's k-means on the first of them.

        A centroid that loses its rows stays where it was.
        """
        rows = rows[: count * sample]
        centroids = np.zeros((count, self._dim), np.float32)
        counts = np.zeros(count, np.int32)
        point = self._point()
        first = np.arange(count, dtype=np.int32)
        sum_rows(self._codes, self._scales, rows[:count], first, point, centroids, counts)
        labels = np.zeros(len(rows), np.int32)
        work = np.empty_like(centroids), counts, np.empty(count, np.float32)
        together = ROUNDS if len(rows) * count <= PAIRS_A_CALL else 1
        for _ in range(0, ROUNDS if count > 1 else 0, together):
            train_centroids(self._codes, self._scales, rows, together, point, labels, work, centroids)
        return centroids

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
        self._done = self._cell = 0

    def add(self, vectors: Float32s) -> None:
        """Take the next rows (m, dim) float32."""
        is_cosine = self._metric == "cosine"
        self._cell = int(sum_cells(vectors, self._done, self._cells, self._cell, is_cosine, self._of_cells))
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


def _by_label(rows: Rows, labels: npt.NDArray[np.int32], count: int) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Rows in the order of their labels, as they come within one, and how many have each label that any has."""
    sizes = np.bincount(labels, minlength=count)
    return rows[np.argsort(labels, kind="stable")], sizes[sizes > 0]


def _offsets(sizes: npt.ArrayLike) -> Rows:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32)
