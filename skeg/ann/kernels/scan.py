"""Exhaustive scan over codes: a one-bit sketch of every row, the codes of those it lets pass, exact scores of the best.

The sketch of a row is the highest bit of each of its code's digits: for a rotated vector the signs of its coordinates,
whose estimate of an inner product has a known error (RaBitQ: Gao & Long, SIGMOD 2024, theorem 3.2). Only rows whose
estimate plus `SLACK` standard errors reaches the worst candidate kept so far are scored by their codes. On the machine
where this was chosen one thread reads memory at 31 GB/s, so that a scan of the 4-bit codes themselves (22.6 MB for
117,659 x 384) waits for memory: it took 0.76 ms a query, that of the sketches (5.6 MB) takes 0.24.

Sketches lie in groups of 16 rows, interleaved by 4 bytes: lane l of each 64-byte word belongs to row l, and bit s of
its byte j to dimension ``32 word + 4 s + j``. So a product of the word with 4 broadcast query digits adds to one sum a
lane, with no horizontal additions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.matmul import keep, least_score
from skeg.ann.kernels.pool import pack, row_of
from skeg.ann.kernels.prepare import COSINE, Transform, prepare_query, square_sum
from skeg.ann.kernels.rerank import rerank
from skeg.ann.kernels.score import Codes, Query, score_rows
from skeg.ann.kernels.simd import prefetch_row
from skeg.ann.kernels.simd_scan import (
    GROUP,
    MANY,
    SOME,
    group_passes,
    store_lanes,
    sum_group_many,
    sum_group_one,
    sum_group_some,
)
from skeg.jit import kernel

# What a scan ends with, beside the query it got to.
OK = 0
QUERY_NOT_FINITE = 1
QUERY_ZERO = 2

FIRST_GROUPS = 4
BLOCK_GROUPS = 128
"""Groups after which the thresholds are looked at again: few at first, then twice as many each time up to this."""

BLOCK_ROWS = BLOCK_GROUPS * GROUP

AHEAD_GROUPS = 8
"""Groups between the one being multiplied and the one being asked for when a single query waits for memory."""

WAITING_ROWS = 3 * BLOCK_ROWS
"""Room for the waiting rows of a query."""

WAITING_CHUNK = 64
"""Waiting rows that are scored before the threshold is looked at again."""

FETCHED_ROWS = 16
"""Rows whose codes are asked for before the first of them is scored."""

HASTE = 0.5
"""Rows within this many standard errors of the worst candidate don't wait."""

SKETCH_ERROR = 0.3014
"""Standard error of a sketch's product of halves with a query, in lengths of the query: sqrt(1 - 2 / pi) / 2."""

SLACK = 2.5
"""Standard errors by which a sketch may fall short of the worst candidate. The nearest rows are well above that one:
with 20 candidates recall@10 of tq4 on 117,659 x 384 is 0.99990 (2,000 queries), 0.99995 with 3.0 and a quarter more
rows to score, 0.9997 with 2.0."""


class Sketches(NamedTuple):
    """groups (n_groups, bytes) uint8 and factors (n_groups, 2, 16) float32: scale and offset by lane; or no groups."""

    groups: Any
    factors: Any


class Tile(NamedTuple):
    """Work space of one thread for `MANY` queries, never shared.

    digits (MANY, padded dimensions) int8; tables (MANY, table) float32; work (dim,) float32; numbers (MANY, 5) float32:
    step, bias and weight of the query, the sketches' bias less the slack, and how much of it makes a row wait; woven
    int32 (MANY * 8 * words,): the digits as `sum_group_many` reads them; sums (MANY, `BLOCK_ROWS`) int32; passed int32
    (2, `BLOCK_ROWS` + 16): see `store_lanes`; todo int64 and estimates float32 (MANY, `BLOCK_ROWS`); waiting int64 and
    bounds float32 (MANY, `WAITING_ROWS`); heaps int64 (MANY, depth); sizes int64 (MANY, 3): rows kept, waiting and to
    do; counters int64 (1,): rows scored by their codes.
    """

    digits: Any
    tables: Any
    work: Any
    numbers: Any
    woven: Any
    sums: Any
    passed: Any
    todo: Any
    estimates: Any
    waiting: Any
    bounds: Any
    heaps: Any
    sizes: Any
    counters: Any


@kernel()
def sketch_rows(codes: Any, factors: Any, bits: Any, dim: Any, first_row: Any, sketches: Any) -> None:
    """Write the sketches of rows ``first_row + i`` with packed codes (m, row_bytes) and factors (m, 2).

    The scale of a sketch is that of its code, corrected by how much of the code's length its signs carry:
    ``2 sum (u - c)^2 / sum |u - c|`` over the digits u with center c; a sketch of 1-bit codes keeps their scale.
    Twin: ``reference_scan.sketch_rows``.
    """
    slots = 8 // bits
    mask = np.int32((1 << bits) - 1)
    center = np.float32(128) if bits == 8 else np.float32((1 << bits) - 1) * np.float32(0.5)
    for i in range(codes.shape[0]):
        group = (first_row + i) // GROUP
        lane = (first_row + i) % GROUP
        for word in range(sketches.groups.shape[1] // 64):
            for j in range(4):
                sketches.groups[group, word * 64 + 4 * lane + j] = np.uint8(0)
        squares = np.float32(0)
        magnitudes = np.float32(0)
        for d in range(dim):
            inside = d % (64 * slots)
            byte = np.int32(codes[i, d // (64 * slots) * 64 + inside % 64])
            digit = (byte >> np.int32(inside // 64 * bits)) & mask
            away = abs(np.float32(digit) - center)
            squares += away * away
            magnitudes += away
            bit = (digit >> np.int32(bits - 1)) & np.int32(1)
            at = d // 32 * 64 + 4 * lane + d % 4
            sketches.groups[group, at] |= np.uint8(bit << np.int32(d % 32 // 4))
        scale = factors[i, 0]
        if bits > 1 and magnitudes > np.float32(0):
            scale *= np.float32(2) * squares / magnitudes
        sketches.factors[group, 0, lane] = scale
        sketches.factors[group, 1, lane] = factors[i, 1]


@kernel()
def _prepare(
    queries: Any, first: Any, count: Any, metric: Any, scheme: Any, slack: Any, transform: Any, tile: Any
) -> Any:
    """Prepare ``queries[first:first + count]``; gives (status, query it stopped at)."""
    for q in range(count):
        raw = queries[first + q]
        norm = np.sqrt(square_sum(raw))
        if not np.isfinite(norm):
            return QUERY_NOT_FINITE, first + q
        if metric == COSINE and norm == np.float32(0):
            return QUERY_ZERO, first + q
        query = prepare_query(raw, metric, scheme, transform, tile.work, tile.digits[q], tile.tables[q])
        total = np.int32(0)
        squares = np.int32(0)
        for j in range(tile.digits.shape[1]):
            digit = np.int32(tile.digits[q, j])
            total = np.int32(total + digit)
            squares = np.int32(squares + digit * digit)
        error = np.sqrt(np.float32(squares)) * np.float32(SKETCH_ERROR)
        numbers = tile.numbers[q]
        numbers[0] = query.step
        numbers[1] = query.bias
        numbers[2] = query.weight
        numbers[3] = np.float32(0.5) * np.float32(total) - slack * error
        numbers[4] = max(slack - np.float32(HASTE), np.float32(0)) * error
        tile.sizes[q, 0] = 0
        tile.sizes[q, 1] = 0
        tile.sizes[q, 2] = 0
    return OK, first + count


@kernel(inline=True)
def _width(left: Any) -> Any:
    """How many queries the next product takes of those left; it may be more, the sums of the rest are not looked at."""
    if left > 2 * SOME:
        return MANY
    return SOME if left > 1 else 1


@kernel()
def _weave(tile: Any, count: Any, n_items: Any) -> None:
    """Bring the digits of ``count`` queries to the order that the products read, ``n_items`` int32 each."""
    digits = tile.digits.view(np.int32)
    first = 0
    while first < count:
        width = _width(count - first)
        for item in range(n_items):
            for q in range(width):
                tile.woven[n_items * first + item * width + q] = digits[first + q, item]
        first += width


@kernel()
def _sum_groups(groups: Any, start: Any, stop: Any, tile: Any, count: Any) -> None:
    """Products of all rows of some groups with the digits of the first ``count`` queries, into ``tile.sums``."""
    n_items = groups.shape[1] // 8
    n_lines = np.int64(groups.shape[1] // 64)
    first = 0
    while first < count:
        width = _width(count - first)
        woven = np.int64(n_items * first)
        for group in range(start, stop):
            column = np.int64((group - start) * GROUP)
            if width == 1:
                prefetch_row(groups, np.int64(min(group + AHEAD_GROUPS, groups.shape[0] - 1)), n_lines)
                sum_group_one(groups, np.int64(group), tile.woven, woven, tile.sums, np.int64(first), column)
            elif width == SOME:
                sum_group_some(groups, np.int64(group), tile.woven, woven, tile.sums, np.int64(first), column)
            else:
                sum_group_many(groups, np.int64(group), tile.woven, woven, tile.sums, np.int64(first), column)
        first += width


@kernel()
def _gather(sketches: Any, start: Any, stop: Any, n: Any, tile: Any, q: Any) -> None:
    """Collect the rows of some groups whose sketch lets them pass for query q.

    They are to do now, with the estimates that were compared; or, when they pass only thanks to most of the slack, are
    put to the waiting ones: few of them will still pass at the end.
    """
    step, weight, bias, wait = tile.numbers[q, 0], tile.numbers[q, 2], tile.numbers[q, 3], tile.numbers[q, 4]
    least = least_score(tile.heaps[q], tile.sizes[q, 0])
    passed = np.int64(0)
    for group in range(start, stop):
        column = np.int64((group - start) * GROUP)
        mask = group_passes(
            sketches.factors, np.int64(group), tile.sums, np.int64(q), column, step, bias, weight, least
        )
        if mask != 0:
            passed += store_lanes(mask, np.int64(group * GROUP), tile.sums, np.int64(q), column, tile.passed, passed)
    count = np.int64(0)
    waiting = tile.sizes[q, 1]
    for i in range(passed):
        row = np.int64(tile.passed[0, i])
        factors = sketches.factors[row // GROUP]
        scale = factors[0, row % GROUP] * step
        bound = scale * (np.float32(tile.passed[1, i]) - bias) + factors[1, row % GROUP] * weight
        # Both lists are written and one of them moves on: a branch here would be a coin toss.
        now = np.int64(bound - scale * wait >= least)
        tile.todo[q, count] = row
        tile.estimates[q, count] = bound
        tile.waiting[q, waiting] = row
        tile.bounds[q, waiting] = bound
        exists = np.int64(row < n)
        count += now * exists
        waiting += (1 - now) * exists
    tile.sizes[q, 1] = waiting
    tile.sizes[q, 2] = count


@kernel(inline=True)
def _ask_for_todo(codes: Any, tile: Any, q: Any) -> None:
    """Prefetch the codes of the first rows that are to do for query q."""
    if codes.codes.shape[0] > 0:
        n_lines = np.int64((codes.codes.shape[1] + 63) >> 6)
        for i in range(min(tile.sizes[q, 2], FETCHED_ROWS)):
            prefetch_row(codes.codes, tile.todo[q, i], n_lines)


@kernel()
def _score_todo(codes: Any, ranks: Any, tile: Any, q: Any) -> None:
    """Offer the rows that are to do to the heap of query q, by their codes or, without any, by the estimates there."""
    count = tile.sizes[q, 2]
    rows = tile.todo[q]
    estimates = tile.estimates[q]
    if codes.codes.shape[0] > 0:
        query = Query(tile.digits[q], tile.tables[q], tile.numbers[q, 0], tile.numbers[q, 1], tile.numbers[q, 2])
        score_rows(codes, query, rows, count, estimates)
        tile.counters[0] += count
    heap = tile.heaps[q]
    size = tile.sizes[q, 0]
    for i in range(count):
        rank = rows[i] if ranks.shape[0] == 0 else np.int64(ranks[rows[i]])
        size = keep(heap, size, pack(-estimates[i], rank))
    tile.sizes[q, 0] = size


@kernel()
def _score_waiting(codes: Any, ranks: Any, tile: Any, q: Any) -> None:
    """Score the waiting rows of query q that can still enter its heap; nothing may be to do."""
    i = 0
    while i < tile.sizes[q, 1]:
        least = least_score(tile.heaps[q], tile.sizes[q, 0])
        count = 0
        while i < tile.sizes[q, 1] and count < WAITING_CHUNK:
            if tile.bounds[q, i] >= least:
                tile.todo[q, count] = tile.waiting[q, i]
                count += 1
            i += 1
        tile.sizes[q, 2] = count
        _ask_for_todo(codes, tile, q)
        _score_todo(codes, ranks, tile, q)
    tile.sizes[q, 1] = 0


@kernel()
def _offer_groups(start: Any, stop: Any, n: Any, sketches: Any, codes: Any, ranks: Any, tile: Any, count: Any) -> None:
    """Offer the rows of groups ``start .. stop - 1`` to the heaps of the first ``count`` queries.

    The codes that one query asks for arrive while the rows of the next ones are collected.
    """
    for q in range(count):
        if sketches.groups.shape[0] > 0:
            if tile.sizes[q, 1] > tile.waiting.shape[1] - BLOCK_ROWS:
                _score_waiting(codes, ranks, tile, q)
            _gather(sketches, start, stop, n, tile, q)
        else:
            tile.sizes[q, 2] = min(stop * GROUP, n) - start * GROUP
            for i in range(tile.sizes[q, 2]):
                tile.todo[q, i] = start * GROUP + i
        _ask_for_todo(codes, tile, q)
    for q in range(count):
        _score_todo(codes, ranks, tile, q)


@kernel()
def _finish(raw: Any, tile: Any, q: Any, by_rank: Any, base: Any, metric: Any, out: Any, i: Any) -> None:
    """Score the candidates of query q exactly and write them as hit list i."""
    vectors, ids = base
    heap = tile.heaps[q]
    size = tile.sizes[q, 0]
    for j in range(size):
        row = row_of(heap[j])
        if by_rank.shape[0] > 0:
            row = np.int64(by_rank[row])
        heap[j] = row << np.int64(1)
    norm = np.sqrt(square_sum(raw))
    out[2][i] = rerank(vectors, ids, heap, size, raw, norm, metric, np.int64(0), (out[0][i], out[1][i]))


@kernel()
def scan_queries(
    queries: Any, span: Any, settings: Any, rows: Any, transform: Any, base: Any, space: Any, out: Any
) -> Any:
    """Scan all rows for ``queries[span[0]:span[1]]``; gives (status, query it stopped at).

    The tuples keep one call cheap: each is unpacked once. queries (n_queries, dim) float32, raw; settings = (metric,
    scheme, slack float32: `SLACK`, or 0 where the sketches are the codes); rows = (groups, sketch factors, codes,
    factors, ranks, rows by rank): see `Sketches` and `Codes`, of which one may have no rows; ranks uint32 (n,) order
    rows among equal estimates, empty where ids ascend by row; transform as in `Transform`; base = (vectors (n, dim)
    float32, ids (n,) uint64); space = the fields of `Tile`, whose heaps' length is the number of candidates scored
    exactly; out = (ids (n_queries, k) uint64, scores (n_queries, k) float32, counts (n_queries,) int64).
    Twin: ``reference_scan.scan``.
    """
    metric, scheme, slack = settings
    sketches = Sketches(rows[0], rows[1])
    codes = Codes(scheme, rows[2], rows[3], base[0])
    turned = Transform(transform[0], transform[1], transform[2], transform[3])
    tile = Tile(
        space[0], space[1], space[2], space[3], space[4], space[5], space[6], space[7], space[8], space[9], space[10],
        space[11], space[12], space[13],
    )  # fmt: skip
    n = base[1].shape[0]
    n_groups = (n + GROUP - 1) // GROUP
    for first in range(span[0], span[1], MANY):
        count = min(MANY, span[1] - first)
        status, at = _prepare(queries, first, count, metric, scheme, slack, turned, tile)
        if status != OK:
            return status, at
        if sketches.groups.shape[0] > 0:
            _weave(tile, count, sketches.groups.shape[1] // 8)
        start = 0
        size = FIRST_GROUPS
        while start < n_groups:
            stop = min(start + size, n_groups)
            if sketches.groups.shape[0] > 0:
                _sum_groups(sketches.groups, start, stop, tile, count)
            _offer_groups(start, stop, n, sketches, codes, rows[4], tile, count)
            start = stop
            size = min(2 * size, BLOCK_GROUPS)
        for q in range(count):
            if tile.sizes[q, 1] > 0:
                _score_waiting(codes, rows[4], tile, q)
            _finish(queries[first + q], tile, q, rows[5], base, metric, out, first + q)
    return OK, span[1]
