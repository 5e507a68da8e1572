"""The rows of a flat index in memory: stored vectors that can be added and replaced, and the codes made from them."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.arrays import aligned_zeros
from skeg.ann.exact import NO_ROWS, checked_norms, id_ranks
from skeg.ann.kernels.scan import Sketches, sketch_rows
from skeg.ann.kernels.score import SCHEME_PQ
from skeg.ann.kernels.simd_scan import GROUP
from skeg.ann.parallel import spans
from skeg.ann.params import ROWS_MAX
from skeg.ann.quantizers import Bytes2D, Quantizer, encode_rows, factors_of, fit_quantizer, sample_rows
from skeg.ann.transform import Float32s
from skeg.checks import RESERVED_ID, as_ids, check_unique_ids
from skeg.errors import VectorError

ROWS_A_BLOCK = 2048
"""Rows encoded at a time: a few megabytes."""

UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]


@attrs.frozen(eq=False)
class FlatRows:
    """Everything a search reads, in arrays that nobody writes any more, by row.

    ids (n,) uint64; vectors (n, dim) float32 with norms (n,) float32; codes (n, row_bytes) uint8 with factors (n, 2)
    float32: no codes where the sketches hold all of them (1 bit a dimension), neither for f32; groups (n_groups, bytes)
    uint8 and group_factors (n_groups, 2, 16) float32: see `skeg.ann.kernels.scan.Sketches`, no groups for f32 and pq.
    ranks and by_rank uint32 (n,): place of each row by id and its inverse, both empty if ids ascend by row.
    """

    quantizer: Quantizer
    ids: UInt64s
    vectors: Float32s
    norms: Float32s
    codes: Bytes2D
    factors: Float32s
    groups: Bytes2D
    group_factors: Float32s
    ranks: UInt32s = NO_ROWS
    by_rank: UInt32s = NO_ROWS


def group_bytes(quantizer: Quantizer) -> int:
    """Bytes of a group of sketches: 64 for every 32 dimensions."""
    return -(-quantizer.transform.dim // 32) * 64


def has_sketches(quantizer: Quantizer) -> bool:
    """Whether rows of a kind have sketches."""
    return quantizer.kind not in {"f32", "pq"}


def has_codes(quantizer: Quantizer) -> bool:
    """Whether rows of a kind have codes beside their sketches."""
    return quantizer.scheme in {2, 4, 8, SCHEME_PQ}


def encode_block(
    quantizer: Quantizer, vectors: Float32s, first_row: int, groups: Bytes2D, group_factors: Float32s
) -> tuple[Bytes2D, Float32s]:
    """Codes and factors of some rows; their sketches are written into the groups at ``first_row``."""
    codes, scales, squares = encode_rows(quantizer, vectors)
    factors = factors_of(scales, squares, quantizer.transform.metric)
    if has_sketches(quantizer):
        sketches = Sketches(groups, group_factors)
        sketch_rows(codes, factors, quantizer.scheme, quantizer.transform.dim, first_row, sketches)
    return codes if has_codes(quantizer) else codes[:0], factors


class _Column:
    """An array that grows at its end; its room is doubled, so adding a row costs the same however many there are."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._room = aligned_zeros((0, *shape), dtype)

    def first(self, n: int) -> npt.NDArray[Any]:
        """The first n rows, writable, zero where never written; earlier results may be another array afterwards."""
        if n > len(self._room):
            room = aligned_zeros((max(n, 2 * len(self._room)), *self._room.shape[1:]), self._room.dtype)
            room[: len(self._room)] = self._room
            self._room = room
        return self._room[:n]


class RowStore:
    """Rows that can be added; codes follow when somebody searches.

    Parameters
    ----------
    dim : int
    metric, kind : str
    seed : int
        Decides the rotation and the sample that the quantizer is fitted on.
    """

    def __init__(self, dim: int, metric: str, kind: str, seed: int) -> None:
        self._dim, self._metric, self._kind, self._seed = dim, metric, kind, seed
        self._vectors = _Column((dim,), np.float32)
        self._norms = _Column((), np.float32)
        self._ids = _Column((), np.uint64)
        self._rows: dict[int, int] = {}
        self._stale: set[int] = set()
        self._encoded = 0
        self._quantizer: Quantizer | None = None
        self._columns: tuple[_Column, ...] = ()
        self._settled: FlatRows | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def row_of(self, vector_id: int) -> int | None:
        """Row of an id, None if there is none."""
        return self._rows.get(vector_id)

    def vectors(self) -> Float32s:
        """Stored vectors (n, dim)."""
        return self._vectors.first(len(self))

    def add(self, ids: Any, vectors: Float32s, *, replace: bool) -> None:
        """Add vectors (m, dim) float32; all of them or, when something is wrong, none.

        Raises
        ------
        VectorError
            A vector that can't be used, ids that repeat, or an id that is present when ``replace`` is False.
        """
        norms = checked_norms(vectors, self._metric)
        with self._lock:
            wanted = self._wanted_ids(ids, len(vectors))
            numbers = wanted.tolist()
            old = {i: row for i, number in enumerate(numbers) if (row := self._rows.get(number)) is not None}
            if old and not replace:
                i = next(iter(old))
                raise VectorError("ids", expected="ids that are not in the index", found=f"id {numbers[i]}", row=i)
            new = np.array([i for i in range(len(numbers)) if i not in old], np.int64)
            n = len(self._rows)
            if n + len(new) > ROWS_MAX:
                raise VectorError("vectors", expected=f"at most {ROWS_MAX} rows", found=f"{n + len(new)}")
            self._settled = None
            rows = np.empty(len(numbers), np.int64)
            rows[new] = np.arange(n, n + len(new))
            rows[list(old)] = list(old.values())
            for column, values in ((self._vectors, vectors), (self._norms, norms), (self._ids, wanted)):
                column.first(n + len(new))[rows] = values
            self._stale.update(row for row in old.values() if row < self._encoded)
            self._rows.update(zip(numbers, rows.tolist(), strict=True))

    def _wanted_ids(self, ids: Any, n: int) -> UInt64s:
        if ids is not None:
            wanted = as_ids(ids, n)
            check_unique_ids(wanted)
            return wanted
        first = int(self._ids.first(len(self)).max()) + 1 if self._rows else 0
        if first + n > RESERVED_ID:
            raise VectorError("ids", expected="room after the largest id", found=f"id {first - 1}, {n} vectors to add")
        return np.arange(first, first + n, dtype=np.uint64)

    def settle(self) -> FlatRows:
        """Encode what was added since the last call; gives what a search reads."""
        settled = self._settled
        if settled is not None:
            return settled
        with self._lock:
            if self._settled is None:
                self._settled = self._encode()
            return self._settled

    def _encode(self) -> FlatRows:
        n = len(self)
        quantizer = self._quantizer
        if quantizer is None:
            quantizer = self._fit(n)
            shapes = ((quantizer.row_bytes,), np.uint8), ((2,), np.float32), ((group_bytes(quantizer),), np.uint8)
            self._columns = (*(_Column(*shape) for shape in shapes), _Column((2, GROUP), np.float32))
            self._quantizer = quantizer if n > 0 else None
        n_groups = -(-n // GROUP) if has_sketches(quantizer) else 0
        wanted = (n if has_codes(quantizer) else 0, n, n_groups, n_groups)
        codes, factors, groups, group_factors = (c.first(m) for c, m in zip(self._columns, wanted, strict=True))
        vectors, ids = self._vectors.first(n), self._ids.first(n)
        fresh = [
            (self._encoded + start, self._encoded + stop) for start, stop in spans(n - self._encoded, ROWS_A_BLOCK)
        ]
        for start, stop in [*((row, row + 1) for row in sorted(self._stale)), *fresh]:
            block, factors[start:stop] = encode_block(quantizer, vectors[start:stop], start, groups, group_factors)
            codes[start : start + len(block)] = block
        self._stale.clear()
        self._encoded = n
        norms = self._norms.first(n)
        return FlatRows(quantizer, ids, vectors, norms, codes, factors, groups, group_factors, *id_ranks(ids))

    def _fit(self, n: int) -> Quantizer:
        rows = sample_rows(n, self._vectors.first(n).shape[1], self._seed)
        return fit_quantizer(self._kind, self._vectors.first(n)[rows], self._metric, self._seed)
