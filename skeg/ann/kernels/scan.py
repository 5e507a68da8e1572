"""Exhaustive scan over codes: a one-bit sketch of every row, the whole code of those it lets pass, exact scores of the best.

The sketch of a row is the highest bit of each of its code's digits: for a rotated vector the signs of its coordinates,
whose estimate of an inner product has a known error (RaBitQ: Gao & Long, SIGMOD 2024, theorem 3.2). Only rows whose
estimate plus `SLACK` standard errors reaches the worst candidate kept so far are scored by their codes. One thread reads
memory at 31 GB/s and multiplies two registers of bytes a cycle on the machine where this was chosen, so that a scan of
the 4-bit codes alone (22.6 MB for 117,659 x 384) would wait for memory, and one of the sketches (5.6 MB) does not.

Sketches lie in groups of 16 rows, interleaved by 4 bytes: lane l of each 64-byte word belongs to row l, and bit s of its
byte j to dimension ``32 word + 4 s + j``. So a product of the word with 4 broadcast query digits adds to one sum a lane,
with no horizontal additions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.matmul import keep, least_score, sort_kept
from skeg.ann.kernels.pool import pack, row_of
from skeg.ann.kernels.prepare import COSINE, Transform, prepare_query, square_sum
from skeg.ann.kernels.rerank import rerank
from skeg.ann.kernels.score import Codes, Query, score_rows
from skeg.ann.kernels.simd_scan import GROUP, MANY, SOME, group_passes, sum_group_many, sum_group_one, sum_group_some
from skeg.jit import kernel

# What a scan ends with, beside the query it got to.
OK = 0
QUERY_NOT_FINITE = 1
QUERY_ZERO = 2

BLOCK_GROUPS = 128
"""Groups after which the thresholds are looked at again; the first blocks are smaller."""

SKETCH_ERROR = 0.3014
"""Standard error of a sketch's product of halves with a query, in lengths of the query: sqrt(1 - 2 / pi) / 2."""

SLACK = 3.5
"""Standard errors by which a sketch may fall short of the worst candidate: no true neighbor of 200 queries was lost at 3.5
with 20 candidates on 117,659 x 384 (574 rows pass on average), and one of 2,000 at 3.0 with 10."""


class Sketches(NamedTuple):
    """groups (n_groups, bytes) uint8 and factors (n_groups, 2, 16) float32: scale and offset by lane; or no groups."""

    groups: Any
    factors: Any


class Tile(NamedTuple):
    """Work space of one thread for `MANY` queries, never shared.

    digits (MANY, padded dimensions) int8; tables (MANY, table) float32; work (dim,) float32; numbers (MANY, 4) float32:
    step, bias, weight and the sketches' bias less the slack; sums (MANY, 16 * BLOCK_GROUPS) int32; todo int64 and estimates float32 (16 * BLOCK_GROUPS,);
    heaps int64 (MANY, depth); sizes int64 (MANY,); counters int64 (1,): rows scored by their codes.
    """

    digits: Any
    tables: Any
    work: Any
    numbers: Any
    sums: Any
    todo: Any
    estimates: Any
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
def _prepare(queries: Any, first: Any, count: Any, metric: Any, scheme: Any, slack: Any, transform: Any, tile: Any) -> Any:
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
        squares = np.int64(0)
        for j in range(tile.digits.shape[1]):
            digit = np.int32(tile.digits[q, j])
            total = np.int32(total + digit)
            squares += np.int64(np.int32(digit * digit))
        length = np.sqrt(np.float32(squares))
        tile.numbers[q, 0] = query.step
        tile.numbers[q, 1] = query.bias
        tile.numbers[q, 2] = query.weight
        tile.numbers[q, 3] = np.float32(0.5) * np.float32(total) - slack * np.float32(SKETCH_ERROR) * length
        tile.sizes[q] = 0
    return OK, first + count


@kernel()
def _sum_groups(groups: Any, start: Any, stop: Any, tile: Any, count: Any) -> None:
    """Products of all rows of some groups with the digits of the first ``count`` queries, into ``tile.sums``."""
    done = 0
    while done < count:
        left = count - done
        for group in range(start, stop):
            column = np.int64((group - start) * GROUP)
            if left >= MANY:
                sum_group_many(groups, np.int64(group), tile.digits, np.int64(done), tile.sums, column)
            elif left >= SOME:
                sum_group_some(groups, np.int64(group), tile.digits, np.int64(done), tile.sums, column)
            else:
                sum_group_one(groups, np.int64(group), tile.digits, np.int64(done), tile.sums, column)
        if left >= MANY:
            done += MANY
        elif left >= SOME:
            done += SOME
        else:
            done += 1


@kernel()
def _gather(sketches: Any, start: Any, stop: Any, n: Any, tile: Any, q: Any) -> Any:
    """Collect in ``tile.todo`` the rows of some groups whose sketch lets them pass for query q; gives their number.

    The estimates that were compared go to ``tile.estimates``.
    """
    step = tile.numbers[q, 0]
    weight = tile.numbers[q, 2]
    bias = tile.numbers[q, 3]
    least = least_score(tile.heaps[q], tile.sizes[q])
    count = 0
    for group in range(start, stop):
        column = np.int64((group - start) * GROUP)
        mask = group_passes(
            sketches.factors, np.int64(group), tile.sums, np.int64(q), column, step, bias, weight, least
        )
        while mask != 0:
            lane = 0
            while (mask >> lane) & 1 == 0:
                lane += 1
            mask &= mask - 1
            if group * GROUP + lane < n:
                scale = sketches.factors[group, 0, lane] * step
                offset = sketches.factors[group, 1, lane] * weight
                tile.todo[count] = group * GROUP + lane
                tile.estimates[count] = scale * (np.float32(tile.sums[q, column + lane]) - bias) + offset
                count += 1
    return count


@kernel()
def _offer_groups(start: Any, stop: Any, n: Any, sketches: Any, codes: Any, ranks: Any, tile: Any, q: Any) -> None:
    """Offer the rows of groups ``start .. stop - 1`` to the heap of query q."""
    if sketches.groups.shape[0] > 0:
        count = _gather(sketches, start, stop, n, tile, q)
    else:
        count = min(stop * GROUP, n) - start * GROUP
        for i in range(count):
            tile.todo[i] = start * GROUP + i
    if codes.codes.shape[0] > 0:
        numbers = tile.numbers[q]
        query = Query(tile.digits[q], tile.tables[q], numbers[0], numbers[1], numbers[2])
        score_rows(codes, query, tile.todo, count, tile.estimates)
        tile.counters[0] += count
    heap = tile.heaps[q]
    size = tile.sizes[q]
    for i in range(count):
        row = tile.todo[i]
        rank = row if ranks.shape[0] == 0 else np.int64(ranks[row])
        size = keep(heap, size, pack(-tile.estimates[i], rank))
    tile.sizes[q] = size


@kernel()
def scan_queries(
    queries: Any, span: Any, settings: Any, rows: Any, transform: Any, base: Any, space: Any, out: Any
) -> Any:
    """Scan all rows for ``queries[span[0]:span[1]]``; gives (status, query it stopped at).

    The tuples keep one call cheap: each is unpacked once. queries (n_queries, dim) float32, raw; settings = (metric,
    scheme, slack float32: `SLACK`, or 0 where the sketches are the codes); rows = (groups, sketch factors, codes, factors,
    ranks, rows by rank): see `Sketches` and `Codes`, of which one may have no rows; ranks uint32 (n,) order rows among
    equal estimates, empty where ids ascend by row; transform as in `Transform`; base = (vectors (n, dim) float32, ids (n,)
    uint64); space = the fields of `Tile`, whose heaps' length is the number of candidates scored exactly; out = (ids
    (n_queries, k) uint64, scores (n_queries, k) float32, counts (n_queries,) int64). Twin: ``reference_scan.scan``.
    """
    metric, scheme, slack = settings
    vectors, ids = base
    sketches = Sketches(rows[0], rows[1])
    codes = Codes(scheme, rows[2], rows[3], vectors)
    ranks = rows[4]
    turned = Transform(transform[0], transform[1], transform[2], transform[3])
    tile = Tile(
        space[0], space[1], space[2], space[3], space[4], space[5], space[6], space[7], space[8], space[9]
    )
    n = ids.shape[0]
    n_groups = (n + GROUP - 1) // GROUP
    for first in range(span[0], span[1], MANY):
        count = min(MANY, span[1] - first)
        status, at = _prepare(queries, first, count, metric, scheme, slack, turned, tile)
        if status != OK:
            return status, at
        start = 0
        size = 8
        while start < n_groups:
            stop = min(start + size, n_groups)
            if sketches.groups.shape[0] > 0:
                _sum_groups(sketches.groups, start, stop, tile, count)
            for q in range(count):
                _offer_groups(start, stop, n, sketches, codes, ranks, tile, q)
            start = stop
            size = min(2 * size, BLOCK_GROUPS)
        for q in range(count):
            _finish(queries[first + q], tile.heaps[q], tile.sizes[q], rows[5], base, metric, out, first + q)
    return OK, span[1]


@kernel()
def _finish(raw: Any, heap: Any, size: Any, by_rank: Any, base: Any, metric: Any, out: Any, i: Any) -> None:
    """Score the candidates of a heap exactly and write hit list i."""
    vectors, ids = base
    sort_kept(heap, size)
    if by_rank.shape[0] > 0:
        for j in range(size):
            heap[j] = np.int64(by_rank[row_of(heap[j])]) << np.int64(1)
    norm = np.sqrt(square_sum(raw))
    out[2][i] = rerank(vectors, ids, heap, size, raw, norm, metric, (out[0][i], out[1][i]))
