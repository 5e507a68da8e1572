"""Sketches and the scan over them: integer products are exact, and what the slack lets pass is what a sort finds."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.arrays import aligned_zeros
from skeg.ann.flatrows import group_bytes, has_codes, has_sketches
from skeg.ann.kernels import scan, simd_scan
from skeg.ann.kernels.score import Codes
from skeg.ann.metric import METRICS
from skeg.ann.quantizers import PreparedQuery, encode_rows, factors_of, fit_quantizer, kernel_transform, query_room
from skeg.jit import JIT_DISABLED, kernel
from tests import reference, reference_scan

pytestmark = pytest.mark.kernels

GROUP, MANY, SOME = simd_scan.GROUP, simd_scan.MANY, simd_scan.SOME
DIMS = (1, 3, 16, 63, 64, 65, 100)
NO_ROWS = np.zeros(0, np.uint32)


@kernel()
def sum_group(width, groups, group, woven, start, sums, first, column):
    args = np.int64(group), np.int64(start), np.int64(first), np.int64(column)
    if width == 1:
        simd_scan.sum_group_one(groups, args[0], woven, args[1], sums, args[2], args[3])
    elif width == SOME:
        simd_scan.sum_group_some(groups, args[0], woven, args[1], sums, args[2], args[3])
    else:
        simd_scan.sum_group_many(groups, args[0], woven, args[1], sums, args[2], args[3])


@kernel()
def which_pass(factors, group, sums, q, column, numbers, least):
    return simd_scan.group_passes(
        factors, np.int64(group), sums, np.int64(q), np.int64(column), numbers[0], numbers[1], numbers[2], least
    )


@kernel()
def lanes_of(mask, first, sums, q, column, passed, count):
    return simd_scan.store_lanes(
        np.int64(mask), np.int64(first), sums, np.int64(q), np.int64(column), passed, np.int64(count)
    )


@kernel()
def lowest_bit(mask):
    return simd_scan.lowest_bit(np.int64(mask))


def woven(digits):
    """Digits (width, 32 * words) int8 in the order of the products."""
    return np.ascontiguousarray(digits.view(np.int32).T).reshape(-1)


@pytest.mark.parametrize("width", sorted({1, SOME, MANY}))
@pytest.mark.parametrize("words", [1, 2, 3, 12])
def test_products_of_sketches_are_exact(rng, width, words):
    """Random bits between all clear and all set, random digits and the largest ones."""
    groups = aligned_zeros((3, words * 64), np.uint8)
    groups[1], groups[2] = rng.integers(0, 256, words * 64), 255
    for digits in (rng.integers(-128, 128, (width, 32 * words)), np.full((width, 32 * words), 127)):
        room = np.zeros(3 + 8 * words * width, np.int32)
        room[3:] = woven(digits.astype(np.int8))
        sums = np.full((width + 1, 3 * GROUP + 1), 7, np.int32)
        for group in range(3):
            sum_group(width, groups, group, room, 3, sums, 1, 1 + group * GROUP)
        assert (reference_scan.sketch_products(groups, digits) == sums[1:, 1:]).all()
        assert (sums[0] == 7).all()
        assert (sums[:, 0] == 7).all()


def test_rows_whose_score_reaches_the_threshold_pass(rng):
    """Sums and factors whose scores float32 holds exactly."""
    factors = rng.integers(-3, 4, (2, 2, GROUP)).astype(np.float32)
    sums = rng.integers(-40, 40, (2, 3 * GROUP)).astype(np.int32)
    numbers = np.array([0.5, 3, 2], np.float32)
    scores = factors[1, 0] * 0.5 * (sums[1, GROUP : 2 * GROUP] - 3) + factors[1, 1] * 2
    for least in (-5, 0, 4.5, -np.inf, np.inf):
        mask = which_pass(factors, 1, sums, 1, GROUP, numbers, np.float32(least))
        assert (scores >= least).tolist() == [bool(mask >> lane & 1) for lane in range(GROUP)]
        assert mask >> GROUP == 0


@pytest.mark.parametrize("mask", [1, 2, 0x8000, 0x8001, 0x5555, 0xFFFF, 0x0FF0])
def test_lanes_of_a_mask_are_written_behind_each_other(rng, mask):
    sums = rng.integers(-9, 9, (2, 40)).astype(np.int32)
    passed = np.full((2, 5 + 2 * GROUP), 7, np.int32)
    lanes = [lane for lane in range(GROUP) if mask >> lane & 1]
    assert len(lanes) == lanes_of(mask, 160, sums, 1, 20, passed, 5)
    assert [160 + lane for lane in lanes] == passed[0, 5 : 5 + len(lanes)].tolist()
    assert sums[1, [20 + lane for lane in lanes]].tolist() == passed[1, 5 : 5 + len(lanes)].tolist()
    assert (passed[:, :5] == 7).all()
    assert lanes[0] == lowest_bit(mask)


@pytest.mark.parametrize("kind", ["int8", "tq4", "tq2", "tq1"])
@pytest.mark.parametrize("dim", DIMS)
def test_sketches_hold_the_highest_bits(rng, kind, dim):
    """Rows written in pieces, over what was there before."""
    vectors = rng.standard_normal((19, dim)).astype(np.float32)
    quantizer = fit_quantizer(kind, vectors, "l2", 0)
    codes, scales, squares = encode_rows(quantizer, vectors)
    factors = factors_of(scales, squares, "l2")
    groups, group_factors = reference_scan.sketch_rows(codes, factors, quantizer.scheme, dim)
    found = scan.Sketches(np.zeros_like(groups), np.zeros((2, 2, GROUP), np.float32))
    found.groups.reshape(2, -1, GROUP, 4)[0] = 255
    for start, stop in ((0, 1), (1, 16), (16, 19)):
        scan.sketch_rows(codes[start:stop], factors[start:stop], quantizer.scheme, dim, start, found)
    assert (groups == found.groups).all()
    np.testing.assert_allclose(found.factors, group_factors, rtol=1e-5)


def made(kind, metric, vectors, slack=None):
    """(arguments of the kernel but queries and results, estimates of all rows for a query)."""
    quantizer = fit_quantizer(kind, vectors, metric, 0)
    codes, scales, squares = encode_rows(quantizer, vectors)
    factors = factors_of(scales, squares, metric)
    n_groups = -(-len(vectors) // GROUP) if has_sketches(quantizer) else 0
    sketches = scan.Sketches(
        aligned_zeros((n_groups, group_bytes(quantizer)), np.uint8), np.zeros((n_groups, 2, GROUP), np.float32)
    )
    if n_groups:
        scan.sketch_rows(codes, factors, quantizer.scheme, vectors.shape[1], 0, sketches)
    kept = codes if has_codes(quantizer) else codes[:0]
    slack = (scan.SLACK if slack is None else slack) if has_codes(quantizer) else 0
    settings = METRICS[metric], quantizer.scheme, np.float32(slack)
    rows = (sketches.groups, sketches.factors, kept, factors)

    def estimates(query):
        return PreparedQuery(quantizer, query).score(codes, factors, vectors)

    return quantizer, settings, rows, estimates


def space_for(quantizer, depth):
    work, digits, table = query_room(quantizer)
    rows = scan.BLOCK_ROWS
    return (
        aligned_zeros((MANY, len(digits)), np.int8),
        np.zeros((MANY, len(table)), np.float32),
        work,
        np.zeros((MANY, 5), np.float32),
        np.zeros(MANY * group_bytes(quantizer) // 8, np.int32),
        np.zeros((MANY, rows), np.int32),
        np.zeros((2, rows + GROUP), np.int32),
        np.zeros((MANY, rows), np.int64),
        np.zeros((MANY, rows), np.float32),
        np.zeros((MANY, scan.WAITING_ROWS), np.int64),
        np.zeros((MANY, scan.WAITING_ROWS), np.float32),
        np.zeros((MANY, depth), np.int64),
        np.zeros((MANY, 3), np.int64),
        np.zeros(1, np.int64),
    )


def scanned(kernel_args, vectors, ids, queries, k, depth, *, span=None):
    quantizer, settings, rows, _ = kernel_args
    n = len(queries)
    by_rank = np.argsort(ids).astype(np.uint32)
    ranks = np.argsort(by_rank).astype(np.uint32)
    out = np.zeros((n, k), np.uint64), np.zeros((n, k), np.float32), np.zeros(n, np.int64)
    status = scan.scan_queries(
        queries, span or (0, n), settings, (*rows, ranks, by_rank), tuple(kernel_transform(quantizer)),
        (vectors, ids), space_for(quantizer, depth), out,
    )  # fmt: skip
    return status, out


def check(found, q, expected):
    ids, scores, counts = found
    assert expected[0] == ids[q].tolist()
    np.testing.assert_allclose(scores[q], expected[1], rtol=1e-5, atol=1e-5)
    assert expected[2] == counts[q]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["int8", "tq4", "tq2", "tq1", "binary", "pq"])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 33])
def test_a_scan_that_keeps_all_rows_is_exact(rng, kind, metric, n):
    dim = DIMS[n % len(DIMS)]
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    queries = rng.standard_normal((SOME + 1, dim)).astype(np.float32)
    ids = (rng.permutation(n) * 10).astype(np.uint64)
    status, out = scanned(made(kind, metric, vectors), vectors, ids, queries, 5, n)
    assert (scan.OK, len(queries)) == status
    for q, query in enumerate(queries):
        scores = reference.exact_scores(vectors, query, METRICS[metric])
        check(out, q, reference_scan.nearest_rows(scores, 5, ids))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["int8", "tq4", "tq2", "tq1", "binary", "pq"])
def test_candidates_are_the_best_by_code(rng, kind, metric):
    """With slack enough for every row the candidates are those of a sort; some rows wait, more than one block."""
    n = 16 * scan.FIRST_GROUPS * 3 + 5
    vectors = rng.standard_normal((n, 33)).astype(np.float32)
    queries = rng.standard_normal((3, 33)).astype(np.float32)
    ids = rng.permutation(n).astype(np.uint64)
    args = made(kind, metric, vectors, slack=20)
    _, out = scanned(args, vectors, ids, queries, 4, 9)
    for q, query in enumerate(queries):
        scores = reference.exact_scores(vectors, query, METRICS[metric])
        check(out, q, reference_scan.scan(args[3](query), 9, scores, 4, ids))


@pytest.mark.parametrize("kind", ["int8", "tq4", "tq2"])
def test_the_slack_loses_next_to_nothing(rng, kind):
    vectors = rng.standard_normal((150, 64)).astype(np.float32)
    queries = rng.standard_normal((5, 64)).astype(np.float32)
    ids = np.arange(150, dtype=np.uint64)
    _, exact = scanned(made(kind, "cosine", vectors, slack=20), vectors, ids, queries, 5, 10)
    _, found = scanned(made(kind, "cosine", vectors), vectors, ids, queries, 5, 10)
    assert (exact[0] == found[0]).mean() >= 0.96


@pytest.mark.parametrize("n_queries", [1, 2, SOME, SOME + 1, 2 * SOME + 1, MANY, MANY + 1])
def test_a_query_finds_the_same_in_every_company(rng, n_queries):
    vectors = rng.standard_normal((40, 24)).astype(np.float32)
    queries = rng.standard_normal((n_queries, 24)).astype(np.float32)
    ids = np.arange(40, dtype=np.uint64)
    args = made("tq4", "ip", vectors)
    _, batch = scanned(args, vectors, ids, queries, 3, 6)
    for q in range(n_queries):
        _, single = scanned(args, vectors, ids, queries, 3, 6, span=(q, q + 1))
        for together, alone in zip(batch, single, strict=True):
            assert together[q].tolist() == alone[q].tolist()


def test_waiting_rows_are_scored_when_their_room_is_full(rng):
    """Sketches that say little and a large slack make most rows wait; the room holds few blocks."""
    n = 200 if JIT_DISABLED else scan.WAITING_ROWS + 2 * scan.BLOCK_ROWS
    vectors = rng.standard_normal((n, 4)).astype(np.float32)
    query = rng.standard_normal((1, 4)).astype(np.float32)
    ids = np.arange(n, dtype=np.uint64)
    args = made("int8", "ip", vectors, slack=12)
    _, out = scanned(args, vectors, ids, query, 3, 4)
    scores = reference.exact_scores(vectors, query[0], METRICS["ip"])
    check(out, 0, reference_scan.scan(args[3](query[0]), 4, scores, 3, ids))


@pytest.mark.parametrize(
    ("value", "status"), [(np.nan, scan.QUERY_NOT_FINITE), (np.inf, scan.QUERY_NOT_FINITE), (0, scan.QUERY_ZERO)]
)
def test_a_query_that_cant_be_is_told(rng, value, status):
    vectors = rng.standard_normal((5, 4)).astype(np.float32)
    queries = np.ones((3, 4), np.float32)
    queries[1] = value
    assert (status, 1) == scanned(
        made("tq4", "cosine", vectors), vectors, np.arange(5, dtype=np.uint64), queries, 2, 3
    )[0]


def test_a_zero_query_is_a_query_for_other_metrics(rng):
    vectors = rng.standard_normal((5, 4)).astype(np.float32)
    for metric in ("ip", "l2"):
        ids = np.arange(5, dtype=np.uint64)
        status, out = scanned(made("tq4", metric, vectors), vectors, ids, np.zeros((1, 4), np.float32), 5, 5)
        assert scan.OK == status[0]
        assert list(range(5)) == sorted(out[0][0].tolist())


def test_the_codes_tuple_takes_what_score_rows_takes():
    """`scan_queries` builds it from ``rows`` by place."""
    assert ("scheme", "codes", "factors", "vectors") == Codes._fields
