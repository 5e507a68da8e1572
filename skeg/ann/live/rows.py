"""Rows that were added since the last segment was written, in memory, searchable as soon as they are there.

A new row stands in the *tail*, which every search reads from one end to the other. Now and then the tail is linked
into a graph, by the insertion of the build (FreshDiskANN, Singh et al., 2021, section 4), and begins anew. One thread
appends, one links, any number search: rows and links are written before the numbers that lead to them, and a list that
is being rewritten names rows that exist all the while.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skeg.ann.arrays import aligned_zeros
from skeg.ann.filters.growing import GrowingColumns
from skeg.ann.filters.payload import decode_payload, fields_of
from skeg.ann.kernels.bundle import Bundle
from skeg.ann.kernels.cells import Cells
from skeg.ann.kernels.prune import Rows
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.search import bundle_index
from skeg.ann.metric import metric_number
from skeg.ann.parallel import Workers
from skeg.ann.params import GraphParams
from skeg.ann.quantizers import UniformQuantizer, factor_columns, factors_of, kernel_transform
from skeg.ann.transform import Float32s, RowTransform
from skeg.ann.vamana import BuildRows, GraphBuilder, slots_for

LINK_ROWS = 256
"""Rows of the tail that are linked at a time; rows of one batch don't see each other."""

HEADROOM = 1.5
"""How far above the largest squared norm the sphere of inner products is raised, so that it need not be often."""

Ids = npt.NDArray[np.uint64]


class Encoded(NamedTuple):
    """Codes (n, row_bytes) uint8, scales (n,) and squared norms (n,) float32 of rows to be added."""

    codes: npt.NDArray[np.uint8]
    scales: Float32s
    squares: Float32s


class LiveRows:
    """Vectors with ids, codes, payloads and a graph, up to ``capacity`` of them; memory is used as rows come.

    Parameters
    ----------
    transform : RowTransform
        Of the segment that these rows will be merged into.
    params : GraphParams
    capacity : int

    Attributes
    ----------
    ids, vectors, alive : ndarray
        By row; of rows from ``count`` on they say nothing. alive uint8 is 0 for a row that was deleted or replaced.
    count : int
        Rows there are.
    linked : int
        Rows of the graph; the tail is what follows.
    n_dead : int
        Rows that are not alive.
    run : int
        Centroids that a search compares with: none.
    """

    run = 0

    def __init__(self, transform: RowTransform, params: GraphParams, capacity: int) -> None:
        metric, dim = transform.metric, transform.dim
        self.quantizer = UniformQuantizer("int8", transform, 8)
        self.capacity = capacity
        self.count = self.linked = self.n_dead = 0
        self.ids: Ids = np.zeros(capacity, np.uint64)
        self.vectors: Float32s = np.zeros((capacity, dim), np.float32)
        self.alive = np.zeros(capacity, np.uint8)
        self.payloads: list[bytes] = []
        self.columns = GrowingColumns()
        self.longest = slots_for(params.max_degree)
        self._metric = metric
        self._row_of: dict[int, int] = {}
        self._norms = np.zeros(capacity, np.float32)
        self._ceiling = np.float32(0)
        codes = aligned_zeros((capacity, self.quantizer.row_bytes), np.uint8)
        self._factors = np.zeros((capacity, factor_columns(metric)), np.float32)
        self._near = np.zeros((capacity, 2), np.float32)
        scales, squares, tails = (np.zeros(capacity, np.float32) for _ in range(3))
        self._rows = Rows(codes, scales, np.zeros(capacity, np.int32), squares, tails)
        number = metric_number(metric)
        build = BuildRows(Codes(8, codes, self._near, np.zeros((1, 1), np.float32)), self._rows, number)
        order = np.arange(capacity, dtype=np.uint32)
        self._workers = Workers(1)
        self._builder = GraphBuilder(build, params, order, self._workers, largest=LINK_ROWS)
        self.n_entries = params.entries_for(capacity)
        self.bundle = self._bundled(codes)

    def _bundled(self, codes: npt.NDArray[np.uint8]) -> Bundle:
        """What kernels search in; there are no cells."""
        none = Codes(8, codes[:0], self._factors[:0], self.vectors[:0])
        rows = Codes(8, codes, self._factors, self.vectors)
        cells = Cells(np.zeros(1, np.uint32), np.zeros(1, np.uint32), 0)
        return bundle_index(self._builder.graph, rows, none, cells, kernel_transform(self.quantizer), self.ids)

    @property
    def n_alive(self) -> int:
        """Rows that are not deleted."""
        return self.count - self.n_dead

    @property
    def tail(self) -> int:
        """Rows that are not linked yet."""
        return self.count - self.linked

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        arrays = (self.ids, self.vectors, self._factors, self._near, *self._rows)
        a_row = sum(array.nbytes // self.capacity for array in arrays) + 4 * self.longest
        return self.count * (a_row + 128) + sum(map(len, self.payloads))

    def encode(self, vectors: Float32s, first_row: int = 0) -> Encoded:
        """Codes of vectors (n, dim) float32; `VectorError` for one that can't be, rows counted from ``first_row``."""
        turned, squares = self.quantizer.transform.apply(vectors, first_row)
        return Encoded(*self.quantizer.encode(turned, squares), squares)

    def append(self, ids: Ids, vectors: Float32s, encoded: Encoded, payloads: Sequence[bytes]) -> None:
        """Add rows, which are not more than there is room for; those of the same ids are gone then.

        ids (n,) uint64, each once; vectors (n, dim) float32 and what `encode` made of them; payloads: of each row, or
        empty.
        """
        start, stop = self.count, self.count + len(ids)
        here = slice(start, stop)
        codes, scales, squares = encoded
        rows = self._rows
        rows.codes[here], rows.scales[here] = codes, scales
        rows.sums[here] = codes.sum(axis=1, dtype=np.int32) - np.int32(128 * self.quantizer.row_bytes)
        self._factors[here] = factors_of(scales, squares, self._metric)[:, : self._factors.shape[1]]
        self._norms[here] = squares
        self._near[here, 0] = scales
        self._place(start, stop)
        self.ids[here], self.vectors[here] = ids, vectors
        self.alive[here] = 1
        for row, payload in enumerate(payloads or [b""] * len(ids), start):
            self.payloads.append(payload)
            if payload:
                self.columns.append(row, fields_of(decode_payload(payload)))
        self.count = stop
        for row, vector_id in enumerate(ids.tolist(), start):
            before = self._row_of.get(vector_id)
            if before is not None:
                self._bury(before)
            self._row_of[vector_id] = row

    def _place(self, start: int, stop: int) -> None:
        """Squares and tails of new rows: for inner products a place on a sphere that all rows fit in."""
        rows, norms = self._rows, self._norms
        if self._metric != "ip":
            rows.squares[start:stop] = norms[start:stop]
            self._near[start:stop, 1] = norms[start:stop] * np.float32(-0.5)
            return
        largest = norms[start:stop].max(initial=0)
        if largest > self._ceiling:
            self._ceiling = np.float32(min(largest * HEADROOM, np.finfo(np.float32).max))
            start = 0
        rows.squares[start:stop] = self._ceiling
        rows.tails[start:stop] = np.sqrt(np.maximum(self._ceiling - norms[start:stop], 0))
        self._near[start:stop, 1] = rows.tails[start:stop]

    def remove(self, ids: list[int]) -> None:
        """Delete the rows of those ids that are here."""
        for vector_id in ids:
            row = self._row_of.pop(vector_id, None)
            if row is not None:
                self._bury(row)

    def _bury(self, row: int) -> None:
        self.alive[row] = 0
        self.n_dead += 1

    def row_of(self, vector_id: int) -> int:
        """Row of an id, -1 if it is not here."""
        return self._row_of.get(vector_id, -1)

    def rows_of(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Row of each id (n,), -1 if it is not here."""
        row_of = self._row_of
        return np.fromiter((row_of.get(vector_id, -1) for vector_id in ids.tolist()), np.int64, len(ids))

    def payload(self, row: int) -> bytes:
        """Encoded payload of a row, empty if it has none."""
        return self.payloads[row]

    def link(self, stop: int) -> None:
        """Take the rows up to ``stop`` into the graph; one thread at a time."""
        while self.linked < stop:
            start = max(self.linked, 1)
            end = min(stop, start + min(start, LINK_ROWS))
            if start < end:
                self._builder.insert(start, end)
                self._builder.connect(end)
            self.linked = end
