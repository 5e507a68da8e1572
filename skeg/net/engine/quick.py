"""Quick searches that are asked for again and again, each with its reply in RESP by one call of a kernel.

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

KNOWN_MAX = 64
"""Searches that are remembered. Each takes some KiB, so that connections don't hold on to them."""

QuickKey = tuple[Plan, int]
"""A quick plan, and a version of RESP."""


class QuickSearch:
    """A quick search and all that its kernel writes to; for one thread.

    Parameters
    ----------
    plan : Plan
        A quick one.
    version : {2, 3}
        Of RESP.
    """

    def __init__(self, plan: Plan, version: int) -> None:
        k, query = plan.k, np.empty(plan.target.dim, np.float32)
        self._index = plan.target.fragments[0]
        self._how = (k, plan.list_size)
        self._query, self._query_bytes = query, query.data.cast("B")
        scores, out = np.empty(k, np.float32), np.empty(HEAD_BYTES_MAX + HIT_BYTES_MAX * k, np.uint8)
        self._rest = (np.empty(k, np.uint64), scores, scores.view(np.uint32), version, out)
        self._out = out.data
        self._call: Any = self._first_call

    def _first_call(self, *args: Any) -> Any:
        self._call = resolve(search_and_write, args)
        return self._call(*args)

    def answer(self, query: bytes) -> bytes | None:
        """The reply to a query, float32; None if it takes more than a walk in a graph, or an error to tell of."""
        self._query_bytes[:] = query
        end = call_search(self._index, self._call, self._query, *self._how, self._rest)
        return None if end is None or end < 0 else self._out[:end].tobytes()


class QuickSearches:
    """Quick searches by what they have in common; used on the thread of the loop alone."""

    def __init__(self) -> None:
        self._known: dict[QuickKey, QuickSearch] = {}

    def get(self, key: QuickKey) -> QuickSearch:
        """The search of a plan in a version; made if it is not remembered."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[key] = QuickSearch(*key)
        return known
