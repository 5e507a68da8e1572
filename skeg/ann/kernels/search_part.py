"""The entry points of a search in one part of an index that changes: some rows admitted, hits of older parts known."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.admit import (
    Admission,
    Aim,
    begin_among,
    is_admitted,
    scan_rows,
    scan_run,
    sweep_admitted,
    walk_admitted,
)
from skeg.ann.kernels.bundle import Bundle, take_i8, take_table, take_u1_1, take_u4
from skeg.ann.kernels.cells import begin_in_cells
from skeg.ann.kernels.pool import Bounds, row_of
from skeg.ann.kernels.prepare import COSINE, IP, prepare_query, square_sum
from skeg.ann.kernels.rerank import rerank
from skeg.ann.kernels.search import (
    GRAPH_DAMAGED,
    MARGIN_RANK,
    OK,
    judge_query,
    open_index,
    open_space,
    rerank_depth,
    scaled,
)
from skeg.ann.kernels.walk import DAMAGED, next_epoch, walk
from skeg.jit import kernel

# Ways to look for the nearest admitted rows.
SCAN_LIST = 0
SCAN_RUN = 1
WALK = 2
WALK_MOST = 3
"""Where few rows are not admitted: walk as if all were, and leave those out at the end."""


def bundle_admission(alive: Any, wanted: Any, usable: Any, rows: Any) -> Bundle:
    """What `search_part` may return: see `Admission`; rows uint32 are those that `SCAN_LIST` scores."""
    return Bundle(alive, wanted, usable, rows)


def bundle_rooms(found: Any, bridges: Any) -> Bundle:
    """What `search_part` works in beside the space of a search; found has room for one key more than are kept."""
    return Bundle(found, bridges)


@kernel(fastmath=True)
def _product(x: Any, y: Any) -> Any:
    total = np.float32(0)
    for j in range(x.shape[0]):
        total += x[j] * y[j]
    return total


@kernel(inline=True)
def _floor_distance(scores: Any, known: Any, metric: Any, norm: Any, work: Any, raw: Any, mean: Any) -> Any:
    """Distance, as estimates count it, of the last of the hits known; -inf unless they are enough to count from.

    Estimates are those of centered rows: under cosine and inner product less by the product of query and mean.
    """
    k = scores.shape[0]
    if known < k or k < MARGIN_RANK:
        return np.float32(-np.inf)
    score = scores[k - 1]
    if metric == COSINE:
        return _product(raw, mean) - score * norm
    if metric == IP:
        return _product(raw, mean) - score
    return np.float32(-0.5) * (square_sum(work) + score)


@kernel()
def _walk_most(index: Any, query: Any, bounds: Any, admission: Any, aim: Any, scratch: Any, found: Any) -> Any:
    """Fill ``found`` by an ordinary walk; gives how many keys it holds, or `DAMAGED`."""
    graph, codes, centroids, cells = index
    size = begin_in_cells(cells, centroids, codes, query, bounds, scratch)
    if size != DAMAGED:
        size = walk(graph, codes, query, bounds, scratch, size)
    if size == DAMAGED:
        return np.int64(DAMAGED)
    n_found: Any = np.int64(0)
    for i in range(size):
        if n_found < aim.keys and is_admitted(admission, row_of(scratch.pool[i])):
            found[n_found] = scratch.pool[i]
            n_found += 1
    return n_found


@kernel()
def _look(index: Any, query: Any, n_expand: Any, plan: Any, admission: Any, aim: Any, scratch: Any, rooms: Any) -> Any:
    """Fill ``found`` the way that the plan says; gives how many keys it holds, or `DAMAGED`."""
    graph, codes, centroids, cells = index
    mode, hops, first, stop, n_entries = plan
    found, bridges, rows = rooms
    none = np.int64(0)
    if mode == SCAN_LIST:
        scratch.counters[0] += rows.shape[0]
        return scan_rows(codes, query, rows, admission, aim, found, none)
    if mode == SCAN_RUN:
        scratch.counters[0] += stop - first
        return scan_run(codes, query, first, stop, admission, aim, scratch, found, none)
    walking = (np.int64(n_expand), hops, found)
    if n_entries == 0:
        state = begin_among(cells, centroids, codes, query, admission, aim, scratch, walking)
        if state[0] == DAMAGED:
            return np.int64(DAMAGED)
    else:
        # The rows first to stop - 1 lead nowhere: they are read, and not walked by.
        n_found = scan_run(codes, query, first, stop, admission, aim, scratch, found, none)
        scratch.counters[0] += stop - first
        epoch = next_epoch(scratch)
        for row in range(first, stop):
            scratch.tags[row] = epoch
        state = sweep_admitted(codes, query, none, n_entries, admission, aim, scratch, walking, (none, n_found))
    return walk_admitted(graph, codes, query, n_expand, admission, aim, scratch, bridges, walking, state)


@kernel()
def search_part(
    raw: Any, settings: Any, plan: Any, index: Any, space: Any, rooms: Any, admitted: Any, known: Any, ids: Any,
    scores: Any,
) -> Any:  # fmt: skip
    """Search one part for one query; gives (status, hits, rows scored, rows expanded, rows re-ranked).

    settings as in `search_one`; plan = (mode, hops, first, stop, entries):
    `SCAN_LIST` scores the rows of ``admitted``, `SCAN_RUN` the rows first to stop - 1, and `WALK` walks, from the
    nearest cells or, with so many entries, from the first rows, having scored the rows first to stop - 1, which are
    not in the graph. `WALK_MOST` counts margins from so many rows further on as ``hops`` says. index, space, rooms
    and admitted are tables of a `Bundle`. The first ``known`` of ids (k,) uint64 and scores (k,) float32 are hits of
    older parts.
    """
    metric, scheme, root, capacity, n_expand, margin, slack, depth = settings
    zero = np.int64(0)
    status, norm, unit = judge_query(raw, metric)
    if status != OK:
        return status, zero, zero, zero, zero
    graph, rows, centroids, cells, transform, row_ids = open_index(index, scheme, root)
    scratch, work, digits, table = open_space(space)
    scratch.counters[:] = 0
    query = prepare_query(raw, metric, scheme, transform, work, digits, table)
    k = ids.shape[0]
    floor = _floor_distance(scores, known, metric, norm, work, raw, transform.mean)
    rank = np.int64(max(k, MARGIN_RANK))
    first = rank if floor == np.float32(-np.inf) else np.int64(1)
    aim = Aim(np.int64(depth), first, scaled(margin, unit), scaled(slack, unit), floor)
    admission = Admission(take_u1_1(admitted, 0), take_u1_1(admitted, 1), take_u1_1(admitted, 2))
    found = take_i8(rooms, 0)
    part = (graph, rows, centroids, cells)
    if plan[0] == WALK_MOST:
        bounds = Bounds(capacity, n_expand, rank + plan[1], aim.margin, aim.slack)
        n_found = _walk_most(part, query, bounds, admission, aim, scratch, found)
    else:
        n_found = _look(
            part, query, n_expand, plan, admission, aim, scratch, (found, take_i8(rooms, 1), take_u4(admitted, 3))
        )
    if n_found == DAMAGED:
        return GRAPH_DAMAGED, zero, zero, zero, zero
    count = rerank_depth(found, n_found, np.int64(k), depth, aim.slack)
    hits = rerank(rows.vectors, row_ids, found, count, raw, norm, metric, known, (ids, scores))
    return OK, hits, scratch.counters[0], scratch.counters[1], count


@kernel()
def search_parts(
    raw: Any, n_parts: Any, numbers: Any, plans: Any, tables: Any, known: Any, ids: Any, scores: Any
) -> Any:  # fmt: skip
    """`search_part` for one part after another, oldest first; gives the same, with sums of what it cost.

    numbers float64 (n, 8) and plans int64 (n, 5) have settings and plan of each part, tables int64 (4 * n, 4) the
    tables of its index, space, rooms and what is admitted; the first n_parts are searched. What took the place of a row
    that was just met comes in a newer part.
    """
    scored = expanded = reranked = np.int64(0)
    hits = np.int64(known)
    for part in range(n_parts):
        n = numbers[part]
        settings = (
            np.int64(n[0]), np.int64(n[1]), np.int64(n[2]), np.int64(n[3]), np.int64(n[4]), n[5], n[6], np.int64(n[7]),
        )  # fmt: skip
        plan = (plans[part, 0], plans[part, 1], plans[part, 2], plans[part, 3], plans[part, 4])
        first = np.int64(4 * part)
        index, space = take_table(tables, first), take_table(tables, first + 1)
        rooms, admitted = take_table(tables, first + 2), take_table(tables, first + 3)
        status, hits, a, b, c = search_part(raw, settings, plan, index, space, rooms, admitted, hits, ids, scores)
        if status != OK:
            return status, np.int64(0), scored, expanded, reranked
        scored += a
        expanded += b
        reranked += c
    return OK, hits, scored, expanded, reranked


@kernel()
def search_part_many(
    queries: Any, span: Any, settings: Any, plan: Any, index: Any, space: Any, rooms: Any, admitted: Any, costs: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Search for ``queries[span[0]:span[1]]``; gives (status, query it stopped at).

    costs and out as in `skeg.ann.kernels.search.search_many`; out[2] says how many hits are known before.
    """
    for i in range(span[0], span[1]):
        status, hits, scored, expanded, reranked = search_part(
            queries[i], settings, plan, index, space, rooms, admitted, out[2][i], out[0][i], out[1][i]
        )
        if status != OK:
            return status, i
        out[2][i] = hits
        costs[0] += scored
        costs[1] += expanded
        costs[2] += reranked
    return OK, span[1]
