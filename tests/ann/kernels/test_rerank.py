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
    count = rerank(vectors, ids, pool, depth, query, norm_of(query), metric, out)
    scores = np.array([exact_score(vectors, row, query, norm_of(query), metric) for row in range(20)])
    np.testing.assert_allclose(scores, reference.exact_scores(vectors, query, metric), rtol=1e-6, atol=1e-6)
    expected = reference.rerank(scores, ids, rows[:depth], k)
    assert min(k, depth) == count
    assert [hit[0] for hit in expected] == out[0][:count].tolist()
    assert [hit[1] for hit in expected] == out[1][:count].tolist()
    assert (out[0][count:] == MISSING_ID).all()
    assert (out[1][count:] == -np.inf).all()
