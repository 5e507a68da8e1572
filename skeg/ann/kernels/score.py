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
from skeg.ann.kernels.simd_run import GROUP, dots_run_1, dots_run_2, dots_run_4, dots_run_8
from skeg.jit import kernel

# Scheme numbers: how `product` is computed. Packed codes are named by their bits a dimension.
SCHEME_F32 = 0
SCHEME_PQ = 16

PREFETCH_AHEAD = 32
"""Rows asked for ahead of the one being scored: most of a hop's. They go to the second-level cache, which takes many
more requests at a time than the first. On 117,659 x 384, lists of 16 and 48 rows: 23.1 and 54.4 us a query; asked for
into the first-level cache 28.1 and 68.8 with 8 rows ahead, the best there, and 30.6 and 81.3 with 32."""


class Codes(NamedTuple):
    """What a walk scores, by row.

    codes (n, row_bytes) uint8; factors (n, 1 or 2) float32: scale and, where a metric has one, offset; vectors (n, dim)
    float32: the stored vectors, read by the f32 scheme only.
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
def lines_of(scheme: Any, codes: Any, vectors: Any) -> Any:
    """Cache lines to ask for ahead of scoring a row; the hardware fetches the rest of a long row by itself."""
    if scheme == SCHEME_F32:
        return min((vectors.shape[1] + 15) >> 4, 8)
    return (codes.shape[1] + 63) >> 6


@kernel(inline=True)
def ask_for(scheme: Any, codes: Any, factors: Any, vectors: Any, row: Any, n_lines: Any) -> None:
    """Prefetch what scoring a row will read."""
    prefetch_row(factors, row, 1)
    if scheme == SCHEME_F32:
        prefetch_row(vectors, row, n_lines)
    else:
        prefetch_row(codes, row, n_lines)


@kernel(inline=True)
def product_of(scheme: Any, codes: Any, vectors: Any, digits: Any, table: Any, row: Any) -> Any:
    """``product`` of one row, float32. The scheme never changes in a loop, so its branch costs nothing.

    Takes arrays and no tuples: in a loop over rows Numba would count references for every member it takes out of one.
    """
    if scheme == 4:
        return np.float32(dot_packed_4(codes, row, digits))
    if scheme == 8:
        return np.float32(dot_packed_8(codes, row, digits))
    if scheme == 2:
        return np.float32(dot_packed_2(codes, row, digits))
    if scheme == 1:
        return np.float32(dot_packed_1(codes, row, digits))
    if scheme == SCHEME_F32:
        return dot_f32(vectors, row, table)
    return lookup_sum(codes, row, table)


@kernel(inline=True)
def estimate_of(product: Any, factors: Any, row: Any, step: Any, bias: Any, weight: Any) -> Any:
    """Estimated score of a row from its product; higher is nearer."""
    estimate = factors[row, 0] * step * (product - bias)
    if factors.shape[1] == 2:
        estimate += factors[row, 1] * weight
    return estimate


@kernel()
def score_rows(codes: Any, query: Any, rows: Any, count: Any, estimates: Any) -> None:
    """Write the estimated scores of ``rows[:count]`` to ``estimates[:count]`` (float32).

    Twin: ``reference.score_rows``.
    """
    scheme, packed, factors, vectors = codes
    digits, table, step, bias, weight = query
    for i in range(count):
        product = product_of(scheme, packed, vectors, digits, table, np.int64(rows[i]))
        estimates[i] = estimate_of(product, factors, rows[i], step, bias, weight)


@kernel()
def score_run(codes: Any, query: Any, first: Any, count: Any, products: Any, estimates: Any) -> None:
    """Write the estimated scores of rows first to first + count - 1 to ``estimates[:count]`` (float32).

    products int32, as long, is overwritten. Twin: ``reference.score_rows``.
    """
    scheme, packed, factors, vectors = codes
    digits, table, step, bias, weight = query
    done: Any = np.int64(0)
    if scheme in (1, 2, 4, 8):
        n_groups = np.int64(count // GROUP)
        if scheme == 4:
            dots_run_4(packed, first, n_groups, digits, products)
        elif scheme == 8:
            dots_run_8(packed, first, n_groups, digits, products)
        elif scheme == 2:
            dots_run_2(packed, first, n_groups, digits, products)
        else:
            dots_run_1(packed, first, n_groups, digits, products)
        done = n_groups * GROUP
        for i in range(done):
            estimates[i] = estimate_of(np.float32(products[i]), factors, first + i, step, bias, weight)
    for i in range(done, count):
        product = product_of(scheme, packed, vectors, digits, table, first + i)
        estimates[i] = estimate_of(product, factors, first + i, step, bias, weight)
