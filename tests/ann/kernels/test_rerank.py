"""Exact scores and the best k of them."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.prepare import COSINE, IP, L2
from skeg.ann.kernels.rerank import MISSING_ID, exact_score, offer, rerank
from tests import reference

pytestmark = pytest.mark.kernels

METRICS = [COSINE, IP, L2]


def norm_of(query):
    return np.float32(np.linalg.norm(query))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", reference.DIMS)
def test_scores_are_exact_to_rounding(rng, metric, dim):
    vectors = rng.standard_normal((4, dim)).astype(np.float32)
    query = rng.standard_normal(dim).astype(np.float32)
    scores = [exact_score(vectors, row, query, norm_of(query), metric) for row in range(4)]
    np.testing.assert_allclose(scores, reference.exact_scores(vectors, query, metric), rtol=2e-6, atol=2e-6)


def test_a_zero_vector_scores_zero_under_cosine():
    vectors = np.zeros((1, 3), np.float32)
    query = np.ones(3, np.float32)
    assert exact_score(vectors, 0, query, norm_of(query), COSINE) == 0
    assert exact_score(vectors + np.float32(1), 0, np.zeros(3, np.float32), np.float32(0), COSINE) == 0


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_offers_in_any_order_leave_the_best_k_sorted(rng, k):
    scores = rng.integers(-3, 4, 30).astype(np.float32)
    ids = rng.permutation(30).astype(np.uint64)
    out_ids, out_scores, count = np.zeros(k, np.uint64), np.zeros(k, np.float32), 0
    for done in range(30):
        count = offer(out_ids, out_scores, np.int64(count), ids[done], scores[done])
        expected = reference.rerank(scores, ids, range(done + 1), k)
        assert expected == list(zip(out_ids[:count].tolist(), out_scores[:count].tolist(), strict=True))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 3, 10, 30])
@pytest.mark.parametrize("depth", [0, 1, 2, 9, 20])
def test_the_best_k_by_score_and_then_by_id(rng, metric, k, depth):
    """Integers, so that scores are exact and equal ones many."""
    vectors = rng.integers(-1, 2, (20, 3)).astype(np.float32)
    query = np.array([2, -1, 0], np.float32)
    ids = (rng.permutation(20) * 10**17).astype(np.uint64)
    rows = rng.permutation(20)
    pool = np.array([reference.pack(i, int(row)) | (i & 1) for i, row in enumerate(rows)], np.int64)
    out = np.zeros(k, np.uint64), np.zeros(k, np.float32)
    count = rerank(vectors, ids, pool, depth, query, norm_of(query), metric, np.int64(0), out)
    scores = np.array([exact_score(vectors, row, query, norm_of(query), metric) for row in range(20)])
    np.testing.assert_allclose(scores, reference.exact_scores(vectors, query, metric), rtol=1e-6, atol=1e-6)
    expected = reference.rerank(scores, ids, rows[:depth], k)
    assert min(k, depth) == count
    assert [hit[0] for hit in expected] == out[0][:count].tolist()
    assert [hit[1] for hit in expected] == out[1][:count].tolist()
    assert (out[0][count:] == MISSING_ID).all()
    assert (out[1][count:] == -np.inf).all()


def known_then(known, ids, vectors, *, k, depth=None):
    """Hits, best first, of rows that are met in this order under inner product with (1,) after others are known."""
    vectors = np.array(vectors, np.float32)[:, None]
    pool = np.array([reference.pack(i, i) for i in range(len(ids))], np.int64)
    out = np.full(k, 77, np.uint64), np.full(k, 77, np.float32)
    for place, (number, score) in enumerate(known):
        out[0][place], out[1][place] = number, score
    query = np.ones(1, np.float32)
    depth = len(ids) if depth is None else depth
    ids = np.array(ids, np.uint64)
    count = rerank(vectors, ids, pool, depth, query, norm_of(query), IP, np.int64(len(known)), out)
    assert (out[0][count:] == MISSING_ID).all()
    assert (out[1][count:] == -np.inf).all()
    return list(zip(out[0][:count].tolist(), out[1][:count].tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 2, 5, 30])
@pytest.mark.parametrize("n_known", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("n_rows", [0, 1, 4, 12])
def test_rows_compete_with_known_hits_and_replace_those_of_their_ids(rng, k, n_known, n_rows):
    """Few scores and few ids, so that equal scores and replaced ids are many."""
    for _ in range(6):
        scores = rng.integers(-2, 3, 40).astype(float)
        known = reference.rerank(scores, np.arange(40), rng.permutation(20)[:n_known], k)
        ids = rng.permutation(20)[:n_rows]
        vectors = rng.integers(-2, 3, n_rows).astype(float)
        expected = reference.rerank(vectors, ids, range(n_rows), k, known)
        assert expected == known_then(known, ids, vectors.reshape(n_rows), k=k)


def test_a_row_replaces_a_better_hit_of_its_id():
    assert [(2, 5.0), (1, -1.0)] == known_then([(1, 9.0), (2, 5.0)], [1], [-1], k=2)
    assert [(1, -1.0)] == known_then([(1, 9.0)], [1], [-1], k=1)


def test_a_hit_that_will_be_replaced_pushes_no_other_out():
    """Row 3 comes first and would fill the list together with the old hit of id 1."""
    assert [(3, 8.0), (2, 5.0)] == known_then([(1, 9.0), (2, 5.0)], [3, 1], [8, 1], k=2)


def test_rows_past_the_depth_replace_nothing():
    assert [(1, 9.0), (2, 5.0)] == known_then([(1, 9.0), (2, 5.0)], [1], [-1], k=2, depth=0)


def test_the_largest_id_is_an_id():
    largest = 2**64 - 2
    assert [(largest, 3.0), (4, 2.0)] == known_then([(4, 2.0), (largest, 1.0)], [largest], [3], k=2)
