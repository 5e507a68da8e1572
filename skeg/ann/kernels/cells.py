"""Where a search starts: the cells nearest to the query, swept from one end to the other.

Rows are stored cell by cell, so the codes of a cell are one run of memory. Reading a row of such a run costs a tenth of
what a row costs that a walk jumps to, and what the sweep leaves in the pool are good places to walk on from. Centroids
are found in two steps, as in a two-level inverted file (IVF: Jegou, Douze & Schmid, TPAMI 2011, section IV): first
those of regions, then those of the cells in the nearest regions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.pool import PAST_EVERY_KEY, bar_of, join, pack, row_of
from skeg.ann.kernels.score import ask_for, score_run
from skeg.ann.kernels.simd import prefetch_row
from skeg.ann.kernels.walk import DAMAGED, next_epoch
from skeg.jit import kernel

REGIONS = 3
"""Regions whose cells are looked at. Of 105 regions, 3 led to the same recall as 4 of 140 for 34 centroids less; 2 of
140 lost .005 (.952 with lists of 12 rows, 117,620 x 96)."""

CELLS = 4
"""Cells that are swept. On 117,620 x 96 a search for recall .95 took 15.9, 14.2 and 12.9 us with 1, 2 and 4; on
117,659 x 384 2, 4 and 6 measured alike."""

ROWS_A_CELL = 256
"""Rows of a cell that are swept at most; a walk finds the others."""


STREAM_LINES = 32
"""Cache lines of each cell's codes that are asked for before the first cell is swept."""


class Cells(NamedTuple):
    """How rows are divided.

    regions uint32 (n_regions + 1,): the cells of region r are ``regions[r]`` to ``regions[r + 1]``; cells uint32
    (n_cells + 1,): the rows of cell c are ``cells[c]`` to ``cells[c + 1]``; root: the row from which every other can be
    reached. The centroids of all regions, then of all cells, are `Codes`.
    """

    regions: Any
    cells: Any
    root: Any


@kernel(inline=True)
def take_least(keys: Any, count: Any) -> Any:
    """The smallest of ``keys[:count]``, which is replaced by `PAST_EVERY_KEY`. Two passes without a branch."""
    least = PAST_EVERY_KEY
    for i in range(count):
        least = min(least, keys[i])
    for i in range(count):
        keys[i] = PAST_EVERY_KEY if keys[i] == least else keys[i]
    return least


@kernel()
def keys_of_run(codes: Any, query: Any, first: Any, count: Any, work: Any, keys: Any) -> None:
    """Write the keys of rows first to first + count - 1 to ``keys[:count]``; work = (products, estimates)."""
    products, estimates = work
    score_run(codes, query, first, count, products, estimates)
    for i in range(count):
        keys[i] = pack(-estimates[i], first + i)


@kernel(inline=True)
def _drop_useless(keys: Any, count: Any, usable: Any, first: Any) -> None:
    """Put the keys of what is of no use, by ``usable[first:]``, behind all others; an empty ``usable`` means all is."""
    if usable.shape[0]:
        for i in range(count):
            keys[i] = keys[i] if usable[first + i] else PAST_EVERY_KEY


@kernel()
def nearest_cells(cells: Any, centroids: Any, query: Any, usable: Any, work: Any, keys: Any, found: Any) -> Any:
    """Write the numbers of the nearest cells to ``found`` (int64, `CELLS` of them); gives how many, or `DAMAGED`.

    usable uint8 (n_regions + n_cells,): 0 for those to leave out; empty if none is. keys int64, as long, and work =
    (products int32, estimates float32), as long, are overwritten. Twin: ``reference.nearest_cells``.
    """
    n_regions = np.int64(cells.regions.shape[0] - 1)
    n_cells = np.int64(cells.cells.shape[0] - 1)
    keys_of_run(centroids, query, np.int64(0), n_regions, work, keys)
    _drop_useless(keys, n_regions, usable, np.int64(0))
    near = keys[n_regions:]
    n_near = np.int64(0)
    for _ in range(min(np.int64(REGIONS), n_regions)):
        nearest = take_least(keys, n_regions)
        if nearest == PAST_EVERY_KEY:
            break
        region = row_of(nearest)
        first = np.int64(cells.regions[region])
        stop = np.int64(cells.regions[region + 1])
        if stop < first or stop > n_cells or n_near + stop - first > n_cells:
            return np.int64(DAMAGED)
        keys_of_run(centroids, query, n_regions + first, stop - first, work, near[n_near:])
        _drop_useless(near[n_near:], stop - first, usable, n_regions + first)
        n_near += stop - first
    n_found = np.int64(0)
    while n_found < min(np.int64(CELLS), n_near):
        nearest = take_least(near, n_near)
        if nearest == PAST_EVERY_KEY:
            break
        found[n_found] = row_of(nearest) - n_regions
        n_found += 1
    return n_found


@kernel()
def mark_usable(cells: Any, wanted: Any, usable: Any) -> Any:
    """Mark (1) in ``usable`` the cells, and the regions, that have a wanted row; see `nearest_cells`.

    wanted uint8 (n,), by row, or longer. Gives 0, or `DAMAGED` if regions or cells can't be. Twin:
    ``reference.mark_usable``.
    """
    n_regions = np.int64(cells.regions.shape[0] - 1)
    n_cells = np.int64(cells.cells.shape[0] - 1)
    for region in range(n_regions):
        some_cell = np.uint8(0)
        if np.int64(cells.regions[region + 1]) > n_cells:
            return np.int64(DAMAGED)
        for cell in range(np.int64(cells.regions[region]), np.int64(cells.regions[region + 1])):
            some_row = np.uint8(0)
            if np.int64(cells.cells[cell + 1]) > wanted.shape[0]:
                return np.int64(DAMAGED)
            for row in range(np.int64(cells.cells[cell]), np.int64(cells.cells[cell + 1])):
                some_row |= wanted[row]
            usable[n_regions + cell] = some_row
            some_cell |= some_row
        usable[region] = some_cell
    return np.int64(0)


@kernel()
def _sweep(first: Any, count: Any, codes: Any, query: Any, bounds: Any, scratch: Any, size: Any) -> Any:
    """Offer ``count`` rows from ``first`` on to the pool and mark them as seen; gives the pool's size."""
    keys = scratch.keys
    keys_of_run(codes, query, first, count, (scratch.products, scratch.estimates), keys)
    epoch = scratch.epoch[0]
    for i in range(count):
        scratch.tags[first + i] = epoch
    bar = bar_of(scratch.pool, size, bounds)
    for i in range(count):
        if keys[i] < bar:
            size, bar, _ = join(scratch.pool, size, bounds, keys[i])
    return size


@kernel()
def begin_in_cells(cells: Any, centroids: Any, codes: Any, query: Any, bounds: Any, scratch: Any) -> Any:
    """Begin a walk: sweep the nearest cells into the pool; gives the pool's size, or `DAMAGED`.

    bounds as in `walk`. The root is offered too, so that a pool without bounds leads to every row.
    Twin: ``reference.begin_in_cells``.
    """
    found = scratch.todo
    work = (scratch.products, scratch.estimates)
    n_found = nearest_cells(cells, centroids, query, scratch.tags[:0], work, scratch.keys, found)
    if n_found == DAMAGED:
        return np.int64(DAMAGED)
    n = np.int64(scratch.tags.shape[0])
    for i in range(n_found):
        first = np.int64(cells.cells[found[i]])
        if first < n:
            prefetch_row(scratch.tags, first, 1)
            ask_for(codes.scheme, codes.codes, codes.factors, codes.vectors, first, np.int64(STREAM_LINES))
    next_epoch(scratch)
    size = np.int64(0)
    scored = np.int64(0)
    for i in range(n_found):
        first = np.int64(cells.cells[found[i]])
        stop = np.int64(cells.cells[found[i] + 1])
        if stop < first or stop > n:
            return np.int64(DAMAGED)
        count: Any = min(stop - first, np.int64(ROWS_A_CELL))
        size = _sweep(first, count, codes, query, bounds, scratch, size)
        scored += count
    if scratch.tags[cells.root] != scratch.epoch[0]:
        size = _sweep(np.int64(cells.root), np.int64(1), codes, query, bounds, scratch, size)
        scored += 1
    scratch.counters[0] += scored
    return size
