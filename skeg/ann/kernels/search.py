"""The entry points of a graph search: prepare, walk and re-rank one query or a block of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.prepare import COSINE, L2, SMALLEST_NORM, Transform, prepare_query, square_sum
from skeg.ann.kernels.rerank import rerank
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.walk import DAMAGED, Graph, Scratch, nearest_entry, walk
from skeg.jit import kernel

# What a search ends with, beside the query it got to.
OK = 0
GRAPH_DAMAGED = 1
QUERY_NOT_FINITE = 2
QUERY_ZERO = 3

MARGIN_RANK = 10
"""Margins are counted from this hit, or from the last one wanted if that comes later."""


@kernel()
def search_one(
    raw: Any, settings: Any, graph: Any, codes: Any, transform: Any, base: Any, scratch: Any, ids: Any, scores: Any
) -> Any:
    """Search for one query; gives (status, hits, rows scored, rows expanded).

    The tuples keep a call cheap, each is unpacked once. raw (dim,) float32; settings = (metric, scheme, rows to expand,
    re-rank depth, margin float32: see `walk`, in units of the score of a unit query); graph = (links, starts, ends,
    entries); codes = (codes, factors, entry codes, entry factors, entry vectors); transform as in `Transform`; base =
    (vectors (n, dim) float32, ids (n,) uint64); scratch = the fields of `Scratch`, then (work, digits, table) of
    `prepare_query`; ids (k,) uint64 and scores (k,) float32 are written.
    """
    metric, scheme, n_expand, depth, margin = settings
    norm = np.sqrt(square_sum(raw))
    if not np.isfinite(norm):
        return QUERY_NOT_FINITE, np.int64(0), np.int64(0), np.int64(0)
    if metric == COSINE and norm < SMALLEST_NORM:
        return QUERY_ZERO, np.int64(0), np.int64(0), np.int64(0)
    links = Graph(graph[0], graph[1], graph[2], graph[3])
    rows = Codes(scheme, codes[0], codes[1], base[0])
    entries = Codes(scheme, codes[2], codes[3], codes[4])
    turned = Transform(transform[0], transform[1], transform[2], transform[3])
    space = Scratch(scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], scratch[5])
    space.counters[0] = 0
    space.counters[1] = 0
    query = prepare_query(raw, metric, scheme, turned, scratch[6], scratch[7], scratch[8])
    n_entries = graph[3].shape[0]
    entry, nearness = nearest_entry(n_entries, entries, query)
    space.counters[0] += n_entries
    reach = np.float32(margin)
    if reach < np.float32(np.inf):  # infinity times the norm of a zero query would be no number
        reach *= np.float32(0.5) if metric == L2 else norm
    bounds = (max(n_expand, depth), n_expand, max(ids.shape[0], MARGIN_RANK), reach)
    size = walk(links, np.int64(graph[3][entry]), nearness, rows, query, bounds, space)
    if size == DAMAGED:
        return GRAPH_DAMAGED, np.int64(0), np.int64(0), np.int64(0)
    count = rerank(base[0], base[1], space.pool, min(depth, size), raw, norm, metric, (ids, scores))
    return OK, count, space.counters[0], space.counters[1]


@kernel()
def search_many(
    queries: Any, span: Any, settings: Any, graph: Any, codes: Any, transform: Any, base: Any, scratch: Any, out: Any
) -> Any:
    """Search for ``queries[span[0]:span[1]]``; gives (status, query it stopped at, rows scored, rows expanded).

    queries (n, dim) float32; out = (ids (n, k) uint64, scores (n, k) float32, counts (n,) int64); else as `search_one`.
    """
    scored = np.int64(0)
    expanded = np.int64(0)
    for i in range(span[0], span[1]):
        status, out[2][i], added, hops = search_one(
            queries[i], settings, graph, codes, transform, base, scratch, out[0][i], out[1][i]
        )
        if status != OK:
            return status, i, scored, expanded
        scored += added
        expanded += hops
    return OK, span[1], scored, expanded
