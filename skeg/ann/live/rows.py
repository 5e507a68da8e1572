"""Rows that were added since the last segment was written, in memory, searchable as soon as they are there.

A new row stands in the *tail*, which every search reads from one end to the other. Now and then the tail is linked
into a graph, by the insertion of the build (FreshDiskANN, Singh et al., 2021, section 4), and begins anew. One thread
appends, one links, any number search: rows and links are written before the numbers that lead to them, and a list that
is being rewritten names rows that exist all the while.

Searches go by 4-bit codes, half of what 8-bit codes make them read; building the graph takes 8 bits, which the thread
that links sees to.
"""

from __future__ import annotations

import math
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
from skeg.ann.kernels.walk import Graph
from skeg.ann.metric import metric_number
from skeg.ann.parallel import Workers
from skeg.ann.params import GraphParams
from skeg.ann.quantizers import UniformQuantizer, factor_columns, kernel_transform
from skeg.ann.transform import Float32s, RowTransform
from skeg.ann.vamana import BuildRows, GraphBuilder, slots_for

LINK_ROWS = 256
"""Rows of the tail that are linked at a time; rows of one batch don't see each other."""

CODE_ERROR = 0.012
"""Squared error of what 4-bit codes say of a row, as a share of its squared norm (tests measure it)."""

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
    code_error : float
        Standard deviation of the estimates of the longest row for a query of norm 1, infinite under l2.
    run : int
        Centroids that a search compares with: none.
    """

    run = 0

    def __init__(self, transform: RowTransform, params: GraphParams, capacity: int) -> None:
        metric, dim = transform.metric, transform.dim
        self.quantizer = UniformQuantizer("tq4", transform, 4)
        self.capacity = capacity
        self.count = self.linked = self.n_dead = 0
        # Under l2 it grows with how far a query is from the rows, which may be any distance.
        self.code_error = math.inf if transform.metric == "l2" else 0.0
        self.ids: Ids = np.zeros(capacity, np.uint64)
        self.vectors: Float32s = np.zeros((capacity, dim), np.float32)
        self.alive = np.zeros(capacity, np.uint8)
        self.payloads: list[bytes] = []
        self.columns = GrowingColumns()
        self.longest = slots_for(params.max_degree)
        self.n_entries = params.entries_for(capacity)
        self._metric = metric
        self._row_of: dict[int, int] = {}
        self._largest = np.float32(0)
        self._codes = aligned_zeros((capacity, self.quantizer.row_bytes), np.uint8)
        self._factors = np.zeros((capacity, factor_columns(metric)), np.float32)
        self._graph = GrowingGraph(transform, params, capacity)
        self.bundle = self._bundled()

    def _bundled(self) -> Bundle:
        """What kernels search in; there are no cells."""
        none = Codes(4, self._codes[:0], self._factors[:0], self.vectors[:0])
        rows = Codes(4, self._codes, self._factors, self.vectors)
        cells = Cells(np.zeros(1, np.uint32), np.zeros(1, np.uint32), 0)
        return bundle_index(self._graph.graph, rows, none, cells, kernel_transform(self.quantizer), self.ids)

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
        a_row = sum(array.nbytes // self.capacity for array in (self.ids, self.vectors, self._codes, self._factors))
        return self.count * (a_row + 128) + self.linked * self._graph.row_bytes + sum(map(len, self.payloads))

    def encode(self, vectors: Float32s, first_row: int = 0) -> Encoded:
        """Codes of vectors (n, dim) float32; `VectorError` for one that can't be, rows counted from ``first_row``."""
        return Encoded(*self.quantizer.encode_stored(vectors, first_row))

    def append(self, ids: Ids, vectors: Float32s, encoded: Encoded, payloads: Sequence[bytes]) -> None:
        """Add rows, which are not more than there is room for; those of the same ids are gone then.

        ids (n,) uint64, each once; vectors (n, dim) float32 and what `encode` made of them; payloads: of each row, or
        empty.
        """
        start, stop = self.count, self.count + len(ids)
        here = slice(start, stop)
        codes, scales, squares = encoded
        self._codes[here] = codes
        self._factors[here, 0] = scales
        if self._metric == "l2":
            self._factors[here, 1] = squares * np.float32(-0.5)
        self._heed(np.maximum.reduce(squares, initial=0))
        self.ids[here], self.vectors[here] = ids, vectors
        self.alive[here] = 1
        self.payloads += payloads or [b""] * len(ids)
        for row, payload in enumerate(payloads, start):
            if payload:
                self.columns.append(row, fields_of(decode_payload(payload)))
        self.count = stop
        row_of = self._row_of
        for row, vector_id in enumerate(ids.tolist(), start):
            before = row_of.get(vector_id)
            if before is not None:
                self._bury(before)
            row_of[vector_id] = row

    def _heed(self, square: np.float32) -> None:
        """See to the error of the codes of rows of up to this squared norm."""
        if square > self._largest:
            self._largest = square
            if self._metric != "l2":
                self.code_error = math.sqrt(CODE_ERROR * float(square) / self.quantizer.transform.dim)

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
            end = min(stop, max(self.linked, 1) + min(max(self.linked, 1), LINK_ROWS))
            self._graph.extend(self.vectors[:end], self.linked)
            self.linked = end


class GrowingGraph:
    """The graph of rows in memory, and the 8-bit codes that it is built by, for up to ``capacity`` rows."""

    def __init__(self, transform: RowTransform, params: GraphParams, capacity: int) -> None:
        self._quantizer = UniformQuantizer("int8", transform, 8)
        self._metric = transform.metric
        self._norms = np.zeros(capacity, np.float32)
        self._ceiling = np.float32(0)
        self._near = np.zeros((capacity, 2), np.float32)
        codes = aligned_zeros((capacity, self._quantizer.row_bytes), np.uint8)
        scales, squares, tails = (np.zeros(capacity, np.float32) for _ in range(3))
        self._rows = Rows(codes, scales, np.zeros(capacity, np.int32), squares, tails)
        steering = Codes(8, codes, self._near, np.zeros((1, 1), np.float32))
        build = BuildRows(steering, self._rows, metric_number(self._metric))
        order = np.arange(capacity, dtype=np.uint32)
        self._workers = Workers(1)
        self._builder = GraphBuilder(build, params, order, self._workers, largest=LINK_ROWS)
        self.row_bytes = sum(array.nbytes // capacity for array in (self._near, *self._rows))
        self.row_bytes += 4 * slots_for(params.max_degree)

    @property
    def graph(self) -> Graph:
        """Neighbor lists, which kernels may walk by while rows are inserted."""
        return self._builder.graph

    def extend(self, vectors: Float32s, start: int) -> None:
        """Insert rows of vectors (n, dim) from ``start`` on, at most as many as there are already, and `LINK_ROWS`."""
        stop = len(vectors)
        codes, scales, norms = self._quantizer.encode_stored(vectors[start:], start)
        here, rows = slice(start, stop), self._rows
        rows.codes[here], rows.scales[here] = codes, scales
        rows.sums[here] = codes.sum(axis=1, dtype=np.int32) - np.int32(128 * self._quantizer.row_bytes)
        self._norms[here] = norms
        self._near[here, 0] = scales
        self._place(start, stop)
        first = max(start, 1)  # the row that the graph begins with
        if first < stop:
            self._builder.insert(first, stop)
            self._builder.connect(stop)

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
