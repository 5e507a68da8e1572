"""Exact search gives what sorting all scores gives, from any input, in any blocks, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.ann import exact
from skeg.ann.exact import exact_search, scan_vectors
from skeg.ann.hits import MISSING_ID
from skeg.ann.metric import METRICS
from skeg.ann.sources import open_source
from skeg.errors import ParameterError, StorageError, VectorError
from tests import reference, reference_scan


def same(left, right):
    for x, y in zip(left, right, strict=True):
        assert x.tolist() == y.tolist()


def check(base, queries, k, metric, hits):
    """Scores are those of float64 up to rounding, sorted, and no row that was left out is better."""
    for q, query in enumerate(queries):
        scores = reference.exact_scores(base, query, METRICS[metric])
        expected = reference_scan.nearest_rows(scores, k)
        np.testing.assert_allclose(hits.scores[q], expected[1], rtol=1e-5, atol=1e-5)
        ids = hits.ids[q][: expected[2]].astype(np.int64)
        assert len(set(ids.tolist())) == expected[2]
        np.testing.assert_allclose(scores[ids], hits.scores[q][: expected[2]], rtol=1e-5, atol=1e-5)
        assert (hits.ids[q][expected[2] :] == MISSING_ID).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 16, 63, 64, 65, 100])
@pytest.mark.parametrize("n", [1, 2, 17, 300])
def test_sorting_all_scores_gives_the_same(rng, n, dim, metric):
    base = rng.standard_normal((n, dim)).astype(np.float32)
    queries = rng.standard_normal((7, dim)).astype(np.float32)
    check(base, queries, 10, metric, exact_search(base, queries, 10, metric=metric))


@given(st.data())
def test_equal_scores_come_by_id_whatever_the_blocks(data):
    """Small integers: scores are exact, and most are equal."""
    n, dim, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 45))
    numbers = np.random.default_rng(data.draw(st.integers(0, 1000)))
    base = numbers.integers(-1, 2, (n, dim)).astype(np.float32)
    queries = numbers.integers(-1, 2, (3, dim)).astype(np.float32)
    metric = data.draw(st.sampled_from(["ip", "l2"]))
    blocks = iter(np.split(base, sorted(data.draw(st.lists(st.integers(1, n), max_size=4)))))
    hits = exact_search((block for block in blocks if len(block)), queries, k, metric=metric)
    for q, query in enumerate(queries):
        expected = reference_scan.nearest_rows(reference.exact_scores(base, query, METRICS[metric]), k)
        assert expected[0] == hits.ids[q].tolist()
        assert expected[1] == hits.scores[q].tolist()
        assert expected[2] == hits.counts[q]


@pytest.mark.parametrize("metric", METRICS)
def test_threads_blocks_and_company_change_nothing(rng, metric, monkeypatch):
    base = rng.standard_normal((700, 20)).astype(np.float32)
    base[600:] = base[:100]
    queries = rng.standard_normal((110, 20)).astype(np.float32)
    expected = exact_search(base, queries, 5, metric=metric, threads=1)
    for threads in (2, 3):
        same(expected, exact_search(base, queries, 5, metric=metric, threads=threads))
    for query, ids, scores in zip(queries[:8], *expected, strict=False):
        same((ids, scores), exact_search(base, query, 5, metric=metric))
    monkeypatch.setattr(exact, "BLOCK_BYTES", 20 * 4 * 37)
    same(expected, exact_search(base, queries, 5, metric=metric, threads=2))


def test_one_query_gets_one_row_of_what_there_is(rng):
    base = rng.standard_normal((3, 4)).astype(np.float32)
    single, batch = exact_search(base, base[0], 5), exact_search(base, base[:1], 5)
    assert (3,) == single.ids.shape
    assert 3 == single.counts
    assert (1, 5) == batch.ids.shape
    assert [3] == batch.counts.tolist()
    assert [MISSING_ID] * 2 == batch.ids[0, 3:].tolist()
    assert [-np.inf] * 2 == batch.scores[0, 3:].tolist()
    assert single.ids.tolist() == batch.ids[0, :3].tolist()
    assert {"scored": 0, "expanded": 0, "reranked": 3, "list_size": 0} == single.stats


def test_no_queries_get_no_answers():
    assert (0, 4) == exact_search(np.ones((3, 2)), np.zeros((0, 2)), 4).ids.shape


def test_any_source_gives_the_same(rng, tmp_path):
    base = rng.standard_normal((50, 6)).astype(np.float16)
    queries = rng.standard_normal((4, 6))
    expected = exact_search(base.astype(np.float32), queries, 5)
    np.save(tmp_path / "base.npy", base)
    same(expected, exact_search(tmp_path / "base.npy", queries, 5))
    same(expected, exact_search(base.tolist(), queries.tolist(), 5))
    same(expected, exact_search(iter([base[:20], base[20:]]), queries, 5))
    with open_source(base) as source:
        same(expected, exact_search(source, queries, 5))


def test_l2_is_exact_far_from_the_origin(rng):
    """Distances of 1 between vectors of length 10,000, where |x|^2 - 2 <x, y> + |y|^2 has no digit left."""
    base = (10_000 + rng.integers(-3, 4, (60, 8))).astype(np.float32)
    hits = exact_search(base, base[:5], 60, metric="l2")
    for q in range(5):
        expected = reference_scan.nearest_rows(reference.exact_scores(base, base[q], METRICS["l2"]), 60)
        assert expected[0] == hits.ids[q].tolist()
        assert expected[1] == hits.scores[q].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_stored_vectors_with_ids_in_any_order(rng, metric):
    vectors = rng.integers(0, 2, (60, 3)).astype(np.float32) + np.float32(1)
    ids = (rng.permutation(60) * 7).astype(np.uint64)
    order = np.argsort(ids)
    queries = rng.integers(1, 3, (4, 3)).astype(np.float32)
    found = scan_vectors([(vectors, ids, None)], queries, 9, metric, 2)
    sorted_first = scan_vectors([(vectors[order], ids[order], None)], queries, 9, metric, 1)
    same(sorted_first, found)
    by_row = exact_search(vectors[order], queries, 9, metric=metric)
    assert ids[order][by_row.ids.astype(np.int64)].tolist() == found[0].tolist()
    assert [9] * 4 == found[2].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("metric", METRICS)
def test_a_vector_that_is_not_finite_is_named(monkeypatch, value, metric):
    monkeypatch.setattr(exact, "BLOCK_BYTES", 5 * 12)
    base = np.ones((20, 3), np.float32)
    base[13, 1] = value
    with pytest.raises(VectorError, match="base, row 13") as caught:
        exact_search(base, np.ones(3), 1, metric=metric)
    assert 13 == caught.value.row
    with pytest.raises(VectorError, match="queries, row 13"):
        exact_search(np.ones((2, 3)), base, 1, metric=metric)


def test_zero_vectors_have_no_direction():
    base = np.ones((5, 3), np.float32)
    base[3] = 0
    with pytest.raises(VectorError, match=r"base, row 3.*not zero"):
        exact_search(base, np.ones(3), 1)
    with pytest.raises(VectorError, match=r"queries, row 3.*not zero"):
        exact_search(np.ones((2, 3)), base, 1)
    for metric in ("ip", "l2"):
        assert 5 == exact_search(base, base[3], 9, metric=metric).counts


@pytest.mark.parametrize("k", [0, -3, 2.0, True, None])
def test_k_is_a_positive_integer(k):
    with pytest.raises(ParameterError, match="k="):
        exact_search(np.ones((2, 3)), np.ones(3), k)


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    base = np.ones((2, 3))
    with pytest.raises(VectorError, match="at least one vector"):
        exact_search(base[:0], np.ones(3), 1)
    with pytest.raises(VectorError, match="at least one vector"):
        exact_search(iter([]), np.ones(3), 1)
    with pytest.raises(VectorError, match=r"shape \(3,\)"):
        exact_search(base, np.ones(4), 1)
    with pytest.raises(VectorError, match="real numbers"):
        exact_search(base, np.array(["a", "b", "c"]), 1)
    with pytest.raises(ParameterError, match="metric="):
        exact_search(base, np.ones(3), 1, metric="dot")
    with pytest.raises(ParameterError, match="threads="):
        exact_search(base, np.ones(3), 1, threads=0)
    with pytest.raises(StorageError, match=r"none\.npy"):
        exact_search(tmp_path / "none.npy", np.ones(3), 1)
