"""The result of a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.metric import distances_of

MISSING_ID = 2**64 - 1
"""Id that pads a row with fewer than k hits; its score is -inf. No stored vector can have it."""


@attrs.define(eq=False)
class Hits:
    """Hits of one query, arrays (k,), or of n queries, arrays (n, k); unpacks as ``ids, scores``."""

    # Read through properties: a frozen class would be as safe, but its constructor takes longer by a quarter of a
    # microsecond, which is a part of what a quick search takes.
    _ids: npt.NDArray[np.uint64]
    _scores: npt.NDArray[np.float32]
    _metric: str
    _cost: tuple[int, int, int, int] = (0, 0, 0, 0)
    _plan: tuple[str, str] | None = None
    payloads: list[Any] | None = None
    """Payload of each hit, None where there is none, if they were asked for; a list of such lists for n queries."""

    @property
    def ids(self) -> npt.NDArray[np.uint64]:
        """Best first, equal scores by ascending id.

        One query gets only as many as there are; in the two-dimensional form short rows are padded with `MISSING_ID`.
        """
        return self._ids

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Exact, from the stored float32 vectors; higher is nearer; padding is -inf.

        Cosine similarity, inner product, or minus the squared distance.
        """
        return self._scores

    @property
    def metric(self) -> str:
        """Metric of the scores."""
        return self._metric

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        yield self.ids
        yield self.scores

    def __len__(self) -> int:
        """Number of hits of one query, or number of queries."""
        return len(self.ids)

    def first(self) -> Hits:
        """Hits of the first of n queries, cut to what was found."""
        count = int(self.counts[0])
        payloads = None if self.payloads is None else self.payloads[0]
        return Hits(self.ids[0, :count], self.scores[0, :count], self.metric, self._cost, self._plan, payloads)

    def within(self, radius: float) -> Hits:
        """The hits of n queries whose score is at least this, in as many columns as any query has.

        Parameters
        ----------
        radius : float
            Least score.
        """
        inside = self.scores >= np.float32(radius)
        width = int(inside.sum(axis=1).max(initial=0))
        ids = np.where(inside, self.ids, np.uint64(MISSING_ID))[:, :width]
        scores = np.where(inside, self.scores, np.float32(-np.inf))[:, :width]
        return Hits(ids, scores, self.metric, self._cost, self._plan)

    @property
    def counts(self) -> Any:
        """How many hits each query has: an int, or int64 (n,)."""
        if self.ids.ndim == 1:
            return len(self.ids)
        return (self.ids != np.uint64(MISSING_ID)).sum(axis=1, dtype=np.int64)

    @property
    def distances(self) -> npt.NDArray[np.float32]:
        """Lower is nearer: 1 - cosine, 1 - inner product, or the squared distance; padding is +inf."""
        return distances_of(self.scores, self.metric)

    @property
    def stats(self) -> dict[str, Any]:
        """What the search cost, summed over its queries.

        ``scored``: rows estimated from codes; ``expanded``: rows whose neighbors were read; ``reranked``: rows scored
        exactly; ``list_size``: of the walk. With a filter also ``plan``, how the rows that match were searched, and
        ``why``.
        """
        costs: dict[str, Any] = dict(zip(("scored", "expanded", "reranked", "list_size"), self._cost, strict=True))
        if self._plan is not None:
            costs["plan"], costs["why"] = self._plan
        return costs


def merge_hits(parts: Sequence[Hits], k: int | None) -> Hits:
    """Hits of the same queries in several parts of an index, none of which holds an id of another, as those of all.

    Parameters
    ----------
    parts : sequence of Hits
        All of one query, or all of the same number of queries; all with payloads or none.
    k : int or None
        Hits wanted; None for all, as within a radius.

    Returns
    -------
    Hits
        Costs are sums; the plan is that of the first part.
    """
    is_single = parts[0].ids.ndim == 1
    ids = np.concatenate([np.atleast_2d(part.ids) for part in parts], axis=1)
    scores = np.concatenate([np.atleast_2d(part.scores) for part in parts], axis=1)
    order = np.lexsort((ids, -scores))
    width = int((ids != np.uint64(MISSING_ID)).sum(axis=1).max(initial=0)) if k is None else k
    order = order[:, :width]
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    costs = [part._cost for part in parts]  # noqa: SLF001 - of this module
    cost = (sum(c[0] for c in costs), sum(c[1] for c in costs), sum(c[2] for c in costs), max(c[3] for c in costs))
    merged = Hits(ids, scores, parts[0].metric, cost, parts[0]._plan)  # noqa: SLF001
    if parts[0].payloads is not None:
        merged.payloads = _merged_payloads(parts, ids, is_single=is_single)
    return merged.first() if is_single else merged


def _merged_payloads(parts: Sequence[Hits], ids: npt.NDArray[np.uint64], *, is_single: bool) -> list[list[Any]]:
    """Payloads of the hits of n queries, for each those of its ids (n, k) in order."""
    found: list[list[Any]] = []
    for row, wanted in enumerate(ids):
        by_id: dict[int, Any] = {}
        for part in parts:
            payloads = part.payloads or []
            mine = part.ids if is_single else part.ids[row]
            by_id.update(zip(mine.tolist(), payloads if is_single else payloads[row], strict=False))
        found.append([by_id[i] for i in wanted[wanted != np.uint64(MISSING_ID)].tolist()])
    return found
