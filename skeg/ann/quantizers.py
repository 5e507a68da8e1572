"""Quantizers: how stored vectors become short codes whose scores steer a search.

All kinds keep one contract (`Quantizer`): *fit* on a sample, *encode* blocks of rows to codes and two factors, *prepare*
a query and *score* rows against it. Estimates have one form for every kind and metric (`skeg.ann.kernels.score`), so
walks and scans know nothing of kinds.

========  =========================================================  ======================  =======================
kind      code                                                        bytes a vector          standard error of cosine
========  =========================================================  ======================  =======================
f32       the stored vector itself                                    4 dim                   0
int8      8 bits a dimension, rotated                                 dim                     .0005 at 384 dimensions
tq4       4 bits a dimension, rotated                                 dim / 2                 .0039
tq2       2 bits a dimension, rotated                                 dim / 4                 .0136
tq1       1 bit a dimension, rotated                                  dim / 8                 .027
binary    the signs of the centered vector as it is, not rotated      dim / 8                 depends on the data
pq        one of 256 centroids for each subspace (`skeg.ann.pq`)      subspaces               depends on the data
========  =========================================================  ======================  =======================

Code rows are padded to 64 bytes. int8, tq4, tq2 and tq1 are one family: uniform unsigned codes of a randomly rotated,
centered vector, with a scale for each row that makes the estimate unbiased (RaBitQ: Gao & Long, SIGMOD 2024, theorem 3.2;
Gao et al., SIGMOD 2025 for b bits; the uniform grid instead of Lloyd-Max levels costs 1 to 2 % of squared error and
makes a score one integer dot product).
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.encode import encode_uniform
from skeg.ann.kernels.prepare import Transform, prepare_query
from skeg.ann.kernels.score import SCHEME_F32, Codes, Query, score_rows
from skeg.ann.metric import METRICS
from skeg.ann.transform import Float32s, RowTransform

KINDS = ("f32", "int8", "tq4", "tq2", "tq1", "binary", "pq")

CODE_LINE = 64
"""Code rows are whole cache lines."""

STEP_SIZES: dict[int, float] = {1: 1.596, 2: 0.996, 4: 0.335, 8: 0.031}
"""Grid step by bits, in standard deviations of a coordinate: least squared error for a normal distribution."""

Bytes2D = npt.NDArray[np.uint8]


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeroed array whose first byte lies at a multiple of 64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + CODE_LINE, np.uint8)
    start = -room.ctypes.data % CODE_LINE
    return room[start : start + size].view(dtype).reshape(shape)


class Quantizer(Protocol):
    """What every kind offers. n rows, dim dimensions."""

    @property
    def kind(self) -> str:
        """Name of the kind."""

    @property
    def transform(self) -> RowTransform:
        """What happens to a vector before it is encoded."""

    @property
    def scheme(self) -> int:
        """Number by which kernels know how to score the codes."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one code row."""

    @property
    def center(self) -> float:
        """Code value that stands for zero."""

    @property
    def codebook(self) -> Float32s:
        """Centroids (subspaces, 256, sub_dim) of pq; (0, 0, 0) for the others."""

    def encode(self, turned: Float32s, squares: Float32s) -> tuple[Bytes2D, Float32s]:
        """Codes (n, row_bytes) uint8 and scales (n,) float32 of turned rows (n, dim) and their squared norms (n,)."""


def factors_of(scales: Float32s, squares: Float32s, metric: str) -> Float32s:
    """Factors (n, 2) float32 for searching: scale, and the offset that makes l2 estimates rank by distance.

    |q - x|^2 = |q|^2 - 2 (<q, x> - |x|^2 / 2): the offset is -|x|^2 / 2, and nothing for the other metrics.
    """
    offsets = squares * np.float32(-0.5) if metric == "l2" else np.zeros_like(squares)
    return np.stack([scales, offsets], axis=1)


@attrs.frozen(eq=False)
class UniformQuantizer:
    """b bits a dimension on a uniform grid: kinds int8, tq4, tq2, tq1, and binary without the rotation."""

    kind: str
    transform: RowTransform
    bits: int

    @property
    def scheme(self) -> int:
        """Packed codes are known by their bits."""
        return self.bits

    @property
    def row_bytes(self) -> int:
        """Bytes of one code row: whole 64-byte blocks."""
        dims_a_block = CODE_LINE * 8 // self.bits
        return -(-self.transform.dim // dims_a_block) * CODE_LINE

    @property
    def center(self) -> float:
        """Middle of the code values: between two of them, except for 8 bits, where 0 is left out for symmetry."""
        return 128.0 if self.bits == 8 else ((1 << self.bits) - 1) / 2

    @property
    def codebook(self) -> Float32s:
        """No centroids."""
        return np.zeros((0, 0, 0), np.float32)

    def encode(self, turned: Float32s, squares: Float32s) -> tuple[Bytes2D, Float32s]:
        """Codes and unbiased scales; see `Quantizer.encode`."""
        codes = aligned_zeros((len(turned), self.row_bytes), np.uint8)
        scales = np.empty(len(turned), np.float32)
        digits = np.zeros(self.row_bytes * 8 // self.bits, np.uint8)
        encode_uniform(turned, squares, self.bits, np.float32(STEP_SIZES[self.bits]), digits, codes, scales)
        return codes, scales


@attrs.frozen(eq=False)
class Float32Quantizer:
    """No codes: the stored vectors steer. Its transform neither centers nor rotates, because scores read them raw."""

    transform: RowTransform
    kind: str = "f32"
    scheme: int = SCHEME_F32
    row_bytes: int = CODE_LINE
    center: float = 0.0

    @property
    def codebook(self) -> Float32s:
        """No centroids."""
        return np.zeros((0, 0, 0), np.float32)

    def encode(self, turned: Float32s, squares: Float32s) -> tuple[Bytes2D, Float32s]:
        """No codes; the scale is to be divided by the stored vector's norm under cosine (`raw_scales`)."""
        return np.zeros((0, self.row_bytes), np.uint8), np.ones(len(turned), np.float32)
