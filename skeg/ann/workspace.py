"""What one search needs beside the index: its numbers, its work space, and its query brought into range."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.quantizers import query_room
from skeg.ann.segment import GraphSegment


@attrs.frozen
class Settings:
    """The numbers of a call as `search_one` takes them, the list size they came from, and the pool they need."""

    numbers: tuple[int, int, int, int, np.float32]
    list_size: int
    pool_size: int


class Scratch:
    """Work space of one search at a time, as `search_one` takes it.

    The pool grows with the list size and the re-rank depth asked for.
    """

    def __init__(self, segment: GraphSegment, max_degree: int) -> None:
        self._fixed = (
            np.zeros(len(segment.ids), np.uint8),
            np.zeros(1, np.uint8),
            np.zeros(max_degree, np.int64),
            np.zeros(0, np.int64),
            np.zeros(4, np.int64),
            *query_room(segment.quantizer),
        )
        self._list_size = 0
        self.arrays: tuple[npt.NDArray[Any], ...] = ()

    def grow(self, list_size: int) -> None:
        """Make room for a pool of this size."""
        if list_size > self._list_size:
            self._list_size = list_size
            self.arrays = (np.zeros(list_size + 1, np.int64), *self._fixed)


def rescaled(queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Queries (n, dim) times powers of two that bring their largest values near 1, which cosines don't notice.

    None if no query is changed by that: zero and infinite ones are not.
    """
    largest = np.abs(queries).max(axis=1, initial=0)
    exponents = np.frexp(np.where(np.isfinite(largest), largest, 0))[1]
    return np.ldexp(queries, -exponents[:, None]) if exponents.any() else None
