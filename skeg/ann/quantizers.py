"""Quantizers: how stored vectors become short codes whose scores steer a search.

All kinds keep one contract (`Quantizer`): *fit* on a sample, *encode* blocks of rows to codes and two factors,
*prepare* a query and *score* rows against it. Estimates have one form for every kind and metric
(`skeg.ann.kernels.score`), so walks and scans know nothing of kinds.

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
centered vector, with a scale for each row that makes the estimate unbiased (RaBitQ: Gao & Long, SIGMOD 2024, theorem
3.2; Gao et al., SIGMOD 2025 for b bits; the uniform grid instead of Lloyd-Max levels costs 1 to 2 % of squared error
and makes a score one integer dot product).
"""

from __future__ import annotations

from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.arrays import CODE_LINE, aligned_zeros
from skeg.ann.kernels.encode import ROW_OK, ROW_ZERO, encode_uniform, turn_and_encode
from skeg.ann.kernels.prepare import Transform, prepare_query
from skeg.ann.kernels.score import SCHEME_F32, Codes, Query, score_rows
from skeg.ann.metric import METRICS
from skeg.ann.pq import PqQuantizer
from skeg.ann.transform import Float32s, RowTransform, bad_row
from skeg.checks import as_choice

KINDS = ("f32", "int8", "tq4", "tq2", "tq1", "binary", "pq")

BITS: dict[str, int] = {"int8": 8, "tq4": 4, "tq2": 2, "tq1": 1}

STEP_SIZES: dict[int, float] = {1: 1.596, 2: 0.996, 4: 0.335, 8: 0.031}
"""Grid step by bits, in standard deviations of a coordinate: least squared error for a normal distribution."""

SAMPLE_BYTES = 32 << 20
"""Size of the sample as float32: 21,845 rows of 384 dimensions."""

Bytes2D = npt.NDArray[np.uint8]


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


def factor_columns(metric: str) -> int:
    """Columns of factors that are not all zero: graph indexes keep no others."""
    return 2 if metric == "l2" else 1


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
        scales, digits = np.empty(len(turned), np.float32), self._digits()
        encode_uniform(turned, squares, self.bits, np.float32(STEP_SIZES[self.bits]), digits, codes, scales)
        return codes, scales

    def encode_stored(self, vectors: Float32s, first_row: int = 0) -> tuple[Bytes2D, Float32s, Float32s]:
        """Codes, scales and squared norms of stored vectors (n, dim), in one kernel call: for few rows at a time.

        Raises
        ------
        VectorError
            As `RowTransform.apply`.
        """
        n, transform = len(vectors), self.transform
        codes, digits = np.empty((n, self.row_bytes), np.uint8), self._digits()
        scales, squares, turned = (np.empty(size, np.float32) for size in (n, n, transform.dim))
        status, row = turn_and_encode(
            vectors, METRICS[transform.metric], transform.mean, transform.signs, turned, squares, self.bits,
            np.float32(STEP_SIZES[self.bits]), digits, codes, scales,
        )  # fmt: skip
        if status != ROW_OK:
            raise bad_row(status == ROW_ZERO, vectors[row], first_row + row)
        return codes, scales, squares

    def _digits(self) -> npt.NDArray[np.uint8]:
        """Work space of a row."""
        return np.empty(self.row_bytes * 8 // self.bits, np.uint8)


@attrs.frozen(eq=False)
class Float32Quantizer:
    """No codes: the stored vectors steer. The transform is an identity apart from the normalizing."""

    transform: RowTransform
    kind: str = "f32"
    scheme: int = SCHEME_F32
    row_bytes: int = CODE_LINE
    center: float = 0.0

    @property
    def codebook(self) -> Float32s:
        """No centroids."""
        return np.zeros((0, 0, 0), np.float32)

    def encode(self, turned: Float32s, squares: Float32s) -> tuple[Bytes2D, Float32s]:  # noqa: ARG002 - the contract
        """No codes, and scales of 1; under cosine they are still to be divided by the stored vectors' norms."""
        return np.zeros((0, self.row_bytes), np.uint8), np.ones(len(turned), np.float32)


def encode_rows(quantizer: Quantizer, vectors: Float32s) -> tuple[Bytes2D, Float32s, Float32s]:
    """Codes, scales (n,) and squared norms (n,) in the quantizer's space of stored vectors (n, dim) float32."""
    turned, squares = quantizer.transform.apply(vectors)
    codes, scales = quantizer.encode(turned, squares)
    if quantizer.scheme == SCHEME_F32 and quantizer.transform.metric == "cosine":
        scales /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return codes, scales, squares


def sample_rows(n: int, dim: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows, ascending, that transforms and quantizers are fitted on: all, or a random `SAMPLE_BYTES` of them."""
    size = max(SAMPLE_BYTES // (4 * dim), 256)
    if n <= size:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))


def fit_quantizer(kind: str, sample: Float32s, metric: str, seed: int) -> Quantizer:
    """Quantizer of a kind (`KINDS`) fitted on a sample (m, dim) float32 of stored vectors.

    Raises
    ------
    ParameterError
        Unknown kind.
    VectorError
        A vector of the sample is not finite, or zero under cosine.
    """
    as_choice("kind", kind, KINDS)
    if kind == "f32":
        return Float32Quantizer(RowTransform.fit(sample[:0], metric, seed, rotated=False))
    if kind == "binary":
        return UniformQuantizer(kind, RowTransform.fit(sample, metric, seed, rotated=False), 1)
    transform = RowTransform.fit(sample, metric, seed)
    if kind == "pq":
        return PqQuantizer.fit(transform, transform.apply(sample)[0], seed)
    return UniformQuantizer(kind, transform, BITS[kind])


def restore_quantizer(
    kind: str, metric: str, mean: Float32s, signs: npt.NDArray[np.int8], codebook: Float32s
) -> Quantizer:
    """The quantizer whose parameters were stored; nothing is computed again."""
    transform = RowTransform(metric, mean, signs)
    if kind == "f32":
        return Float32Quantizer(transform)
    if kind == "pq":
        return PqQuantizer(transform, codebook)
    return UniformQuantizer(kind, transform, 1 if kind == "binary" else BITS[kind])


class PreparedQuery:
    """A query ready to be scored against codes of one quantizer.

    Parameters
    ----------
    quantizer : Quantizer
    query : (dim,) float32
        As given by the user, finite.
    """

    def __init__(self, quantizer: Quantizer, query: Float32s) -> None:
        self._scheme = quantizer.scheme
        work, digits, table = query_room(quantizer)
        metric = METRICS[quantizer.transform.metric]
        self._query: Query = prepare_query(
            query, metric, quantizer.scheme, kernel_transform(quantizer), work, digits, table
        )

    def score(self, codes: Bytes2D, factors: Float32s, vectors: Float32s | None = None) -> Float32s:
        """Estimated scores (n,) float32, higher is nearer, up to what is the same for every row of one query.

        codes (n, row_bytes) uint8; factors (n, 2) float32; vectors (n, dim) float32, for the kind f32 only.
        """
        if vectors is None:
            vectors = np.zeros((1, 1), np.float32)
        estimates = np.empty(len(factors), np.float32)
        rows = np.arange(len(factors), dtype=np.int64)
        score_rows(Codes(self._scheme, codes, factors, vectors), self._query, rows, len(rows), estimates)
        return estimates


def kernel_transform(quantizer: Quantizer) -> Transform:
    """The quantizer's parameters as kernels take them."""
    transform = quantizer.transform
    return Transform(transform.mean, transform.signs, np.float32(quantizer.center), quantizer.codebook)


def query_room(quantizer: Quantizer) -> tuple[Float32s, npt.NDArray[np.int8], Float32s]:
    """Arrays for one prepared query: work (dim,), digits (padded dimensions,) and lookup table."""
    dim = quantizer.transform.dim
    packed = quantizer.scheme in BITS.values()
    digits = aligned_zeros((quantizer.row_bytes * 8 // quantizer.scheme if packed else 1,), np.int8)
    return np.zeros(dim, np.float32), digits, np.zeros(max(quantizer.codebook.shape[0] * 256, 1), np.float32)
