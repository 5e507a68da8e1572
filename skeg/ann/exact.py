"""Exact nearest vectors by comparing with all of them: the ground truth of everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.hits import Hits
from skeg.ann.kernels.matmul import BLOCK_ROWS, nearest_rows, unload, vector_norms
from skeg.ann.kernels.prepare import SMALLEST_NORM
from skeg.ann.kernels.simd_scan import TILE_QUERIES
from skeg.ann.metric import METRICS, metric_number
from skeg.ann.parallel import Workers, shared_workers, spans, thread_count
from skeg.ann.params import ROWS_MAX
from skeg.ann.sources import open_source
from skeg.ann.transform import Float32s, bad_row
from skeg.checks import as_positive_int, as_queries, as_vectors
from skeg.errors import VectorError

BLOCK_BYTES = 4 << 20
"""Bytes of the rows that are read and made float32 at a time."""

CHUNK_QUERIES = 96
"""Queries that one thread takes at a time: enough to pay for reading a block of rows once for all of them."""

NO_ROWS = np.zeros(0, np.uint32)
NO_IDS = np.zeros(0, np.uint64)

ExactHits = tuple[npt.NDArray[np.uint64], Float32s, npt.NDArray[np.int64]]
"""ids (n_queries, k), scores (n_queries, k) and counts (n_queries,)."""


def block_rows(dim: int) -> int:
    """Rows that are read at a time."""
    return max(1, BLOCK_BYTES // (4 * dim))


def checked_norms(vectors: Float32s, metric: str, first_row: int = 0, what: str = "vectors") -> Float32s:
    """Norms (n,) float32 of vectors (n, dim) float32, all of them usable under a metric.

    Raises
    ------
    VectorError
        A vector is not finite or its squared norm is not, or it is zero under cosine; rows count from ``first_row``.
    """
    norms = np.empty(len(vectors), np.float32)
    row = vector_norms(vectors, np.empty((1, 1), np.float32), norms)
    zeros = np.flatnonzero(norms[:row] < SMALLEST_NORM) if metric == "cosine" else norms[:0]
    if len(zeros) > 0:
        raise bad_row(True, vectors[int(zeros[0])], first_row + int(zeros[0]), what)
    if row < len(vectors):
        raise bad_row(False, vectors[row], first_row + row, what)
    return norms


class ExactSearch:
    """Exact search of one set of queries over rows that come in blocks; the result does not depend on the blocks.

    Parameters
    ----------
    queries : (n_queries, dim) float32
    k : int
        Hits a query gets at most.
    metric : str
    workers : Workers
        Share out the queries.
    ranks : (n,) uint32, optional
        What rows are ordered by among equal scores, instead of their numbers.

    Raises
    ------
    VectorError
        A query is not finite, or zero under cosine.
    """

    def __init__(
        self, queries: Float32s, k: int, metric: str, workers: Workers, ranks: npt.NDArray[np.uint32] = NO_ROWS
    ) -> None:
        self._queries = queries
        self._norms = checked_norms(queries, metric, what="queries")
        self._metric = metric
        self._k = k
        self._workers = workers
        self._ranks = ranks
        size = min(CHUNK_QUERIES, -(-len(queries) // workers.threads))
        self._chunks = spans(len(queries), max(size, 1))
        self._work = [
            (np.zeros((TILE_QUERIES, BLOCK_ROWS), np.float32), np.zeros(BLOCK_ROWS, np.float32))
            for _ in range(workers.threads)
        ]
        self._heaps = np.empty((len(queries), 0), np.int64)
        self._sizes = np.zeros(len(queries), np.int64)
        self._rows = 0

    def add(self, vectors: Float32s, norms: Float32s) -> None:
        """Compare with the next rows (n, dim) float32, whose norms (n,) `checked_norms` gave."""
        first, self._rows = self._rows, self._rows + len(vectors)
        capacity = self._heaps.shape[1]
        if capacity < min(self._k, self._rows):  # only as large as there are rows: k may be anything
            room = np.empty((len(self._queries), min(self._k, 2 * self._rows)), np.int64)
            room[:, :capacity] = self._heaps
            self._heaps = room
        number = METRICS[self._metric]

        def work(piece: int, worker: int) -> None:
            nearest_rows(
                self._queries, self._norms, self._chunks[piece], number, (vectors, norms), self._ranks, first,
                self._heaps, self._sizes, self._work[worker],
            )  # fmt: skip

        self._workers.run(len(self._chunks), work)

    def hits(self, ids: npt.NDArray[np.uint64] = NO_IDS, by_rank: npt.NDArray[np.uint32] = NO_ROWS) -> ExactHits:
        """Best k of all rows that were added, padded as `Hits` says; to be called once.

        ids (n,) uint64 of the rows, by default their numbers; by_rank (n,) uint32, the inverse of ``ranks``.
        """
        n = len(self._queries)
        out = np.empty((n, self._k), np.uint64), np.empty((n, self._k), np.float32), np.empty(n, np.int64)
        unload(self._heaps, self._sizes, (0, n), ids, by_rank, out)
        return out


Rows = tuple[Float32s, npt.NDArray[np.uint64], npt.NDArray[np.uint8] | None]
"""Vectors (n, dim) float32, ids (n,) uint64 in any order, and 1 for those that count (n,) uint8, or None if all do."""


def scan_vectors(parts: Sequence[Rows], queries: Float32s, k: int, metric: str, threads: int) -> ExactHits:
    """Exact hits for queries (n_queries, dim) float32 among the rows of all parts.

    Raises
    ------
    VectorError
        A query or a stored vector is not finite, or zero under cosine.
    """
    counted = [ids if mask is None else ids[mask.astype(bool)] for _, ids, mask in parts]
    ids = np.concatenate(counted) if len(counted) > 1 else counted[0]
    ranks, by_rank = id_ranks(ids)
    search = ExactSearch(queries, k, metric, shared_workers(threads), ranks)
    for vectors, _, mask in parts:
        for start, stop in spans(len(vectors), block_rows(queries.shape[1])):
            block = vectors[start:stop] if mask is None else vectors[start:stop][mask[start:stop].astype(bool)]
            search.add(block, checked_norms(block, metric, start))
    return search.hits(ids, by_rank)


def id_ranks(ids: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Place of each row by id, and the row at each place; both empty if ids ascend by row."""
    if (ids[1:] > ids[:-1]).all():
        return NO_ROWS, NO_ROWS
    by_rank = np.argsort(ids, kind="stable").astype(np.uint32)
    ranks = np.empty_like(by_rank)
    ranks[by_rank] = np.arange(len(ids), dtype=np.uint32)
    return ranks, by_rank


def exact_search(base: Any, queries: Any, k: int, *, metric: str = "cosine", threads: int | None = None) -> Hits:
    """Nearest vectors of ``base`` by comparing each of them with each query.

    Parameters
    ----------
    base : array_like (n, dim), path or iterator of arrays
        See `skeg.ann.sources.open_source`; read once, some megabytes at a time. Ids are row numbers.
    queries : array_like (dim,) or (n_queries, dim)
        Any real dtype.
    k : int
        Hits per query, at least 1; rows with fewer are padded (see `Hits`).
    metric : {"cosine", "ip", "l2"}
        Scores are float32; the result is sorted by score, then by id.
    threads : int, optional
        By default one for each processor. The result does not depend on it.

    Returns
    -------
    Hits
        ids, scores and counts.

    Raises
    ------
    ParameterError
        k, the metric or the number of threads is not what it should be.
    VectorError
        ``base`` has no rows; a vector is not finite, or zero under cosine (its row is named); dimensions differ.
    StorageError
        A file can't be read.
    """
    as_positive_int("k", k)
    metric_number(metric)
    with open_source(base, what="base") as source, Workers(thread_count(threads)) as workers:
        if source.n == 0:
            raise VectorError(source.name, expected="at least one vector", found="none")
        given, was_single = as_queries(queries, source.dim)
        search = ExactSearch(given, k, metric, workers)
        row = 0
        for block in source.blocks(block_rows(source.dim)):
            vectors = as_vectors(block, source.dim, what=source.name)
            search.add(vectors, checked_norms(vectors, metric, row, source.name))
            row += len(vectors)
            if row > ROWS_MAX:
                raise VectorError(source.name, expected=f"at most {ROWS_MAX} vectors", found="more")
    ids, scores, counts = search.hits()
    cost = (0, 0, row * len(given), 0)
    if was_single:
        return Hits(ids[0, : counts[0]], scores[0, : counts[0]], metric, cost)
    return Hits(ids, scores, metric, cost)
