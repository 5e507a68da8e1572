"""Best-first walk over a proximity graph, steered by codes.

GreedySearch of DiskANN (Subramanya et al., NeurIPS 2019, algorithm 1) with a bounded sorted pool. A search starts from
the cells nearest to the query (`skeg.ann.kernels.cells`), construction, before there are cells, from the nearest of a
table of entry rows, scored in one sequential sweep (`nearest_entry`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.pool import bar_of, join, key_within, pack, row_of
from skeg.ann.kernels.score import PREFETCH_AHEAD, ask_for, estimate_of, lines_of, product_of
from skeg.ann.kernels.simd import prefetch_row
from skeg.jit import kernel

DAMAGED = -1
"""Result of a walk that met a neighbor list or a neighbor that can't exist."""


class Graph(NamedTuple):
    """Neighbor lists: links uint32, flat; the neighbors of row u are ``links[starts[u]:ends[u]]``."""

    links: Any
    starts: Any
    ends: Any


class Entries(NamedTuple):
    """Rows that walks of a construction may start from: rows uint32, and their codes (`Codes`)."""

    rows: Any
    codes: Any


class Scratch(NamedTuple):
    """One thread's work space, never shared.

    pool int64, at least the capacity + 1; tags uint8 (n,) with epoch uint8 (1,): rows seen by the walk under way;
    todo int64, at least the longest neighbor list and 4; expanded int64: rows in the order of their expansion, as many
    as fit; counters int64 (4,): rows scored, rows expanded, a spare one, and how many rows ``expanded``
    holds; keys int64, products int32 and estimates float32: for runs of rows and of centroids.
    """

    pool: Any
    tags: Any
    epoch: Any
    todo: Any
    expanded: Any
    counters: Any
    keys: Any
    products: Any
    estimates: Any


@kernel(inline=True)
def next_epoch(scratch: Any) -> Any:
    """Forget which rows were seen: a new tag value, and a sweep over the tags once in 255 walks."""
    if scratch.epoch[0] == np.uint8(255):
        scratch.tags[:] = np.uint8(0)
        scratch.epoch[0] = np.uint8(0)
    scratch.epoch[0] = np.uint8(scratch.epoch[0] + np.uint8(1))
    return scratch.epoch[0]


@kernel()
def nearest_entry(n_entries: Any, entries: Any, query: Any) -> Any:
    """Best of the first ``n_entries`` entries by estimate; gives (its row, its estimate). Twin: argmax."""
    scheme, packed, factors, vectors = entries.codes
    digits, table, step, bias, weight = query
    best = np.int64(0)
    nearest = np.float32(-np.inf)
    for i in range(n_entries):
        product = product_of(scheme, packed, vectors, digits, table, np.int64(i))
        estimate = estimate_of(product, factors, i, step, bias, weight)
        if estimate > nearest:
            nearest = estimate
            best = np.int64(i)
    return np.int64(entries.rows[best]), nearest


@kernel(inline=True)
def _gather_unseen(graph: Any, row: Any, scratch: Any, epoch: Any) -> Any:
    """Collect the neighbors of a row not seen yet and mark them; gives their number, or `DAMAGED`.

    Every neighbor is written and the write position moves only past unseen ones: a branch here would be a coin toss.
    """
    n = scratch.tags.shape[0]
    start = np.int64(graph.starts[row])
    end = np.int64(graph.ends[row])
    if end < start or end - start > scratch.todo.shape[0] or end > graph.links.shape[0]:
        return DAMAGED
    count: Any = 0
    for j in range(start, end):
        neighbor = np.int64(graph.links[j])
        if neighbor >= n:
            return DAMAGED
        scratch.todo[count] = neighbor
        count += np.int64(scratch.tags[neighbor] != epoch)
        scratch.tags[neighbor] = epoch
    return count


@kernel(inline=True)
def begin_at(row: Any, nearness: Any, scratch: Any) -> Any:
    """Begin a walk at one row, of estimate ``nearness``; gives the pool's size."""
    scratch.tags[row] = next_epoch(scratch)
    scratch.pool[0] = pack(-nearness, row)
    return 1


@kernel()
def walk(graph: Any, codes: Any, query: Any, bounds: Any, scratch: Any, size: Any) -> Any:
    """Walk on from what is in the pool, ``size`` keys, until nothing worth expanding is left in it.

    bounds as in `skeg.ann.kernels.pool.Bounds`: the pool keeps the nearest ``capacity`` rows met; of these the first
    ``n_expand`` are expanded, but only rows whose distance is within ``margin`` of the k-th in the pool. With a finite
    margin a walk is as long as its query is hard: the adaptive beam search of Al-Jazzazi et al. (NeurIPS 2025), with a
    difference in place of a ratio, applied also to what enters the pool.

    Gives the pool's size, or `DAMAGED`. ``scratch.pool`` then holds the keys (distance = -estimate) of the rows kept,
    nearest first, ``scratch.expanded`` the rows expanded and ``scratch.counters`` what it cost. Each hop gathers the
    unseen neighbors, scores them with prefetch and inserts those that are near enough; the links of the next row in
    line are prefetched before that.

    Requires a walk begun by `begin_at` or `skeg.ann.kernels.cells.begin_in_cells`. Twin: ``reference.walk``.
    """
    _, n_expand, k, margin, _ = bounds
    pool = scratch.pool
    epoch = scratch.epoch[0]
    cursor = np.int64(0)
    n_expanded = 0
    scheme, packed, factors, vectors = codes
    digits, table, step, bias, weight = query
    todo = scratch.todo
    n_lines = lines_of(scheme, packed, vectors)
    bar = bar_of(pool, size, bounds)
    while cursor < min(size, n_expand):
        key = pool[cursor]
        if key & np.int64(1):
            cursor += 1
            continue
        if key > key_within(pool, size, k, margin):
            break
        pool[cursor] = key | np.int64(1)
        row = row_of(key)
        if n_expanded < scratch.expanded.shape[0]:
            scratch.expanded[n_expanded] = row
        n_expanded += 1
        cursor += 1
        if cursor < size:
            prefetch_row(graph.links, np.int64(graph.starts[row_of(pool[cursor])]), 3)
        count = _gather_unseen(graph, row, scratch, epoch)
        if count < 0:
            return DAMAGED
        scratch.counters[0] += count
        for i in range(min(count, PREFETCH_AHEAD)):
            ask_for(scheme, packed, factors, vectors, todo[i], n_lines)
        for i in range(count):
            # Inserting here, and not after all are scored, hides the arrival of the next rows' codes behind it.
            if i + PREFETCH_AHEAD < count:
                ask_for(scheme, packed, factors, vectors, todo[i + PREFETCH_AHEAD], n_lines)
            product = product_of(scheme, packed, vectors, digits, table, todo[i])
            key = pack(-estimate_of(product, factors, todo[i], step, bias, weight), todo[i])
            if key < bar:
                size, bar, place = join(pool, size, bounds, key)
                cursor = min(cursor, place)
    scratch.counters[1] += n_expanded
    scratch.counters[3] = min(n_expanded, scratch.expanded.shape[0])
    return size
