"""The entry points of a graph search: prepare, walk and re-rank one query or a block of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.bundle import (
    Bundle,
    take_f4_1,
    take_f4_2,
    take_f4_3,
    take_i1_1,
    take_i1_2,
    take_i4,
    take_i8,
    take_u1_1,
    take_u1_2,
    take_u4,
    take_u8,
)
from skeg.ann.kernels.cells import Cells, begin_in_cells
from skeg.ann.kernels.pool import Bounds, key_within
from skeg.ann.kernels.prepare import COSINE, L2, SMALLEST_NORM, Transform, prepare_query, square_sum
from skeg.ann.kernels.rerank import rerank
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.walk import DAMAGED, Graph, Scratch, walk
from skeg.jit import kernel

# What a search ends with, beside the query it got to.
OK = 0
GRAPH_DAMAGED = 1
QUERY_NOT_FINITE = 2
QUERY_ZERO = 3

MARGIN_RANK = 10
"""Margins are counted from this hit, or from the last one wanted if that comes later."""


@kernel(inline=True)
def rerank_depth(pool: Any, size: Any, k: Any, depth: Any, slack: Any) -> Any:
    """Rows at the head of the pool to score exactly: at most ``depth``, those within ``slack`` of the k-th."""
    last = key_within(pool, size, k, slack)
    count = min(size, k)
    while count < min(size, depth) and pool[count] <= last:
        count += 1
    return min(count, depth)


@kernel(inline=True)
def open_index(index: Any, scheme: Any, root: Any) -> Any:
    """(graph, rows, centroids, cells, transform, ids) from the table of ``bundle_index``."""
    vectors = take_f4_2(index, 5)
    return (
        Graph(take_u4(index, 0), take_u4(index, 1), take_u4(index, 2)),
        Codes(scheme, take_u1_2(index, 3), take_f4_2(index, 4), vectors),
        Codes(scheme, take_u1_2(index, 6), take_f4_2(index, 7), take_f4_2(index, 8)),
        Cells(take_u4(index, 9), take_u4(index, 10), root),
        Transform(take_f4_1(index, 11), take_i1_2(index, 12), take_f4_1(index, 13)[0], take_f4_3(index, 14)),
        take_u8(index, 15),
    )


def bundle_index(graph: Graph, rows: Codes, centroids: Codes, cells: Cells, transform: Transform, ids: Any) -> Bundle:
    """What `search_one` searches in; schemes and the root are among its settings."""
    return Bundle(
        *graph, rows.codes, rows.factors, rows.vectors, centroids.codes, centroids.factors, centroids.vectors,
        cells.regions, cells.cells, transform.mean, transform.signs, np.array([transform.center], np.float32),
        transform.codebook, ids,
    )  # fmt: skip


@kernel(inline=True)
def open_space(space: Any) -> Any:
    """(scratch, work, digits, table) from the table of ``bundle_space``."""
    scratch = Scratch(
        take_i8(space, 0), take_u1_1(space, 1), take_u1_1(space, 2), take_i8(space, 3), take_i8(space, 4),
        take_i8(space, 5), take_i8(space, 6), take_i4(space, 7), take_f4_1(space, 8),
    )  # fmt: skip
    return scratch, take_f4_1(space, 9), take_i1_1(space, 10), take_f4_1(space, 11)


def bundle_space(scratch: Scratch, work: Any, digits: Any, table: Any) -> Bundle:
    """What `search_one` works in, see `Scratch` and `prepare_query`; never used by two searches at a time."""
    return Bundle(*scratch, work, digits, table)


@kernel(inline=True)
def judge_query(raw: Any, metric: Any) -> Any:
    """(status, norm, unit) of a query (dim,) float32: what margins and slacks are multiplied with to be distances."""
    norm = np.sqrt(square_sum(raw))
    unit = np.float32(0.5) if metric == L2 else norm
    if not np.isfinite(norm):
        return QUERY_NOT_FINITE, norm, unit
    if metric == COSINE and norm < SMALLEST_NORM:
        return QUERY_ZERO, norm, unit
    return OK, norm, unit


@kernel()
def search_one(raw: Any, settings: Any, index: Any, space: Any, ids: Any, scores: Any) -> Any:
    """Search for one query; gives (status, hits, rows scored, rows expanded, rows re-ranked).

    raw (dim,) float32; settings = (metric, scheme, root, pool's capacity, rows to expand, margin, slack, re-rank
    depth): see `Cells` and `Bounds`; margin and slack are float32, in units of the score of a unit query. index and
    space are tables of a `Bundle`: see `open_index` and `open_space`. ids (k,) uint64 and scores (k,) float32 are
    written.
    """
    metric, scheme, root, capacity, n_expand, margin, slack, depth = settings
    zero = np.int64(0)
    status, norm, unit = judge_query(raw, metric)
    if status != OK:
        return status, zero, zero, zero, zero
    graph, rows, centroids, cells, transform, row_ids = open_index(index, scheme, root)
    scratch, work, digits, table = open_space(space)
    scratch.counters[:] = 0
    query = prepare_query(raw, metric, scheme, transform, work, digits, table)
    bounds = Bounds(capacity, n_expand, max(ids.shape[0], MARGIN_RANK), scaled(margin, unit), scaled(slack, unit))
    size = begin_in_cells(cells, centroids, rows, query, bounds, scratch)
    if size != DAMAGED:
        size = walk(graph, rows, query, bounds, scratch, size)
    if size == DAMAGED:
        return GRAPH_DAMAGED, zero, zero, zero, zero
    depth = rerank_depth(scratch.pool, size, ids.shape[0], depth, bounds.slack)
    count = rerank(rows.vectors, row_ids, scratch.pool, depth, raw, norm, metric, zero, (ids, scores))
    return OK, count, scratch.counters[0], scratch.counters[1], depth


@kernel(inline=True)
def scaled(reach: Any, unit: Any) -> Any:
    """``reach`` times ``unit``; an infinite one stays so, also times the norm of a zero query."""
    return np.float32(reach) * np.float32(unit) if reach < np.float32(np.inf) else np.float32(np.inf)


@kernel()
def search_many(queries: Any, span: Any, settings: Any, index: Any, space: Any, costs: Any, out: Any) -> Any:
    """Search for ``queries[span[0]:span[1]]``; gives (status, query it stopped at).

    queries (n, dim) float32; costs int64 (3,): rows scored, expanded and re-ranked are added; out = (ids (n, k) uint64,
    scores (n, k) float32, counts (n,) int64); else as `search_one`.
    """
    for i in range(span[0], span[1]):
        status, out[2][i], scored, expanded, reranked = search_one(
            queries[i], settings, index, space, out[0][i], out[1][i]
        )
        if status != OK:
            return status, i
        costs[0] += scored
        costs[1] += expanded
        costs[2] += reranked
    return OK, span[1]
