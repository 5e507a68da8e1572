"""Turn a query as given into the digits or tables that `skeg.ann.kernels.score` reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.rotate import rotate
from skeg.ann.kernels.score import SCHEME_F32, SCHEME_PQ, Query
from skeg.jit import kernel

# Metric numbers, as the kernels know them; `skeg.ann.metric` has the names.
COSINE = 0
IP = 1
L2 = 2


SMALLEST_NORM = np.float32(1e-15)
"""Shorter vectors have no direction in float32: their squares lose digits or vanish. Cosine takes them for zero."""


class Transform(NamedTuple):
    """How rows were turned before they were encoded.

    mean (dim,) float32, subtracted from l2 queries (for the other metrics it adds the same to every score); signs
    (rounds, dim) int8, see `rotate`; center float32, the code value that stands for zero; codebook (subspaces, 256,
    sub_dim) float32 for pq.
    """

    mean: Any
    signs: Any
    center: Any
    codebook: Any


@kernel(fastmath=True)
def square_sum(x: Any) -> Any:
    """Sum of squares of a float32 vector; not finite if an element is not."""
    total = np.float32(0)
    for j in range(x.shape[0]):
        total += x[j] * x[j]
    return total


@kernel(fastmath=True)
def quantize_query(x: Any, digits: Any) -> Any:
    """Round ``x`` (dim,) to int8 ``digits`` of one step; gives (step, sum of digits).

    Digits past dim stay zero. A zero vector gives step 0. Error: at most step / 2 a coordinate.
    """
    # Magnitudes of finite floats order like their bits, and an integer maximum vectorizes where a float one does not.
    bits = x.view(np.int32)
    largest_bits = np.int32(0)
    for j in range(x.shape[0]):
        largest_bits = np.int32(max(largest_bits, bits[j] & np.int32(0x7FFFFFFF)))
    largest_int = np.int32(largest_bits)
    largest = largest_int.view(np.float32)
    inverse = np.float32(0)
    if largest > np.float32(1e-36):  # below, the quotient overflows; such a vector counts as zero
        inverse = np.float32(127) / largest
    for j in range(x.shape[0]):
        digits[j] = np.int8(np.rint(x[j] * inverse))
    total = np.int32(0)
    for j in range(x.shape[0]):
        total = np.int32(total + np.int32(digits[j]))
    return largest / np.float32(127), total


@kernel(fastmath=True)
def _fill_lookup_table(x: Any, codebook: Any, table: Any) -> None:
    """table[m * 256 + c] = inner product of subvector m of ``x`` with centroid c; x is zero past dim."""
    n_subspaces, n_centroids, sub_dim = codebook.shape
    for m in range(n_subspaces):
        for c in range(n_centroids):
            total = np.float32(0)
            for j in range(sub_dim):
                if m * sub_dim + j < x.shape[0]:
                    total += x[m * sub_dim + j] * codebook[m, c, j]
            table[m * n_centroids + c] = total


@kernel()
def prepare_query(raw: Any, metric: Any, scheme: Any, transform: Any, work: Any, digits: Any, table: Any) -> Any:
    """Prepare a raw query (dim,) float32 for scoring; gives a `Query`.

    work (dim,) float32, digits (padded,) int8 (zero past dim) and table float32 are this thread's and are overwritten;
    the `Query` refers to them. Twin: ``reference.prepare_query``.
    """
    weight = np.float32(1) if metric == L2 else np.float32(0)
    centered = metric == L2 and scheme != SCHEME_F32
    for j in range(raw.shape[0]):
        work[j] = raw[j] - transform.mean[j] if centered else raw[j]
    if scheme == SCHEME_F32:
        return Query(digits, work, np.float32(1), np.float32(0), weight)
    rotate(work, transform.signs)
    if scheme == SCHEME_PQ:
        _fill_lookup_table(work, transform.codebook, table)
        return Query(digits, table, np.float32(1), np.float32(0), weight)
    step, total = quantize_query(work, digits)
    return Query(digits, table, step, np.float32(transform.center * np.float32(total)), weight)
