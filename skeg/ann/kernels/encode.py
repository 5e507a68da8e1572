"""From stored vectors to turned vectors (normalized, centered, rotated) and from those to uniform codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.prepare import COSINE, SMALLEST_NORM, square_sum
from skeg.ann.kernels.rotate import rotate
from skeg.jit import kernel

# How a block of rows was judged by `turn_rows`.
ROW_OK = 0
ROW_NOT_FINITE = 1
ROW_ZERO = 2


@kernel()
def _turn(raw: Any, metric: Any, mean: Any, signs: Any, turned: Any) -> Any:
    """One row of `turn_rows`; gives how it was judged."""
    total = square_sum(raw)
    if not np.isfinite(total):
        return ROW_NOT_FINITE
    scale = np.float32(1)
    if metric == COSINE:
        if total < SMALLEST_NORM * SMALLEST_NORM:
            return ROW_ZERO
        scale = np.float32(1) / np.sqrt(total)
    for j in range(raw.shape[0]):
        turned[j] = raw[j] * scale - mean[j]
    rotate(turned, signs)
    return ROW_OK


@kernel()
def turn_rows(raw: Any, metric: Any, mean: Any, signs: Any, turned: Any, squares: Any) -> Any:
    """Map stored vectors to the space where codes live; gives (status, first bad row).

    turned[i] (dim,) float32 = rotation of (raw[i] / norm under cosine, else raw[i]) - mean; squares[i] float32 =
    squared norm of turned[i]. Under cosine a row shorter than `SMALLEST_NORM` is `ROW_ZERO`; a row that is not finite,
    or whose squared norm overflows, is `ROW_NOT_FINITE`. Twin: ``reference.turn_rows``.
    """
    for i in range(raw.shape[0]):
        status = _turn(raw[i], metric, mean, signs, turned[i])
        if status != ROW_OK:
            return status, i
        squares[i] = square_sum(turned[i])
    return ROW_OK, raw.shape[0]


@kernel(fastmath=True)
def _digits(row: Any, bits: Any, step: Any, digits: Any) -> Any:
    """Uniform codes of one row; gives sum of row * (digit - center)."""
    top = np.float32((1 << bits) - 1)
    product = np.float32(0)
    if bits == 8:
        for j in range(row.shape[0]):
            digit = min(max(np.rint(row[j] / step), np.float32(-127)), np.float32(127))
            digits[j] = np.uint8(np.int32(digit) + np.int32(128))
            product += row[j] * digit
        return product
    half = np.float32(1 << (bits - 1))
    for j in range(row.shape[0]):
        digit = min(max(np.floor(row[j] / step) + half, np.float32(0)), top)
        digits[j] = np.uint8(np.int32(digit))
        product += row[j] * (digit - top * np.float32(0.5))
    return product


@kernel()
def _pack(digits: Any, dim: Any, bits: Any, code: Any) -> None:
    """Pack digits (padded,) uint8 into a code row in the layout of `skeg.ann.kernels.simd`."""
    slots = 8 // bits
    for block in range(code.shape[0] // 64):
        for j in range(64):
            byte = np.uint8(0)
            for s in range(slots):
                at = (block * slots + s) * 64 + j
                digit = digits[at] if at < dim else (np.uint8(128) if bits == 8 else np.uint8(0))
                byte = np.uint8(byte | np.uint8(np.int32(digit) << np.int32(s * bits)))
            code[block * 64 + j] = byte


@kernel()
def _encode(turned: Any, square: Any, bits: Any, clip: Any, digits: Any, code: Any) -> Any:
    """One row of `encode_uniform`; gives its scale."""
    dim = turned.shape[0]
    step = np.float32(clip * np.sqrt(square / np.float32(dim)))
    if step <= np.float32(0):
        step = np.float32(1)
    product = _digits(turned, bits, step, digits)
    _pack(digits, dim, bits, code)
    return square / product if product > np.float32(0) else np.float32(0)


@kernel()
def encode_uniform(turned: Any, squares: Any, bits: Any, clip: Any, digits: Any, codes: Any, scales: Any) -> None:
    """Uniform b-bit codes of turned rows with the scale that makes inner products unbiased.

    turned (n, dim) float32; squares (n,) float32, their squared norms; bits 1, 2, 4 or 8; clip float32: the step in
    units of the coordinates' standard deviation; digits (padded,) uint8, work space; codes (n, row_bytes) uint8;
    scales (n,) float32: with center c, <turned, q> is estimated by scale * sum (digit - c) * q without bias under a
    random rotation (RaBitQ, Gao & Long, SIGMOD 2024, theorem 3.2; extended to b bits, SIGMOD 2025). A zero row gets
    scale 0.
    Twin: ``reference.encode_uniform``.
    """
    for i in range(turned.shape[0]):
        scales[i] = _encode(turned[i], squares[i], bits, clip, digits, codes[i])


@kernel()
def turn_and_encode(
    raw: Any, metric: Any, mean: Any, signs: Any, turned: Any, squares: Any, bits: Any, clip: Any, digits: Any,
    codes: Any, scales: Any,
) -> Any:  # fmt: skip
    """`turn_rows`, then `encode_uniform`, in one call for few rows; turned (dim,) is work space.

    Gives (status, first bad row). Twins: those of the two.
    """
    for i in range(raw.shape[0]):
        status = _turn(raw[i], metric, mean, signs, turned)
        if status != ROW_OK:
            return status, i
        squares[i] = square_sum(turned)
        scales[i] = _encode(turned, squares[i], bits, clip, digits, codes[i])
    return ROW_OK, raw.shape[0]
