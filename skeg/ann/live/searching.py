"""Searches of a view in all their forms: many queries, filters, exact scores, a radius, payloads with the hits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.exact import Rows, checked_norms, scan_vectors
from skeg.ann.filters.payload import decode_payload
from skeg.ann.hits import MISSING_ID, Hits
from skeg.ann.kernels.search import GRAPH_DAMAGED, OK, QUERY_ZERO
from skeg.ann.live.selection import as_filter
from skeg.ann.live.view import Chosen, View
from skeg.ann.parallel import shared_workers, spans
from skeg.ann.params import LIST_SIZE_MAX
from skeg.ann.searcher import QUERIES_A_CALL
from skeg.ann.settings import Settings
from skeg.ann.transform import Float32s, bad_row
from skeg.ann.workspace import rescaled
from skeg.checks import as_number, as_queries
from skeg.errors import CorruptError, VectorError

RADIUS_HITS = 64
"""Hits that a search within a radius asks for at first; four times as many as long as the last is within it."""


@attrs.frozen(kw_only=True)
class Question:
    """What is asked beside the queries.

    settings : Settings; filter : see `as_filter`, or None; radius : least score of a hit, or None; exact : whether to
    compare with every row; with_payload : whether hits carry their payloads; threads : int.
    """

    settings: Settings
    filter: Any = None
    radius: float | None = None
    exact: bool = False
    with_payload: bool = False
    threads: int = 1


def answer(view: View, q: Any, question: Question, all_ids: Callable[[], npt.NDArray[np.uint64]]) -> Hits:
    """Hits of one query (dim,) or many (n, dim) in any form; errors as `Index.search`."""
    queries, was_single = as_queries(q, view.dim, what="query")
    chosen = None
    while True:
        if question.filter is not None:
            chosen = view.select(as_filter(question.filter, all_ids))
        hits = _found(view, queries, question, chosen)
        if chosen is None or view.is_complete(chosen):
            break  # else rows came that may have taken the place of some that were selected
    if question.with_payload:
        hits.payloads = [payloads_of(view, ids, count) for ids, count in zip(hits.ids, hits.counts, strict=True)]
    return hits.first() if was_single else hits


def _found(view: View, queries: Float32s, question: Question, chosen: Chosen) -> Hits:
    try:
        return _search(view, queries, question, chosen)
    except VectorError:
        # Squares of very large or small numbers leave float32, yet under cosine such a query is as good as any.
        in_range = rescaled(queries) if view.metric == "cosine" else None
        if in_range is None:
            raise
        return _search(view, in_range, question, chosen)


def _search(view: View, queries: Float32s, question: Question, chosen: Chosen) -> Hits:
    if question.radius is None:
        return _nearest(view, queries, question, chosen)
    return _within(view, queries, question, chosen)


def _nearest(view: View, queries: Float32s, question: Question, chosen: Chosen) -> Hits:
    search = exact_hits if question.exact else nearest_hits
    return search(view, queries, question.settings, chosen, question.threads)


def hits_of_one(view: View, query: Float32s, settings: Settings) -> Hits | None:
    """Hits of one query (dim,), or None if there is anything to complain about."""
    if view.segment is not None and view.is_plain:
        return view.segment.searcher.search_one(query, settings)
    ids, scores = np.empty(settings.n_hits, np.uint64), np.empty(settings.n_hits, np.float32)
    status, count, *costs = view.search_one(query, settings, None, ids, scores)
    if status != OK or not count:
        return None
    return Hits(ids[:count], scores[:count], view.metric, (costs[0], costs[1], costs[2], settings.list_size))


def nearest_hits(view: View, queries: Float32s, settings: Settings, chosen: Chosen, threads: int) -> Hits:
    """Hits of queries (n, dim) float32; `VectorError` for one that can't be, `CorruptError` for a damaged graph."""
    if not len(view):
        checked_norms(queries, view.metric, what="query")
    n, k = len(queries), settings.n_hits
    out = (np.full((n, k), MISSING_ID, np.uint64), np.full((n, k), -np.inf, np.float32), np.zeros(n, np.int64))
    pieces = spans(n, QUERIES_A_CALL)
    costs = np.zeros((len(pieces), 3), np.int64)

    def work(piece: int, _worker: int) -> None:
        status, at = view.search_many(queries, pieces[piece], settings, chosen, costs[piece], out)
        if status != OK:
            raise failure(view, status, queries[at], at)

    shared_workers(min(threads, max(len(pieces), 1))).run(len(pieces), work)
    strategy = None if chosen is None else view.explain(settings, chosen)
    plan = ("none", "no row matches") if strategy is None else (strategy.name, strategy.why)
    cost = (*costs.sum(axis=0).tolist(), settings.list_size)
    return Hits(*out[:2], view.metric, cost, None if chosen is None else plan)


def exact_hits(view: View, queries: Float32s, settings: Settings, chosen: Chosen, threads: int) -> Hits:
    """Hits of queries (n, dim) float32 by comparing with every row."""
    wanted = [None] * len(view.parts) if chosen is None else [selection.wanted for selection in chosen]
    parts: list[Rows] = []
    for part, mask in zip(view.parts, wanted, strict=True):
        count = part.count
        alive = part.alive[:count].copy() if mask is None else part.alive[:count] & mask[:count]
        parts.append((part.vectors[:count], part.ids[:count], alive))
    _bury_repeats(parts, 0 if view.segment is None else 1)
    compared = sum(0 if mask is None else int(mask.sum()) for _, _, mask in parts)
    try:
        ids, scores, _ = scan_vectors(parts, queries, settings.n_hits, view.metric, threads)
    except VectorError as error:
        raise (error if view.segment is None else view.segment.searcher.not_in_range(error)) from error
    plan = None if chosen is None else ("exact", f"{compared:,} rows match")
    return Hits(ids, scores, view.metric, (0, 0, len(queries) * compared, 0), plan)


def _bury_repeats(parts: list[Rows], first_in_memory: int) -> None:
    """Of rows of one id, which there are while it is replaced, leave the newest alive; masks are written."""
    newer = np.zeros(0, np.uint64)
    for number, (_, ids, alive) in reversed(list(enumerate(parts))):
        assert alive is not None
        if number >= first_in_memory:
            rows = np.flatnonzero(alive)[::-1]
            newest, first = np.unique(ids[rows], return_index=True)
            alive[:] = 0
            alive[rows[first]] = 1
        if len(newer):
            alive[np.isin(ids, newer)] = 0
        if number >= first_in_memory:
            newer = np.union1d(newer, newest)


def _within(view: View, queries: Float32s, question: Question, chosen: Chosen) -> Hits:
    """All hits whose score is at least the radius."""
    radius = np.float32(as_number("radius", question.radius, -np.inf, np.inf))
    k = RADIUS_HITS
    most = min(view.n_wanted(chosen), LIST_SIZE_MAX)
    while True:
        k = max(min(k, most), 1)
        settings = view.settings.get(k, question.settings.search_list_size, question.settings.rerank)
        hits = _nearest(view, queries, attrs.evolve(question, settings=settings), chosen)
        if most in {0, k} or not len(queries) or (hits.scores[:, -1] < radius).all():
            break
        k *= 4
    return hits.within(float(radius))


def payloads_of(view: View, ids: npt.NDArray[np.uint64], count: int) -> list[Any]:
    """Payload of each of the first ``count`` ids; None for one that has none, or is gone by now."""
    found: list[Any] = []
    for vector_id in ids[:count].tolist():
        place = view.locate(vector_id)
        try:
            found.append(None if place is None else decode_payload(place[0].payload(place[1])))
        except ValueError as error:
            raise CorruptError(view.path, f"the payload of id {vector_id} can't be read ({error})") from error
    return found


def failure(view: View, status: int, query: Float32s, row: int) -> Exception:
    """The error for a status of a search other than OK."""
    if status == GRAPH_DAMAGED and view.segment is not None:
        return view.segment.searcher.failure(status, query, row)
    return bad_row(status == QUERY_ZERO, query, row, "query")
