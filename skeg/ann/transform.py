"""From stored vectors to the space in which codes are made: normalize (cosine), center, rotate."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.encode import ROW_OK, ROW_ZERO, turn_rows
from skeg.ann.kernels.prepare import SMALLEST_NORM
from skeg.ann.metric import METRICS
from skeg.errors import VectorError

ROUNDS = 4
"""Rounds of signs and Hadamard transform: enough to mix every coordinate with every other at any dimension."""

Float32s = npt.NDArray[np.float32]


@attrs.frozen(eq=False)
class RowTransform:
    """Normalize, center and rotate stored vectors.

    metric : name; mean : (dim,) float32, subtracted after normalizing; signs : (rounds, dim) int8, the random signs of
    `skeg.ann.kernels.rotate.rotate`, with no rounds for an identity.
    """

    metric: str
    mean: Float32s
    signs: npt.NDArray[np.int8]

    @classmethod
    def fit(cls, sample: Float32s, metric: str, seed: int, *, rotated: bool = True) -> RowTransform:
        """Center on the mean of a sample (m, dim) of stored vectors and draw the rotation from ``seed``.

        Inner product keeps its origin: there a mean would add to every score what depends on the query alone, but
        centered rows would no longer have the norms that the construction of a graph relies on.
        """
        dim = sample.shape[1]
        plain = cls(metric, np.zeros(dim, np.float32), np.zeros((0, dim), np.int8))
        mean = np.zeros(dim, np.float32)
        if metric != "ip" and len(sample) > 0:
            mean = plain.apply(sample)[0].mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls.rotating(mean, metric, seed) if rotated else cls(metric, mean, plain.signs)

    @classmethod
    def rotating(cls, mean: Float32s, metric: str, seed: int) -> RowTransform:
        """Center on a mean (dim,) that is known, and draw the rotation from ``seed``."""
        signs = np.random.default_rng(seed).integers(0, 2, (ROUNDS, len(mean)), np.int8)
        return cls(metric, mean, (2 * signs - 1).astype(np.int8))

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.mean.shape[0])

    def apply(self, vectors: Float32s, first_row: int = 0, what: str = "vectors") -> tuple[Float32s, Float32s]:
        """Turned vectors (n, dim) and their squared norms (n,) of stored vectors (n, dim) float32.

        Raises
        ------
        VectorError
            A vector is not finite, or zero under cosine; ``row`` counts from ``first_row``, and the message
            calls the vectors ``what``.
        """
        turned = np.empty(vectors.shape, np.float32)
        squares = np.empty(len(vectors), np.float32)
        status, row = turn_rows(vectors, METRICS[self.metric], self.mean, self.signs, turned, squares)
        if status != ROW_OK:
            raise bad_row(status == ROW_ZERO, vectors[row], first_row + row, what)
        return turned, squares


def bad_row(is_zero: bool, vector: Float32s, row: int, what: str = "vectors") -> VectorError:  # noqa: FBT001
    """The error for a vector that a kernel refused."""
    if is_zero:
        found = f"a norm below {SMALLEST_NORM:.0e}" if vector.any() else "all zeros"
        return VectorError(what, expected="a vector that is not zero (metric cosine)", found=found, row=row)
    finite = np.isfinite(vector)
    if finite.all():
        found = f"a norm over {np.finfo(np.float32).max ** 0.5:.1g}"
        return VectorError(what, expected="a norm whose square fits float32", found=found, row=row)
    column = int(np.flatnonzero(~finite)[0])
    return VectorError(what, expected="finite numbers", found=f"{vector[column]} at column {column}", row=row)
