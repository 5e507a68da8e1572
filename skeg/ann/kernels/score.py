"""Estimate the score of rows from their codes: the one inner loop of every walk.

Every kind and metric has the same form (`skeg.ann.metric`, `skeg.ann.quantizers`):

    estimate = factors[row, 0] * step * (product(row, query) - bias) + factors[row, 1] * weight

where ``product`` is an integer dot product of packed codes with the int8 query (kinds int8, tq4, tq2, tq1, binary), a
sum of table entries (pq) or the float32 dot product with the stored vector (f32). Higher is nearer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.simd import dot_packed_1, dot_packed_2, dot_packed_4, dot_packed_8, prefetch_row
from skeg.jit import kernel

# Scheme numbers: how `product` is computed. Packed codes are named by their bits a dimension.
SCHEME_F32 = 0
SCHEME_PQ = 16

PREFETCH_AHEAD = 4
"""Rows asked for ahead of the one being scored; 4 measured best or equal at 128 to 1024 dimensions."""


class Codes(NamedTuple):
    """What a walk scores, by row.

    codes (n, row_bytes) uint8; factors (n, 2) float32: scale and offset; vectors (n, dim) float32: the stored
    vectors, read by the f32 scheme only.
    """

    scheme: Any
    codes: Any
    factors: Any
    vectors: Any


class Query(NamedTuple):
    """A prepared query: digits (padded dimensions,) int8; table float32 (the vector for f32, lookup sums for pq)."""

    digits: Any
    table: Any
    step: Any
    bias: Any
    weight: Any


@kernel(fastmath=True)
def dot_f32(vectors: Any, row: Any, query: Any) -> Any:
    """Dot product of one stored vector with a query, float32."""
    total = np.float32(0)
    for j in range(query.shape[0]):
        total += vectors[row, j] * query[j]
    return total


@kernel(fastmath=True)
def lookup_sum(codes: Any, row: Any, table: Any) -> Any:
    """Sum of the table entries that a PQ code names: subspace m reads ``table[m * 256 + codes[row, m]]``."""
    total = np.float32(0)
    for m in range(table.shape[0] // 256):
        total += table[m * 256 + np.int64(codes[row, m])]
    return total


@kernel(inline=True)
def _finish(codes: Any, query: Any, row: Any, product: Any) -> Any:
    scale = codes.factors[row, 0] * query.step
    return scale * (product - query.bias) + codes.factors[row, 1] * query.weight


@kernel()
def score_rows(codes: Any, query: Any, rows: Any, count: Any, estimates: Any) -> None:
    """Write the estimated scores of ``rows[:count]`` to ``estimates[:count]`` (float32, higher is nearer).

    The rows' codes are prefetched `PREFETCH_AHEAD` rows ahead. The scheme is looked at once a call, not once a row.
    Twin: ``reference.score_rows``.
    """
    n_lines = (codes.codes.shape[1] + 63) >> 6
    if codes.scheme == SCHEME_F32:
        n_lines = min((codes.vectors.shape[1] + 15) >> 4, 8)
        for i in range(min(count, PREFETCH_AHEAD)):
            prefetch_row(codes.vectors, rows[i], n_lines)
        for i in range(count):
            if i + PREFETCH_AHEAD < count:
                prefetch_row(codes.vectors, rows[i + PREFETCH_AHEAD], n_lines)
            estimates[i] = _finish(codes, query, rows[i], dot_f32(codes.vectors, rows[i], query.table))
        return
    for i in range(min(count, PREFETCH_AHEAD)):
        prefetch_row(codes.codes, rows[i], n_lines)
    if codes.scheme == 4:
        for i in range(count):
            if i + PREFETCH_AHEAD < count:
                prefetch_row(codes.codes, rows[i + PREFETCH_AHEAD], n_lines)
                prefetch_row(codes.factors, rows[i + PREFETCH_AHEAD], 1)
            product = np.float32(dot_packed_4(codes.codes, np.int64(rows[i]), query.digits))
            estimates[i] = _finish(codes, query, rows[i], product)
    elif codes.scheme == 8:
        for i in range(count):
            if i + PREFETCH_AHEAD < count:
                prefetch_row(codes.codes, rows[i + PREFETCH_AHEAD], n_lines)
                prefetch_row(codes.factors, rows[i + PREFETCH_AHEAD], 1)
            product = np.float32(dot_packed_8(codes.codes, np.int64(rows[i]), query.digits))
            estimates[i] = _finish(codes, query, rows[i], product)
    elif codes.scheme == 2:
        for i in range(count):
            if i + PREFETCH_AHEAD < count:
                prefetch_row(codes.codes, rows[i + PREFETCH_AHEAD], n_lines)
                prefetch_row(codes.factors, rows[i + PREFETCH_AHEAD], 1)
            product = np.float32(dot_packed_2(codes.codes, np.int64(rows[i]), query.digits))
            estimates[i] = _finish(codes, query, rows[i], product)
    elif codes.scheme == 1:
        for i in range(count):
            if i + PREFETCH_AHEAD < count:
                prefetch_row(codes.codes, rows[i + PREFETCH_AHEAD], n_lines)
                prefetch_row(codes.factors, rows[i + PREFETCH_AHEAD], 1)
            product = np.float32(dot_packed_1(codes.codes, np.int64(rows[i]), query.digits))
            estimates[i] = _finish(codes, query, rows[i], product)
    else:
        for i in range(count):
            estimates[i] = _finish(codes, query, rows[i], lookup_sum(codes.codes, rows[i], query.table))
