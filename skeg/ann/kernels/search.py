"""The one entry point of a graph search: prepare, walk and re-rank a block of queries."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.prepare import COSINE, Transform, prepare_query, square_sum
from skeg.ann.kernels.rerank import rerank
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.walk import DAMAGED, Graph, Scratch, walk
from skeg.jit import kernel

# What a search ends with, beside the query it got to.
OK = 0
GRAPH_DAMAGED = 1
QUERY_NOT_FINITE = 2
QUERY_ZERO = 3


@kernel()
def search_queries(
    queries: Any, span: Any, settings: Any, graph: Any, codes: Any, transform: Any, base: Any, scratch: Any, out: Any
) -> Any:
    """Search ``queries[span[0]:span[1]]``; gives (status, number of the query it stopped at).

    The tuples keep one call cheap: each is unpacked once.

    queries (n, dim) float32, raw; settings = (metric, scheme, list size, re-rank depth); graph = (links, starts, ends,
    entries); codes = (codes, factors, entry codes, entry factors); transform as in `Transform`; base = (vectors
    (n, dim) float32, ids (n,) uint64); scratch = the fields of `Scratch`, then (work, digits, table) of
    `prepare_query`; out = (ids (n_queries, k) uint64, scores (n_queries, k) float32, counts (n_queries,) int64).
    """
    metric, scheme, list_size, depth = settings
    links = Graph(graph[0], graph[1], graph[2], graph[3])
    vectors, ids = base
    rows = Codes(scheme, codes[0], codes[1], vectors)
    entries = Codes(scheme, codes[2], codes[3], codes[4])
    turned = Transform(transform[0], transform[1], transform[2], transform[3])
    space = Scratch(scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], scratch[5], scratch[6])
    n_entries = graph[3].shape[0]
    for i in range(span[0], span[1]):
        raw = queries[i]
        norm = np.sqrt(square_sum(raw))
        if not np.isfinite(norm):
            return QUERY_NOT_FINITE, i
        if metric == COSINE and norm == np.float32(0):
            return QUERY_ZERO, i
        query = prepare_query(raw, metric, scheme, turned, scratch[7], scratch[8], scratch[9])
        size = walk(links, n_entries, rows, entries, query, list_size, space)
        if size == DAMAGED:
            return GRAPH_DAMAGED, i
        out[2][i] = rerank(vectors, ids, space.pool, min(depth, size), raw, norm, metric, (out[0][i], out[1][i]))
    return OK, span[1]
