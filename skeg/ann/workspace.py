"""What one search needs beside the index and its numbers: work space, and its query brought into range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.admit import SCAN_ROWS
from skeg.ann.kernels.cells import CELLS, ROWS_A_CELL
from skeg.ann.kernels.search import bundle_space
from skeg.ann.kernels.search_part import bundle_rooms
from skeg.ann.kernels.walk import Scratch
from skeg.ann.quantizers import Quantizer, query_room
from skeg.ann.segment import GraphSegment

TWO_HOP_ROWS = 4096
"""Rows that one step of a walk by two hops scores at most."""


class Space:
    """Work space of one search at a time, as `search_one` takes it: ``table``, for pools of up to ``capacity`` keys."""

    def __init__(self, segment: GraphSegment, max_degree: int) -> None:
        run = max(len(segment.regions) + len(segment.cells), ROWS_A_CELL)
        self._query = query_room(segment.quantizer)
        self._scratch = _scratch(len(segment.ids), max(max_degree, CELLS), run)
        self.grow(0)

    def grow(self, capacity: int) -> None:
        """Make room for a pool of this capacity."""
        self.capacity = capacity
        self._bundle = bundle_space(self._scratch._replace(pool=np.zeros(capacity + 1, np.int64)), *self._query)
        self.table = self._bundle.table


def _scratch(n: int, todo: int, run: int) -> Scratch:
    """Scratch for n rows, lists of ``todo`` rows and runs of ``run``, as yet without a pool."""
    return Scratch(
        pool=np.zeros(0, np.int64),
        tags=np.zeros(n, np.uint8),
        epoch=np.zeros(1, np.uint8),
        todo=np.zeros(todo, np.int64),
        expanded=np.zeros(0, np.int64),
        counters=np.zeros(4, np.int64),
        keys=np.zeros(run, np.int64),
        products=np.zeros(run, np.int32),
        estimates=np.zeros(run, np.float32),
    )


def rescaled(queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Queries (n, dim) times powers of two that bring their largest values near 1, which cosines don't notice.

    None if no query is changed by that: zero and infinite ones are not.
    """
    largest = np.abs(queries).max(axis=1, initial=0)
    exponents = np.frexp(np.where(np.isfinite(largest), largest, 0))[1]
    return np.ldexp(queries, -exponents[:, None]) if exponents.any() else None


class PartSpace:
    """Work space of one search at a time in a part of an index that changes, as `search_part` takes it.

    Parameters
    ----------
    quantizer : Quantizer
    n : int
        Rows that the part may have.
    run : int
        Centroids of regions and cells.
    longest : int
        Neighbors of a row at most.
    """

    def __init__(self, quantizer: Quantizer, n: int, run: int, longest: int) -> None:
        run = max(run, ROWS_A_CELL, SCAN_ROWS)
        self._query = query_room(quantizer)
        self._scratch = _scratch(n, max(longest, TWO_HOP_ROWS), run)
        self._bridges = np.zeros(longest, np.int64)
        self._room = (-1, -1)

    def fit(self, n_expand: int, depth: int) -> bool:
        """Make room for a walk by so many rows and so many found; whether the tables are new ones."""
        moved = n_expand > self._room[0] or depth > self._room[1]
        if moved:
            self._room = (max(n_expand, self._room[0]), max(depth, self._room[1]))
            pool, found = (np.zeros(size + 1, np.int64) for size in self._room)
            self._bundle = bundle_space(self._scratch._replace(pool=pool), *self._query)
            self._rooms = bundle_rooms(found, self._bridges)
            self.table, self.rooms = self._bundle.table, self._rooms.table
        return moved
