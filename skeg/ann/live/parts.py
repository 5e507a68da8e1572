"""The parts of an index: a segment of which rows may be dead, or rows in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skeg.ann.filters.growing import GrowingColumns
from skeg.ann.kernels.lookup import find_rows
from skeg.ann.live.rows import LiveRows
from skeg.ann.searcher import GraphSearcher

Ids = npt.NDArray[np.uint64]


class SegmentPart:
    """A segment of which rows may be dead.

    Attributes
    ----------
    ids, vectors, alive : ndarray
        By row; alive uint8 is 0 for a row that was deleted or replaced.
    count, linked, n_dead : int
        Rows there are, those of the graph, which are all, and those that are not alive.
    columns : FieldColumns
        What filters look at.
    """

    def __init__(self, searcher: GraphSearcher) -> None:
        segment = searcher.open_segment()
        self.searcher = searcher
        self.ids: Ids = segment.ids
        self.vectors = segment.vectors
        self.count = self.linked = len(segment.ids)
        self.alive = np.ones(self.count, np.uint8)
        self.n_dead = 0
        self.bundle = searcher.open_bundle()
        self.quantizer = segment.quantizer
        self.longest = searcher.max_degree
        self.run = len(segment.regions) + len(segment.cells)
        self.fields = segment.fields
        self.columns = segment.fields if segment.fields is not None else GrowingColumns()

    @property
    def n_alive(self) -> int:
        """Rows that are not dead."""
        return self.count - self.n_dead

    def rows_of(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Row of each id (n,), -1 if it is not here or dead."""
        segment = self.searcher.open_segment()
        rows = np.empty(len(ids), np.int64)
        if find_rows(segment.ids, segment.id_order, ids, rows):
            rows[self.alive[rows] == 0] = -1  # row -1 is the last one; if that is dead, -1 stays -1
        return rows

    def row_of(self, vector_id: int) -> int:
        """Row of an id, -1 if it is not here or dead."""
        return int(self.rows_of(np.array([vector_id], np.uint64))[0])

    def payload(self, row: int) -> bytes:
        """Encoded payload of a row, empty if it has none."""
        return b"" if self.fields is None else self.fields.payload(row)

    def remove(self, ids: Ids) -> None:
        """Mark the rows of those ids (n,) that are here as dead."""
        rows = self.rows_of(ids)
        rows = rows[rows >= 0]
        if len(rows):
            self.alive[rows] = 0
            self.n_dead += len(rows)


Part = SegmentPart | LiveRows
"""A part of an index: rows with ids and vectors, of which some are alive."""
