"""Exact scores of many queries against many float32 rows, and the best of them.

Rows are read a block at a time, small enough to stay in the second-level cache while all queries meet it, in register
tiles (`skeg.ann.kernels.simd_scan`). A product is looked at again only if it can still enter its query's best.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.pool import distance_of, pack, row_of
from skeg.ann.kernels.prepare import COSINE, L2
from skeg.ann.kernels.rerank import MISSING_ID
from skeg.ann.kernels.simd_scan import (
    GROUP,
    TILE_QUERIES,
    TILE_ROWS,
    distances_pair,
    distances_strip,
    distances_tile,
    dots_pair,
    dots_strip,
    dots_tile,
    lowest_bit,
    products_pass,
)
from skeg.jit import kernel

BLOCK_ROWS = 256
"""Rows that a tile of queries meets before the next tile; a multiple of 16. 393 KB at 384 dimensions."""

MARGIN = 1e-6
"""How far, relatively, a threshold is lowered where it is compared before the score's own rounding."""


@kernel(inline=True)
def keep(heap: Any, size: Any, key: Any) -> Any:
    """Offer a key (`skeg.ann.kernels.pool`) to the smallest ones kept so far; gives how many are kept.

    ``heap[:size]`` is a binary heap with the largest key on top; its length is the most that is kept, at least 1.
    """
    capacity = heap.shape[0]
    if size < capacity:
        place = size
        while place > 0:
            parent = (place - 1) >> 1
            if heap[parent] >= key:
                break
            heap[place] = heap[parent]
            place = parent
        heap[place] = key
        return size + 1
    if key < heap[0]:
        _sift_down(heap, size, key)
    return size


@kernel(inline=True)
def _sift_down(heap: Any, size: Any, key: Any) -> None:
    """Put ``key`` in place of the top of ``heap[:size]``."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key


@kernel()
def sort_kept(heap: Any, size: Any) -> None:
    """Sort ``heap[:size]``, a heap of `keep`, ascending."""
    for last in range(size - 1, 0, -1):
        key = heap[last]
        heap[last] = heap[0]
        _sift_down(heap, last, key)


@kernel(inline=True)
def least_score(heap: Any, size: Any) -> Any:
    """Score below which a row can't enter the heap of a query any more; -inf while the heap has room."""
    if size < heap.shape[0]:
        return np.float32(-np.inf)
    return -distance_of(heap[0])


@kernel()
def vector_norms(vectors: Any, products: Any, norms: Any) -> Any:
    """Write the norms (n,) float32 of vectors (n, dim); gives the first row whose squared norm is not finite, or n.

    products float32 (1, 1) or larger is work space. Twin: ``reference_scan.vector_norms``.
    """
    for row in range(vectors.shape[0]):
        dots_pair(vectors, np.int64(row), vectors, np.int64(row), products, np.int64(0))
        norms[row] = np.sqrt(products[0, 0])
        if not np.isfinite(norms[row]):
            return row
    return vectors.shape[0]


@kernel()
def _multiply(queries: Any, first: Any, count: Any, vectors: Any, rows: Any, metric: Any, products: Any) -> None:
    """Products of ``queries[first:first + count]`` and ``vectors[rows[0]:rows[1]]`` (see `dots_tile`)."""
    start, stop = rows
    if count == TILE_QUERIES:
        for row in range(start, stop - TILE_ROWS + 1, TILE_ROWS):
            if metric == L2:
                distances_tile(queries, np.int64(first), vectors, np.int64(row), products, np.int64(row - start))
            else:
                dots_tile(queries, np.int64(first), vectors, np.int64(row), products, np.int64(row - start))
        start_rest = stop - (stop - start) % TILE_ROWS
    else:
        start_rest = start
    for q in range(count):
        single = products[q:]
        row = start_rest
        while row < stop:
            column = np.int64(row - start)
            if metric == L2 and row + TILE_ROWS <= stop:
                distances_strip(queries, np.int64(first + q), vectors, np.int64(row), single, column)
            elif metric == L2:
                distances_pair(queries, np.int64(first + q), vectors, np.int64(row), single, column)
            elif row + TILE_ROWS <= stop:
                dots_strip(queries, np.int64(first + q), vectors, np.int64(row), single, column)
            else:
                dots_pair(queries, np.int64(first + q), vectors, np.int64(row), single, column)
            row += TILE_ROWS if row + TILE_ROWS <= stop else 1


@kernel()
def _keep_best(
    products: Any, q: Any, count: Any, scales: Any, norm: Any, first: Any, ranks: Any, heap: Any, size: Any
) -> Any:
    """Offer the scores ``products[q, c] / (scales[c] * norm)`` of rows ``first + c``; gives how many are kept.

    A block of 16 is passed over unless one of them may enter the heap.
    """
    for column in range(0, count, GROUP):
        least = least_score(heap, size) * norm
        mask = products_pass(products, np.int64(q), np.int64(column), scales, least - abs(least) * np.float32(MARGIN))
        while mask != 0:
            lane = lowest_bit(mask)
            mask &= mask - 1
            if column + lane < count:
                row = first + column + lane
                rank = row if ranks.shape[0] == 0 else np.int64(ranks[row])
                score = products[q, column + lane] / (scales[column + lane] * norm)
                size = keep(heap, size, pack(-score, rank))
    return size


@kernel()
def nearest_rows(
    queries: Any,
    norms: Any,
    span: Any,
    metric: Any,
    base: Any,
    ranks: Any,
    first_row: Any,
    heaps: Any,
    sizes: Any,
    work: Any,
) -> None:
    """Offer the exact scores of all rows of a block to the heaps of ``queries[span[0]:span[1]]``.

    queries (n_queries, dim) float32 and their norms (n_queries,); base = (vectors (n, dim) float32, norms (n,)), of
    rows with the numbers ``first_row + i``; ranks uint32: what a row is ordered by among equal scores, in place of its
    number, or empty; heaps int64 (n_queries, depth) with sizes int64 (n_queries,), see `keep`; work = (products
    (`TILE_QUERIES`, `BLOCK_ROWS`), scales (`BLOCK_ROWS`,)) float32. Norms are read under cosine only.
    Requires fewer than 2^31 rows. Twin: ``reference_scan.nearest_rows``.
    """
    vectors, vector_norms_ = base
    products, scales = work
    for column in range(BLOCK_ROWS):
        scales[column] = np.float32(1)
    for start in range(0, vectors.shape[0], BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, vectors.shape[0])
        if metric == COSINE:
            for row in range(start, stop):
                scales[row - start] = vector_norms_[row]
        for first in range(span[0], span[1], TILE_QUERIES):
            count = min(TILE_QUERIES, span[1] - first)
            _multiply(queries, first, count, vectors, (start, stop), metric, products)
            for q in range(count):
                norm = norms[first + q] if metric == COSINE else np.float32(1)
                i = first + q
                sizes[i] = _keep_best(
                    products, q, stop - start, scales, norm, first_row + start, ranks, heaps[i], sizes[i]
                )


@kernel()
def unload(heaps: Any, sizes: Any, span: Any, ids: Any, by_rank: Any, out: Any) -> None:
    """Turn the heaps of queries ``span[0] .. span[1] - 1`` into sorted hits.

    ids uint64: id of each row, or empty where ids are row numbers; by_rank uint32: row of each rank, or empty where
    they are the same; out = (ids (n_queries, k) uint64, scores (n_queries, k) float32, counts (n_queries,) int64),
    padded with `MISSING_ID` and -inf. Twin: ``reference_scan.nearest_rows``.
    """
    for i in range(span[0], span[1]):
        sort_kept(heaps[i], sizes[i])
        for j in range(out[0].shape[1]):
            if j < sizes[i]:
                row = row_of(heaps[i, j])
                if by_rank.shape[0] > 0:
                    row = np.int64(by_rank[row])
                out[0][i, j] = np.uint64(row) if ids.shape[0] == 0 else ids[row]
                out[1][i, j] = -distance_of(heaps[i, j])
            else:
                out[0][i, j] = MISSING_ID
                out[1][i, j] = np.float32(-np.inf)
        out[2][i] = min(sizes[i], out[0].shape[1])
