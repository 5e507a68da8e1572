"""Robust prune and reverse edges over 8-bit codes: the writing half of graph construction.

RobustPrune of DiskANN (Subramanya et al., NeurIPS 2019, algorithm 2) on squared distances, and the batch scheme of
ParlayANN (Manohar et al., PPoPP 2024, section 3): edges are gathered by target, so that each neighbor list has one
writer and the graph does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.pool import Bounds, distance_of, insert, pack, row_of
from skeg.ann.kernels.prepare import IP
from skeg.ann.kernels.score import PREFETCH_AHEAD, Query
from skeg.ann.kernels.simd import dot_bytes, prefetch_row
from skeg.ann.kernels.walk import DAMAGED, begin_at, nearest_entry, walk
from skeg.jit import kernel

UNBOUNDED = np.float32(np.inf)

CANDIDATES = 2
"""Rows a walk keeps during construction, as a multiple of those it expands."""


PATCH_LINKS = 16
"""Neighbors of a row that is gone which are considered in its place, its nearest: lists begin with them."""


class Rows(NamedTuple):
    """What distances between rows need.

    codes (n, row_bytes) uint8, 8 bits a dimension around 128; scales (n,) float32; sums (n,) int32, of code - 128;
    squares (n,) float32, squared norms; tails (n,) float32: a coordinate beside the codes, the one that turns inner
    product into distance (zero for the other metrics).
    """

    codes: Any
    scales: Any
    sums: Any
    squares: Any
    tails: Any


@kernel(inline=True)
def square_distance(rows: Any, a: Any, b: Any) -> Any:
    """Squared distance of two rows from their codes; float32, never below zero."""
    product = np.float32(dot_bytes(rows.codes, a, b) - np.int32(128) * rows.sums[b])
    inner = rows.scales[a] * rows.scales[b] * product + rows.tails[a] * rows.tails[b]
    return max(rows.squares[a] + rows.squares[b] - np.float32(2) * inner, np.float32(0))


@kernel()
def robust_prune(rows: Any, keys: Any, count: Any, alpha: Any, max_degree: Any, out: Any) -> Any:
    """Choose at most ``max_degree`` of ``keys[:count]`` (sorted, nearest first) into ``out``; overwrites the keys.

    A candidate is kept unless ``alpha`` times its squared distance to a kept one is at most its squared distance to the
    row whose list this is. Gives the number kept. Twin: ``reference.robust_prune``.
    """
    kept = 0
    while count > 0 and kept < max_degree:
        nearest = row_of(keys[0])
        out[kept] = np.uint32(nearest)
        kept += 1
        # One row against all that are left: no branch depends on a distance, and the row stays in the nearest cache.
        left: Any = 0
        for i in range(1, count):
            key = keys[i]
            keys[left] = key
            left += np.int64(alpha * square_distance(rows, row_of(key), nearest) > distance_of(key))
        count = left
    return kept


@kernel(inline=True)
def codes_center(scheme: Any) -> Any:
    """Code value that stands for zero: the middle of 2^b values, except 128 for 8 bits."""
    return np.float32(128) if scheme == 8 else np.float32((1 << scheme) - 1) * np.float32(0.5)


@kernel(inline=True)
def row_query(rows: Any, codes: Any, row: Any, metric: Any, digits: Any) -> Any:
    """A stored row as a query: its 8-bit code, less 128, is the int8 digits; ``digits`` is overwritten."""
    for j in range(rows.codes.shape[1]):
        digits[j] = np.int8(np.int32(rows.codes[row, j]) - np.int32(128))
    bias = np.float32(codes_center(codes.scheme) * np.float32(rows.sums[row]))
    weight = rows.tails[row] if metric == IP else np.float32(1)
    return Query(digits, codes.factors[0], rows.scales[row], bias, weight)


@kernel()
def choose_neighbors(
    points: Any,
    span: Any,
    graph: Any,
    n_entries: Any,
    codes: Any,
    entries: Any,
    rows: Any,
    settings: Any,
    scratch: Any,
    digits: Any,
    keys: Any,
    out: Any,
) -> Any:
    """Out-neighbors of the new rows ``points[span[0]:span[1]]`` in the graph as it stands; gives OK (0) or `DAMAGED`.

    settings = (metric, list size, alpha, maximum degree); digits (padded,) int8 and keys int64 (longer than
    ``scratch.expanded`` and the pool together) are this thread's; out = (neighbors (n_points, max_degree) uint32,
    degrees (n_points,) int32). Candidates are the rows expanded and the nearest rows that were met but not expanded:
    these cost nothing more, and twice as many candidates make lists nearly as good as a walk twice as long.
    """
    metric, list_size, alpha, max_degree = settings
    for i in range(span[0], span[1]):
        point = np.int64(points[i])
        query = row_query(rows, codes, point, metric, digits)
        start, nearness = nearest_entry(n_entries, entries, query)
        bounds = Bounds(CANDIDATES * list_size, list_size, 1, UNBOUNDED, UNBOUNDED)
        size = walk(graph, codes, query, bounds, scratch, begin_at(start, nearness, scratch))
        if size == DAMAGED:
            return DAMAGED
        n_found = scratch.counters[3]
        for j in range(size):
            if not scratch.pool[j] & np.int64(1) and n_found < scratch.expanded.shape[0]:
                scratch.expanded[n_found] = row_of(scratch.pool[j])
                n_found += 1
        count = _sort_candidates(rows, point, scratch.expanded, n_found, keys)
        out[1][i] = robust_prune(rows, keys, count, alpha, max_degree, out[0][i])
    return 0


@kernel()
def _sort_candidates(rows: Any, point: Any, found: Any, n_found: Any, keys: Any) -> Any:
    """Keys of ``found[:n_found]`` without ``point``, by distance from it; gives their number."""
    count = 0
    n_lines = (rows.codes.shape[1] + 63) >> 6
    for j in range(min(n_found, PREFETCH_AHEAD)):
        prefetch_row(rows.codes, found[j], n_lines)
    for j in range(n_found):
        if j + PREFETCH_AHEAD < n_found:
            prefetch_row(rows.codes, found[j + PREFETCH_AHEAD], n_lines)
        if found[j] != point:
            key = pack(square_distance(rows, found[j], point), found[j])
            insert(keys, count, keys.shape[0], key)
            count += 1
    return count


@kernel()
def write_lists(points: Any, neighbors: Any, degrees: Any, links: Any, slots: Any, ends: Any) -> None:
    """Write each new row's out-neighbors to its slots: links uint32, flat, ``slots`` a row; ends as in `Graph`."""
    for i in range(points.shape[0]):
        start = np.int64(points[i]) * slots
        for j in range(degrees[i]):
            links[start + j] = neighbors[i, j]
        ends[points[i]] = start + degrees[i]


@kernel()
def group_by_target(
    points: Any, neighbors: Any, degrees: Any, tally: Any, targets: Any, group_ends: Any, sources: Any
) -> Any:
    """Turn the edges source -> target of a batch around: a counting sort by target, stable in the batch's order.

    tally uint32 (n,), zero before and after; targets uint32 and group_ends int64 receive each target, in order of first
    mention, and where its sources end in ``sources`` uint32. Gives the number of targets.
    """
    n_targets = 0
    for i in range(points.shape[0]):
        for j in range(degrees[i]):
            target = neighbors[i, j]
            if tally[target] == 0:
                targets[n_targets] = target
                n_targets += 1
            tally[target] += np.uint32(1)
    total = np.int64(0)
    for t in range(n_targets):
        size = np.int64(tally[targets[t]])
        group_ends[t] = total
        tally[targets[t]] = np.uint32(t)
        total += size
    for i in range(points.shape[0]):
        for j in range(degrees[i]):
            group = tally[neighbors[i, j]]
            sources[group_ends[group]] = points[i]
            group_ends[group] += 1
    for t in range(n_targets):
        tally[targets[t]] = np.uint32(0)
    return n_targets


@kernel(inline=True)
def _offer(rows: Any, target: Any, candidate: Any, keys: Any, count: Any) -> Any:
    """Insert a candidate into the sorted keys, of which the farthest drop out when they are full; gives the count."""
    key = pack(square_distance(rows, candidate, target), candidate)
    if count < keys.shape[0]:
        insert(keys, count, keys.shape[0], key)
        return count + 1
    if key < keys[count - 1]:
        insert(keys, count, keys.shape[0], key)
    return count


@kernel()
def _prune_list(
    target: Any, links: Any, start: Any, end: Any, extra: Any, ends: Any, rows: Any, settings: Any, keys: Any, kept: Any
) -> None:
    """Replace a list by the best of it and of the rows ``extra``."""
    _, _, alpha, max_degree = settings
    count = 0
    for j in range(start, end):
        count = _offer(rows, target, np.int64(links[j]), keys, count)
    for j in range(extra.shape[0]):
        count = _offer(rows, target, np.int64(extra[j]), keys, count)
    degree = robust_prune(rows, keys, count, alpha, max_degree, kept)
    for j in range(degree):
        links[start + j] = kept[j]
    ends[target] = start + degree


@kernel()
def add_reverse_edges(
    span: Any, groups: Any, links: Any, slots: Any, ends: Any, rows: Any, settings: Any, keys: Any, kept: Any
) -> None:
    """Append each target's new sources to its list; a list that outgrows its slots is pruned to the maximum degree.

    span: groups to do; groups = (targets, group_ends, sources) of `group_by_target`; settings as in
    `choose_neighbors`; keys int64 and kept uint32 are this thread's. No two calls may share a target.
    """
    targets, group_ends, sources = groups
    for g in range(span[0], span[1]):
        target = np.int64(targets[g])
        first = np.int64(0) if g == 0 else group_ends[g - 1]
        start = target * slots
        end = np.int64(ends[target])
        new = sources[first : group_ends[g]]
        if end - start + new.shape[0] > slots:
            _prune_list(target, links, start, end, new, ends, rows, settings, keys, kept)
            continue
        for j in range(new.shape[0]):
            links[end + j] = new[j]
        ends[target] = end + new.shape[0]


@kernel()
def trim_lists(span: Any, links: Any, slots: Any, ends: Any, rows: Any, settings: Any, keys: Any, kept: Any) -> None:
    """Prune the lists of the rows ``span`` that are longer than the maximum degree; arguments as above."""
    for row in range(span[0], span[1]):
        start = np.int64(row) * slots
        end = np.int64(ends[row])
        if end - start > settings[3]:
            _prune_list(row, links, start, end, links[:0], ends, rows, settings, keys, kept)


@kernel(inline=True)
def _offer_once(rows: Any, target: Any, candidate: Any, keys: Any, count: Any) -> Any:
    """`_offer`, but for a candidate that is there already."""
    key = pack(square_distance(rows, candidate, target), candidate)
    if count == keys.shape[0] and key >= keys[count - 1]:
        return count
    place: Any = count
    while place > 0 and keys[place - 1] > key:
        place -= 1
    if place > 0 and keys[place - 1] == key:
        return count
    insert(keys, count, keys.shape[0], key)
    return min(count + 1, keys.shape[0])


@kernel()
def patch_lists(
    span: Any, old_rows: Any, new_row: Any, old: Any, links: Any, slots: Any, ends: Any, rows: Any, settings: Any,
    keys: Any, kept: Any,
) -> None:  # fmt: skip
    """Write the lists of the rows ``span`` from those of an older graph of which some rows are gone.

    A neighbor that is gone is replaced by its own nearest neighbors, and the best of all are chosen: algorithm 4 of
    FreshDiskANN (Singh et al., 2021). old_rows uint32 (m,): the older graph's row of each row; new_row int64: row of
    each of the older graph's, -1 for one that is gone; old: the older `Graph`. The other arguments are those of
    `trim_lists`. Twin: ``reference.patch_list``.
    """
    _, _, alpha, max_degree = settings
    for row in range(span[0], span[1]):
        before = np.int64(old_rows[row])
        start = np.int64(row) * slots
        count: Any = np.int64(0)
        n_gone = 0
        for j in range(np.int64(old.starts[before]), np.int64(old.ends[before])):
            neighbor = new_row[old.links[j]]
            if neighbor >= 0:
                links[start + count] = np.uint32(neighbor)
                count += 1
            else:
                n_gone += 1
        if n_gone:
            count = _patch_list(np.int64(row), before, new_row, old, rows, alpha, max_degree, keys, kept)
            for j in range(count):
                links[start + j] = kept[j]
        ends[row] = start + count


@kernel()
def _patch_list(
    row: Any, before: Any, new_row: Any, old: Any, rows: Any, alpha: Any, max_degree: Any, keys: Any, kept: Any
) -> Any:
    """Choose the neighbors of a row some of whose neighbors are gone into ``kept``; gives their number."""
    count: Any = 0
    for j in range(np.int64(old.starts[before]), np.int64(old.ends[before])):
        neighbor = np.int64(old.links[j])
        if new_row[neighbor] >= 0:
            count = _offer_once(rows, row, new_row[neighbor], keys, count)
            continue
        first = np.int64(old.starts[neighbor])
        for i in range(first, min(np.int64(old.ends[neighbor]), first + PATCH_LINKS)):
            candidate = new_row[old.links[i]]
            if candidate >= 0 and candidate != row:
                count = _offer_once(rows, row, candidate, keys, count)
    return robust_prune(rows, keys, count, alpha, max_degree, kept)
