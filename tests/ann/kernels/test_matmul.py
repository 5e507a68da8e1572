"""Exact products and the best of them: the naive answer, whatever tiles, blocks and heaps the work is cut into."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from skeg.ann.kernels import matmul, simd_scan
from skeg.ann.kernels.pool import PAST_EVERY_KEY
from skeg.ann.metric import METRICS
from skeg.jit import kernel
from tests import reference, reference_scan

pytestmark = pytest.mark.kernels

ROWS = (0, 1, 3, 4, 15, 16, 17, 33)
NO_ROWS = np.zeros(0, np.uint32)
NO_IDS = np.zeros(0, np.uint64)


@kernel()
def multiply(tile, queries, vectors, products):
    """One tile from the second query and the third row on."""
    if tile == 0:
        simd_scan.dots_tile(queries, np.int64(1), vectors, np.int64(2), products, np.int64(1))
    elif tile == 1:
        simd_scan.dots_strip(queries, np.int64(1), vectors, np.int64(2), products, np.int64(1))
    elif tile == 2:
        simd_scan.dots_pair(queries, np.int64(1), vectors, np.int64(2), products, np.int64(1))
    elif tile == 3:
        simd_scan.distances_tile(queries, np.int64(1), vectors, np.int64(2), products, np.int64(1))
    elif tile == 4:
        simd_scan.distances_strip(queries, np.int64(1), vectors, np.int64(2), products, np.int64(1))
    else:
        simd_scan.distances_pair(queries, np.int64(1), vectors, np.int64(2), products, np.int64(1))


@kernel()
def keep_all(heap, keys):
    size = 0
    for i in range(keys.shape[0]):
        size = matmul.keep(heap, size, keys[i])
    matmul.sort_kept(heap, size)
    return size


@kernel()
def which_pass(products, q, column, norms, least):
    return simd_scan.products_pass(products, np.int64(q), np.int64(column), norms, least)


def work_space():
    rows = matmul.BLOCK_ROWS
    return np.zeros((simd_scan.TILE_QUERIES, rows), np.float32), np.zeros(rows, np.float32)


def nearest(vectors, queries, k, metric, *, ids=NO_IDS, ranks=NO_ROWS, by_rank=NO_ROWS, cuts=()):
    """Hits of the kernels, with the rows in the blocks that ``cuts`` makes of them."""
    n = len(queries)
    heaps, sizes = np.zeros((n, max(1, min(k, len(vectors)))), np.int64), np.zeros(n, np.int64)
    norms, query_norms = np.zeros(len(vectors), np.float32), np.zeros(n, np.float32)
    matmul.vector_norms(vectors, np.zeros((1, 1), np.float32), norms)
    matmul.vector_norms(queries, np.zeros((1, 1), np.float32), query_norms)
    edges = [0, *cuts, len(vectors)]
    for start, stop in pairwise(edges):
        base = vectors[start:stop], norms[start:stop]
        matmul.nearest_rows(
            queries, query_norms, (0, n), METRICS[metric], base, ranks, start, heaps, sizes, work_space()
        )
    out = np.zeros((n, k), np.uint64), np.zeros((n, k), np.float32), np.zeros(n, np.int64)
    matmul.unload(heaps, sizes, (0, n), ids, by_rank, out)
    return out


@pytest.mark.parametrize("tile", range(6))
@pytest.mark.parametrize("dim", [*reference.DIMS, 384])
def test_tiles_write_their_products_and_nothing_else(rng, dim, tile):
    n_queries, n_rows = [(simd_scan.TILE_QUERIES, simd_scan.TILE_ROWS), (1, simd_scan.TILE_ROWS), (1, 1)][tile % 3]
    queries = rng.standard_normal((n_queries + 2, dim)).astype(np.float32)
    vectors = rng.standard_normal((n_rows + 3, dim)).astype(np.float32)
    products = np.full((n_queries + 1, n_rows + 2), 7, np.float32)
    multiply(tile, queries, vectors, products)
    x, y = vectors[2 : 2 + n_rows].astype(np.float64), queries[1 : 1 + n_queries].astype(np.float64)
    expected = y @ x.T if tile < 3 else -np.square(y[:, None] - x).sum(axis=2)
    np.testing.assert_allclose(products[:n_queries, 1 : 1 + n_rows], expected, rtol=1e-5, atol=1e-4)
    assert (products[:, 0] == 7).all()
    assert (products[:, -1] == 7).all()
    assert (products[-1] == 7).all()


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("dim", [*reference.DIMS, 384])
def test_a_pair_has_the_same_bits_in_every_tile(rng, dim, first):
    queries = rng.standard_normal((simd_scan.TILE_QUERIES + 2, dim)).astype(np.float32)
    vectors = rng.standard_normal((simd_scan.TILE_ROWS + 3, dim)).astype(np.float32)
    found = np.zeros((3, simd_scan.TILE_QUERIES, simd_scan.TILE_ROWS + 1), np.float32)
    for shape in range(3):
        multiply(first + shape, queries, vectors, found[shape])
    assert found[0, 0].tolist() == found[1, 0].tolist()
    assert found[0, 0, 1] == found[2, 0, 1]


@pytest.mark.parametrize("n", ROWS)
def test_norms_are_exact_to_rounding(rng, n):
    vectors = rng.standard_normal((n, 17)).astype(np.float32)
    norms = np.zeros(n, np.float32)
    assert n == matmul.vector_norms(vectors, np.zeros((1, 1), np.float32), norms)
    np.testing.assert_allclose(norms, reference_scan.vector_norms(vectors), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e25])
def test_the_first_row_without_a_finite_norm_is_told(bad):
    vectors = np.ones((5, 3), np.float32)
    vectors[2:, 1] = bad
    assert 2 == matmul.vector_norms(vectors, np.zeros((1, 1), np.float32), np.zeros(5, np.float32))


@pytest.mark.parametrize("capacity", [1, 2, 3, 10, 40])
def test_the_smallest_keys_are_kept_and_sorted(rng, capacity):
    keys = rng.integers(-20, 20, 33)
    heap = np.full(capacity, PAST_EVERY_KEY, np.int64)
    assert min(capacity, 33) == keep_all(heap, keys)
    assert sorted(keys.tolist())[:capacity] == heap[: min(capacity, 33)].tolist()


def test_all_orders_of_few_keys_are_kept_and_sorted():
    for keys in permutations(range(5)):
        heap = np.zeros(3, np.int64)
        keep_all(heap, np.array(keys))
        assert [0, 1, 2] == heap.tolist()


def test_products_that_reach_the_threshold_pass(rng):
    products = rng.standard_normal((2, 40)).astype(np.float32)
    norms = rng.uniform(0.5, 2, 40).astype(np.float32)
    for least in (0.3, -0.2, -np.inf, np.inf):
        mask = which_pass(products, 1, 16, norms, np.float32(least))
        expected = products[1, 16:32] >= np.float32(least) * norms[16:32]
        assert expected.tolist() == [bool(mask >> lane & 1) for lane in range(16)]
        assert mask >> 16 == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 3, 15, 16, 17, 33])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_the_best_rows_are_found(rng, metric, n, k):
    vectors = rng.standard_normal((n, 17)).astype(np.float32)
    queries = rng.standard_normal((simd_scan.TILE_QUERIES + 1, 17)).astype(np.float32)
    ids, scores, counts = nearest(vectors, queries, k, metric)
    for q, query in enumerate(queries):
        expected = reference_scan.nearest_rows(reference.exact_scores(vectors, query, METRICS[metric]), k)
        assert expected[0] == ids[q].tolist()
        np.testing.assert_allclose(scores[q], expected[1], rtol=1e-5, atol=1e-5)
        assert expected[2] == counts[q]


@pytest.mark.parametrize("metric", METRICS)
def test_equal_scores_come_in_order_of_ids(rng, metric):
    """Few different vectors, so that most scores are equal and the last place is fought for."""
    vectors = rng.integers(0, 2, (40, 3)).astype(np.float32) + np.float32(1)
    queries = np.array([[1, 2, 1], [1, 1, 1]], np.float32)
    ids = (rng.permutation(40) * 3).astype(np.uint64)
    by_rank = np.argsort(ids).astype(np.uint32)
    ranks = np.argsort(by_rank).astype(np.uint32)
    for k in (1, 7, 39, 50):
        found = nearest(vectors, queries, k, metric, ids=ids, ranks=ranks, by_rank=by_rank, cuts=(16, 19))
        single = nearest(vectors, queries, 40, metric, ids=ids, ranks=ranks, by_rank=by_rank)
        scores = {int(i): s for i, s in zip(single[0][1], single[1][1], strict=True)}
        expected = reference_scan.nearest_rows(np.array([scores[int(i)] for i in ids]), k, ids)
        assert expected[0] == found[0][1].tolist()
        assert expected[1] == found[1][1].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_change_nothing(rng, metric):
    vectors = rng.standard_normal((33, 20)).astype(np.float32)
    queries = rng.standard_normal((4, 20)).astype(np.float32)
    expected = nearest(vectors, queries, 9, metric)
    for cuts in ((1,), (16,), (5, 5, 20), range(1, 33)):
        for found, want in zip(nearest(vectors, queries, 9, metric, cuts=cuts), expected, strict=True):
            assert want.tolist() == found.tolist()


def test_more_rows_than_a_block(rng):
    n = matmul.BLOCK_ROWS + 5
    vectors = np.zeros((n, 1), np.float32)
    vectors[:, 0] = rng.permutation(n)
    ids, scores, _ = nearest(vectors, np.ones((1, 1), np.float32), 3, "ip")
    assert [n - 1, n - 2, n - 3] == scores[0].tolist()
    assert np.argsort(-vectors[:, 0])[:3].tolist() == ids[0].tolist()
