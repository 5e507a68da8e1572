"""Exact float32 scores of a few candidate rows, and their best k by score and then by id."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.pool import row_of
from skeg.ann.kernels.prepare import COSINE, IP
from skeg.ann.kernels.simd import prefetch_row
from skeg.jit import kernel

LINES_AHEAD = 128
"""Cache lines of stored vectors asked for ahead of the one being scored, two rows at least: 8 rows ahead took a
microsecond less than 2 for 20 rows of 96 dimensions; 128 lines measured as 48 and 512."""

MISSING_ID = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel(fastmath=True)
def _dot_and_squares(vectors: Any, row: Any, query: Any) -> Any:
    product = np.float32(0)
    squares = np.float32(0)
    for j in range(query.shape[0]):
        x = vectors[row, j]
        product += x * query[j]
        squares += x * x
    return product, squares


@kernel(fastmath=True)
def _square_distance(vectors: Any, row: Any, query: Any) -> Any:
    total = np.float32(0)
    for j in range(query.shape[0]):
        difference = vectors[row, j] - query[j]
        total += difference * difference
    return total


@kernel()
def exact_score(vectors: Any, row: Any, query: Any, query_norm: Any, metric: Any) -> Any:
    """Score of one stored vector: cosine, inner product or negative squared distance (metric numbers of `prepare`).

    The stored vector's norm costs nothing here, its bytes are what takes the time. A zero norm scores 0 under cosine.
    """
    if metric == COSINE:
        product, squares = _dot_and_squares(vectors, row, query)
        norms = np.sqrt(squares) * query_norm
        return product / norms if norms > np.float32(0) else np.float32(0)
    if metric == IP:
        product, squares = _dot_and_squares(vectors, row, query)
        return product
    return -_square_distance(vectors, row, query)


@kernel(inline=True)
def offer(ids: Any, scores: Any, count: Any, new_id: Any, score: Any) -> Any:
    """Insert a hit into the first ``count`` of k sorted ones (score descending, then id ascending); gives the count."""
    k = ids.shape[0]
    place = count
    while place > 0 and (scores[place - 1] < score or (scores[place - 1] == score and ids[place - 1] > new_id)):
        if place < k:
            ids[place] = ids[place - 1]
            scores[place] = scores[place - 1]
        place -= 1
    if place < k:
        ids[place] = new_id
        scores[place] = score
    return min(count + 1, k)


@kernel(inline=True)
def _withdraw(ids: Any, scores: Any, count: Any, old_id: Any) -> Any:
    """Take the hit of an id out of the first ``count``, if it is there; gives the count."""
    place = np.int64(0)
    while place < count and ids[place] != old_id:
        place += 1
    for i in range(place, count - 1):
        ids[i] = ids[i + 1]
        scores[i] = scores[i + 1]
    return count - 1 if place < count else count


@kernel()
def rerank(
    vectors: Any, ids: Any, pool: Any, depth: Any, query: Any, query_norm: Any, metric: Any, known: Any, out: Any
) -> Any:
    """Score the rows of ``pool[:depth]`` exactly and keep the best; gives how many of ``out`` are filled.

    pool int64 keys (`skeg.ann.kernels.pool`); out = (ids (k,) uint64, scores (k,) float32), the first ``known`` of
    which are hits of an older part of the index: a row that has the id of one takes its place. The rest is padded with
    `MISSING_ID` and -inf. Twin: ``reference.rerank``.
    """
    out_ids, out_scores = out
    n_lines = (vectors.shape[1] + 15) >> 4
    ahead = max(LINES_AHEAD // n_lines, 2)
    for i in range(min(depth, ahead)):
        prefetch_row(vectors, row_of(pool[i]), n_lines)
    count: Any = np.int64(known)
    k = out_ids.shape[0]
    if known:
        # Before anything is offered: what will be replaced must not push another out.
        for i in range(depth):
            count = _withdraw(out_ids, out_scores, count, ids[row_of(pool[i])])
    for i in range(depth):
        if i + ahead < depth:
            prefetch_row(vectors, row_of(pool[i + ahead]), n_lines)
        row = row_of(pool[i])
        score = exact_score(vectors, row, query, query_norm, metric)
        if count < k or score >= out_scores[k - 1]:
            count = offer(out_ids, out_scores, count, ids[row], score)
    for i in range(count, k):
        out_ids[i] = MISSING_ID
        out_scores[i] = np.float32(-np.inf)
    return count
