"""Quick searches that are asked for again and again, each with its reply by one call of a kernel.

For one query on the thread of the loop: of the 12 us that a search takes there when its index is in the caches, a call
of `VectorIndex.search` and the encoding of its hits, 4 are not the kernels' (117,659 x 384, k 10).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.fused import call_search
from skeg.jit import resolve
from skeg.net.engine.searches import Plan
from skeg.net.kernels.answer import search_and_write
from skeg.net.kernels.hits import HEAD_BYTES_MAX, HIT_BYTES_MAX

ROOMS_MAX = 64
"""Rooms that are kept; each takes some KiB."""

RoomKey = tuple[int, int, int]
"""Dimension, k, form of the reply: version of RESP, or `skeg.net.kernels.answer.BINARY`."""


class Room:
    """All that the kernel reads and writes beside the index; for one thread.

    It knows no index: one that was dropped would stay in memory with it.

    Parameters
    ----------
    dim, k, form : int
        As of `RoomKey`.
    """

    def __init__(self, dim: int, k: int, form: int) -> None:
        query, scores = np.empty(dim, np.float32), np.empty(k, np.float32)
        out = np.empty(HEAD_BYTES_MAX + HIT_BYTES_MAX * k, np.uint8)
        self._query, self._query_bytes = query, query.data.cast("B")
        self._rest = (np.empty(k, np.uint64), scores, scores.view(np.uint32), form, out)
        self._out = out.data
        self._call: Any = self._first_call

    def _first_call(self, *args: Any) -> Any:
        self._call = resolve(search_and_write, args)
        return self._call(*args)

    def answer(self, plan: Plan, query: bytes) -> bytes | None:
        """The reply to a float32 query of a quick plan; None if it takes more than a walk in a graph, or an error."""
        self._query_bytes[:] = query
        end = call_search(plan.target.fragments[0], self._call, self._query, plan.k, plan.list_size, self._rest)
        return None if end is None or end < 0 else self._out[:end].tobytes()


class Rooms:
    """Rooms by what they are for; used on the thread of the loop alone."""

    def __init__(self) -> None:
        self._known: dict[RoomKey, Room] = {}

    def get(self, key: RoomKey) -> Room:
        """A room, made if there is none."""
        room = self._known.get(key)
        if room is None:
            if len(self._known) >= ROOMS_MAX:
                self._known.clear()
            room = self._known[key] = Room(*key)
        return room
