"""Reachability, repair, packing and ordering of a finished graph: serial sweeps over the links."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.pool import Bounds, row_of
from skeg.ann.kernels.prune import UNBOUNDED, row_query, square_distance
from skeg.ann.kernels.walk import begin_at, nearest_entry, walk
from skeg.jit import kernel


@kernel()
def reach(links: Any, starts: Any, ends: Any, source: Any, reached: Any, queue: Any) -> Any:
    """Mark (1) every row that can be reached from ``source``; gives how many were newly marked.

    links uint32, starts and ends as in `skeg.ann.kernels.walk.Graph`; reached uint8 (n,); queue uint32 (n,) receives
    the newly marked rows in breadth-first order. Twin: ``reference.reach``.
    """
    if reached[source]:
        return np.int64(0)
    reached[source] = np.uint8(1)
    queue[0] = np.uint32(source)
    size = np.int64(1)
    head = np.int64(0)
    while head < size:
        row = np.int64(queue[head])
        head += 1
        for j in range(np.int64(starts[row]), np.int64(ends[row])):
            neighbor = links[j]
            if not reached[neighbor]:
                reached[neighbor] = np.uint8(1)
                queue[size] = neighbor
                size += 1
    return size


@kernel()
def _slot_for(graph: Any, row: Any, slots: Any, max_degree: Any, rows: Any, protected: Any) -> Any:
    """Place in ``graph.links`` for one more edge of a row: a free one, else its farthest unprotected edge's, or -1."""
    start = np.int64(graph.starts[row])
    end = np.int64(graph.ends[row])
    if end - start < max_degree:
        graph.ends[row] += np.uint32(1)
        return end
    place: Any = np.int64(-1)
    farthest = np.float32(-1)
    for j in range(start, end):
        if not protected[j]:
            distance = square_distance(rows, np.int64(graph.links[j]), np.int64(row))
            if distance > farthest:
                farthest = distance
                place = j
    return place


@kernel()
def _nearest_reached(
    graph: Any, slots: Any, max_degree: Any, rows: Any, lost: Any, size: Any, pool: Any, reached: Any, protected: Any
) -> Any:
    """Place for the edge to a lost row: at the nearest reached row of the pool, else of all rows, that has one."""
    for i in range(size):
        near = row_of(pool[i])
        if reached[near]:
            place = _slot_for(graph, near, slots, max_degree, rows, protected)
            if place >= 0:
                return place
    while True:
        best = np.int64(-1)
        least = np.float32(np.inf)
        for row in range(reached.shape[0]):
            if reached[row] == np.uint8(1):
                distance = square_distance(rows, np.int64(row), lost)
                if distance < least:
                    least = distance
                    best = np.int64(row)
        place = _slot_for(graph, best, slots, max_degree, rows, protected)
        if place >= 0:
            return place
        reached[best] = np.uint8(2)


@kernel()
def attach_rows(
    lost: Any,
    graph: Any,
    slots: Any,
    max_degree: Any,
    codes: Any,
    entries: Any,
    rows: Any,
    settings: Any,
    scratch: Any,
    digits: Any,
    reached: Any,
    queue: Any,
    protected: Any,
) -> None:
    """Give each row of ``lost`` that is still unreached an incoming edge from a reached row near it.

    protected uint8, as long as the links, marks the edges made here: a later one never replaces them, so that repeated
    rounds end. The other arguments are those of `choose_neighbors` and `reach`.
    """
    n_entries = entries.rows.shape[0]
    for i in range(lost.shape[0]):
        row = np.int64(lost[i])
        if reached[row]:
            continue
        query = row_query(rows, codes, row, settings[0], digits)
        start, nearness = nearest_entry(n_entries, entries, query)
        bounds = Bounds(settings[1], settings[1], 1, UNBOUNDED, UNBOUNDED)
        size = walk(graph, codes, query, bounds, scratch, begin_at(start, nearness, scratch))
        place = _nearest_reached(graph, slots, max_degree, rows, row, size, scratch.pool, reached, protected)
        graph.links[place] = np.uint32(row)
        protected[place] = np.uint8(1)
        reach(graph.links, graph.starts, graph.ends, row, reached, queue)


@kernel()
def pack_lists(links: Any, starts: Any, ends: Any, order: Any, new_row: Any, offsets: Any, packed: Any) -> None:
    """Renumber the rows and pack their neighbor lists without gaps.

    order uint32 (n,): the old row of each new one; new_row uint32 (n,): its inverse; offsets uint32 (n + 1,) and packed
    uint32 (n_links,) are written. The order within a list stays.
    """
    total = np.int64(0)
    for i in range(order.shape[0]):
        offsets[i] = np.uint32(total)
        row = order[i]
        for j in range(np.int64(starts[row]), np.int64(ends[row])):
            packed[total] = new_row[links[j]]
            total += 1
    offsets[order.shape[0]] = np.uint32(total)


@kernel()
def check_lists(links: Any, offsets: Any, max_degree: Any, degrees: Any) -> Any:
    """First row whose list can't be: out of order, too long, naming a row that is not there, itself or one twice.

    degrees int64 (max_degree + 1,) receives how many rows have each degree. Gives -1 when every list is in order.
    """
    n = offsets.shape[0] - 1
    if np.int64(offsets[0]) != 0 or np.int64(offsets[n]) != links.shape[0]:
        return np.int64(0)
    for row in range(n):
        start = np.int64(offsets[row])
        end = np.int64(offsets[row + 1])
        if end < start or end > links.shape[0] or end - start > max_degree:
            return np.int64(row)
        for j in range(start, end):
            if np.int64(links[j]) >= n or np.int64(links[j]) == row:
                return np.int64(row)
            for other in range(start, j):
                if links[other] == links[j]:
                    return np.int64(row)
        degrees[end - start] += 1
    return np.int64(-1)
