"""Searching among some of the rows: those that are alive and that a filter wants.

Rows that may not be returned still lead to others. So a walk has two pools: the one it walks by, and ``found``, the
nearest admitted rows met, by which it knows when to stop. Where few rows are admitted it takes two hops at a time: a
neighbor that is not admitted is looked through, at its neighbors, and only admitted rows are scored (ACORN, Patel et
al., SIGMOD 2024, section 5). Where very few are, scoring all of them is quicker (`scan_rows`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.cells import ROWS_A_CELL, keys_of_run, nearest_cells
from skeg.ann.kernels.pool import PAST_EVERY_KEY, distance_of, insert, pack, row_of
from skeg.ann.kernels.score import PREFETCH_AHEAD, ask_for, estimate_of, lines_of, product_of, score_run
from skeg.ann.kernels.simd import prefetch_row
from skeg.ann.kernels.walk import DAMAGED, next_epoch
from skeg.jit import kernel

SCAN_ROWS = 256
"""Rows of a run that are scored before they are offered to the pools."""

SCAN_GROUP = 64
"""Rows of a run that are passed over together if none of them is near enough."""


class Admission(NamedTuple):
    """Which rows may be returned, uint8 (n,) each, 1 for yes; both have to agree.

    alive is changed by deletes while searches go on; wanted is what a filter left, or alive itself. usable uint8
    (n_regions + n_cells,): 1 for regions and cells that have a wanted row; empty if all have.
    """

    alive: Any
    wanted: Any
    usable: Any


class Aim(NamedTuple):
    """When a walk has found enough.

    keys: room in ``found``; k, margin and slack as in `skeg.ann.kernels.pool.Bounds`, but counted in admitted rows;
    floor float32: distance of the last hit of the parts searched before, -inf if there are not enough: nothing farther
    than it matters.
    """

    keys: Any
    k: Any
    margin: Any
    slack: Any
    floor: Any


@kernel(inline=True)
def is_admitted(admission: Any, row: Any) -> Any:
    """Whether a row may be returned."""
    return admission.alive[row] & admission.wanted[row]


@kernel(inline=True)
def _last_within(found: Any, n_found: Any, aim: Any, reach: Any) -> Any:
    """The largest key of the distance ``reach`` behind the k-th admitted row, or behind the floor if it is farther."""
    if n_found < aim.k or reach == np.float32(np.inf):
        return PAST_EVERY_KEY
    return pack(max(distance_of(found[aim.k - 1]), aim.floor) + reach, 0) | np.int64(0xFFFFFFFF)


@kernel(inline=True)
def last_worth_expanding(found: Any, n_found: Any, aim: Any) -> Any:
    """The largest key that is worth expanding."""
    return _last_within(found, n_found, aim, aim.margin)


@kernel(inline=True)
def note(found: Any, n_found: Any, aim: Any, key: Any) -> Any:
    """Keep the key of an admitted row if it is near enough; gives how many are kept."""
    last = _last_within(found, n_found, aim, aim.slack)
    if key > last or (n_found == aim.keys and key >= found[n_found - 1]):
        return n_found
    insert(found, n_found, aim.keys, key)
    n_found = min(n_found + 1, aim.keys)
    last = _last_within(found, n_found, aim, aim.slack)
    while found[n_found - 1] > last:
        n_found -= 1
    return n_found


@kernel(inline=True)
def _bar(found: Any, n_found: Any, aim: Any) -> Any:
    """No key from this one on is worth noting: it is behind the floor by more than the slack, or there is no room."""
    bar = found[n_found - 1] if n_found == aim.keys else PAST_EVERY_KEY
    if aim.floor == np.float32(-np.inf) or aim.slack == np.float32(np.inf):
        return bar
    return min(bar, (pack(aim.floor + aim.slack, 0) | np.int64(0xFFFFFFFF)) + np.int64(1))


@kernel(inline=True)
def _join(pool: Any, size: Any, capacity: Any, key: Any) -> Any:
    """Insert a key into the pool that a walk goes by; gives (size, the key's place)."""
    if size == capacity and key >= pool[size - 1]:
        return size, size
    return min(size + 1, capacity), insert(pool, size, capacity, key)


@kernel()
def scan_rows(codes: Any, query: Any, rows: Any, admission: Any, aim: Any, found: Any, n_found: Any) -> Any:
    """Score rows (uint32) by their codes and keep the nearest admitted ones; gives how many ``found`` holds.

    Nothing is kept that is behind the floor by more than the slack.
    Twin: ``reference.scanned_admitted``.
    """
    scheme, packed, factors, vectors = codes
    digits, table, step, bias, weight = query
    n_lines = lines_of(scheme, packed, vectors)
    count = rows.shape[0]
    bar = _bar(found, n_found, aim)
    for i in range(min(count, PREFETCH_AHEAD)):
        ask_for(scheme, packed, factors, vectors, np.int64(rows[i]), n_lines)
    for i in range(count):
        if i + PREFETCH_AHEAD < count:
            ask_for(scheme, packed, factors, vectors, np.int64(rows[i + PREFETCH_AHEAD]), n_lines)
        row = np.int64(rows[i])
        product = product_of(scheme, packed, vectors, digits, table, row)
        key = pack(-estimate_of(product, factors, row, step, bias, weight), row)
        if key < bar and is_admitted(admission, row):
            n_found = note(found, n_found, aim, key)
            bar = _bar(found, n_found, aim)
    return n_found


@kernel(inline=True)
def _is_any_near(estimates: Any, first: Any, stop: Any, bar: Any) -> Any:
    """Whether any of ``estimates[first:stop]`` may be before the bar; without a branch, so many at a time."""
    least = np.float32(-np.inf) if bar == PAST_EVERY_KEY else -distance_of(bar)
    count = np.int32(0)
    for i in range(first, stop):
        count += np.int32(estimates[i] >= least)
    return count > np.int32(0)


@kernel()
def scan_run(
    codes: Any, query: Any, first: Any, stop: Any, admission: Any, aim: Any, scratch: Any, found: Any, n_found: Any
) -> Any:
    """`scan_rows` for the rows first to stop - 1, which lie side by side."""
    products, estimates = scratch.products, scratch.estimates
    bar = _bar(found, n_found, aim)
    at: Any = np.int64(first)
    while at < stop:
        count: Any = min(np.int64(stop) - at, np.int64(SCAN_ROWS))
        score_run(codes, query, at, count, products, estimates)
        for group in range(0, count, SCAN_GROUP):
            end = min(count, group + SCAN_GROUP)
            if not _is_any_near(estimates, group, end, bar):
                continue
            for i in range(group, end):
                key = pack(-estimates[i], at + i)
                if key < bar and is_admitted(admission, at + i):
                    n_found = note(found, n_found, aim, key)
                    bar = _bar(found, n_found, aim)
        at += count
    return n_found


@kernel()
def sweep_admitted(
    codes: Any, query: Any, first: Any, stop: Any, admission: Any, aim: Any, scratch: Any, walking: Any, state: Any
) -> Any:
    """Offer the rows first to stop - 1 to both pools and mark them as seen; gives the state.

    walking = (capacity of the pool walked by, hops, found); state = (keys in the pool, keys in found). With two hops
    only admitted rows are walked by.
    """
    capacity, hops, found = walking
    size, n_found = state
    keys = scratch.keys
    epoch = scratch.epoch[0]
    at: Any = np.int64(first)
    while at < stop:
        count: Any = min(np.int64(stop) - at, np.int64(SCAN_ROWS))
        keys_of_run(codes, query, at, count, (scratch.products, scratch.estimates), keys)
        for i in range(count):
            if scratch.tags[at + i] == epoch:
                continue
            scratch.tags[at + i] = epoch
            admitted = is_admitted(admission, at + i)
            if admitted:
                n_found = note(found, n_found, aim, keys[i])
            if admitted or hops == 1:
                size, _ = _join(scratch.pool, size, capacity, keys[i])
        scratch.counters[0] += count
        at += count
    return size, n_found


@kernel()
def begin_among(
    cells: Any, centroids: Any, codes: Any, query: Any, admission: Any, aim: Any, scratch: Any, walking: Any
) -> Any:
    """Begin a walk in the nearest cells that have wanted rows; gives the state, whose first number may be `DAMAGED`.

    As `skeg.ann.kernels.cells.begin_in_cells`; walking and the state as in `sweep_admitted`.
    """
    near = scratch.todo
    work = (scratch.products, scratch.estimates)
    n_near = nearest_cells(cells, centroids, query, admission.usable, work, scratch.keys, near)
    damaged = (np.int64(DAMAGED), np.int64(0))
    if n_near == DAMAGED:
        return damaged
    n = np.int64(scratch.tags.shape[0])
    next_epoch(scratch)
    state = (np.int64(0), np.int64(0))
    for i in range(n_near):
        first: Any = np.int64(cells.cells[near[i]])
        stop: Any = np.int64(cells.cells[near[i] + 1])
        if stop < first or stop > n:
            return damaged
        stop = min(stop, first + np.int64(ROWS_A_CELL))
        state = sweep_admitted(codes, query, first, stop, admission, aim, scratch, walking, state)
    root: Any = np.int64(cells.root)
    return sweep_admitted(codes, query, root, root + 1, admission, aim, scratch, walking, state)


@kernel(inline=True)
def _gather(graph: Any, row: Any, scratch: Any, admission: Any, hops: Any, bridges: Any) -> Any:
    """Collect unseen neighbors of a row, with two hops the admitted ones among them and among the neighbors of others.

    Gives their number, or `DAMAGED`. A row seen through a neighbor and not admitted is not marked: it may yet be a
    neighbor through which to look.
    """
    n = scratch.tags.shape[0]
    epoch = scratch.epoch[0]
    n_links = graph.links.shape[0]
    start = np.int64(graph.starts[row])
    end = np.int64(graph.ends[row])
    if end < start or end - start > bridges.shape[0] or end > n_links:
        return DAMAGED
    count: Any = 0
    n_bridges: Any = 0
    for j in range(start, end):
        neighbor = np.int64(graph.links[j])
        if neighbor >= n:
            return DAMAGED
        if scratch.tags[neighbor] == epoch:
            continue
        scratch.tags[neighbor] = epoch
        if hops == 1 or is_admitted(admission, neighbor):
            scratch.todo[count] = neighbor
            count += 1
        else:
            bridges[n_bridges] = neighbor
            n_bridges += 1
            prefetch_row(graph.links, np.int64(graph.starts[neighbor]), 3)
    for b in range(n_bridges):
        start = np.int64(graph.starts[bridges[b]])
        end = np.int64(graph.ends[bridges[b]])
        if end < start or end - start > bridges.shape[0] or end > n_links:
            return DAMAGED
        for j in range(start, end):
            neighbor = np.int64(graph.links[j])
            if neighbor >= n:
                return DAMAGED
            if is_admitted(admission, neighbor) and scratch.tags[neighbor] != epoch:
                if count == scratch.todo.shape[0]:
                    return count
                scratch.tags[neighbor] = epoch
                scratch.todo[count] = neighbor
                count += 1
    return count


@kernel()
def walk_admitted(
    graph: Any,
    codes: Any,
    query: Any,
    n_expand: Any,
    admission: Any,
    aim: Any,
    scratch: Any,
    bridges: Any,
    walking: Any,
    state: Any,
) -> Any:
    """Walk on from a state until nothing worth expanding is left; gives how many keys found holds, or `DAMAGED`.

    Expands at most the first ``n_expand`` rows of the pool, and none farther behind the k-th admitted row than the
    margin. bridges int64, as long as the longest neighbor list, is overwritten; scratch.todo takes what one expansion
    scores. walking and state as in `sweep_admitted`. Twin: ``reference.walk_admitted``.
    """
    capacity, hops, found = walking
    size: Any = state[0]
    n_found: Any = state[1]
    pool, todo = scratch.pool, scratch.todo
    scheme, packed, factors, vectors = codes
    digits, table, step, bias, weight = query
    n_lines = lines_of(scheme, packed, vectors)
    cursor = np.int64(0)
    last = last_worth_expanding(found, n_found, aim)
    while cursor < min(size, n_expand):
        key = pool[cursor]
        if key & np.int64(1):
            cursor += 1
            continue
        if key > last:
            break
        pool[cursor] = key | np.int64(1)
        cursor += 1
        scratch.counters[1] += 1
        if cursor < size:
            prefetch_row(graph.links, np.int64(graph.starts[row_of(pool[cursor])]), 3)
        count = _gather(graph, row_of(key), scratch, admission, hops, bridges)
        if count < 0:
            return np.int64(DAMAGED)
        scratch.counters[0] += count
        for i in range(min(count, PREFETCH_AHEAD)):
            ask_for(scheme, packed, factors, vectors, todo[i], n_lines)
        for i in range(count):
            if i + PREFETCH_AHEAD < count:
                ask_for(scheme, packed, factors, vectors, todo[i + PREFETCH_AHEAD], n_lines)
            product = product_of(scheme, packed, vectors, digits, table, todo[i])
            key = pack(-estimate_of(product, factors, todo[i], step, bias, weight), todo[i])
            if is_admitted(admission, todo[i]):
                n_found = note(found, n_found, aim, key)
                last = last_worth_expanding(found, n_found, aim)
            if key <= last:
                size, place = _join(pool, size, capacity, key)
                cursor = min(cursor, place)
    return n_found
