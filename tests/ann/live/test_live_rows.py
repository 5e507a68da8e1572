"""Rows in memory: how wrong their codes are, and what a scan of them finds."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann import Index
from skeg.ann.live.rows import LiveRows
from skeg.ann.params import GraphParams
from skeg.ann.quantizers import PreparedQuery
from skeg.ann.transform import RowTransform
from tests.ann.live.small import no_background
from tests.indexes import scores_of


def live_rows(vectors, metric):
    n, dim = vectors.shape
    transform = RowTransform.rotating(np.zeros(dim, np.float32), metric, 0)
    rows = LiveRows(transform, GraphParams.for_data(metric, dim, max_degree=8), n)
    rows.append(np.arange(n, dtype=np.uint64), vectors, rows.encode(vectors), ())
    return rows


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("dim", [8, 64, 384])
def test_the_error_of_codes_is_what_was_expected(rng, metric, dim):
    vectors = rng.standard_normal((300, dim)).astype(np.float32)
    vectors *= 5 / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = live_rows(vectors, metric)
    errors = []
    queries = rng.standard_normal((30, dim)).astype(np.float32)
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        estimates = PreparedQuery(rows.quantizer, query).score(rows._codes, rows._factors, rows.vectors)
        errors.append(estimates - scores_of(vectors, query, metric))
    assert 0.8 < np.std(errors) / rows.code_error < 1.1


def test_the_longest_row_decides_and_l2_has_no_bound(rng):
    vectors = rng.standard_normal((4, 16)).astype(np.float32)
    error = live_rows(vectors, "ip").code_error
    vectors[2] *= 10 * np.linalg.norm(vectors, axis=1).max() / np.linalg.norm(vectors[2])
    assert 5 * error < live_rows(vectors, "ip").code_error < 20 * error
    assert np.inf == live_rows(vectors, "l2").code_error


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("far", [1.0, 1000.0])
def test_scans_find_what_is_nearest(rng, tmp_path, monkeypatch, metric, far):
    """Rows near each other, also for queries far from all of them."""
    no_background(monkeypatch)
    vectors = (rng.standard_normal(32) + 0.5 * rng.standard_normal((3000, 32))).astype(np.float32)
    queries = (rng.standard_normal((50, 32)) * far).astype(np.float32)
    with Index.create(tmp_path / "index", 32, metric=metric) as index:
        index.add(np.arange(1000), vectors[:1000])
        index.consolidate()
        for start in range(1000, 3000, 500):
            index.add(np.arange(start, start + 500), vectors[start : start + 500])
        assert 2000 == index.stats()["rows_delta"]
        found, expected = (index.search(queries, 10, exact=exact) for exact in (False, True))
    new = [set(ids[ids >= 1000].tolist()) for ids in expected.ids]
    missed = sum(len(ids - set(some.tolist())) for ids, some in zip(new, found.ids, strict=True))
    assert 100 < sum(map(len, new))
    assert missed <= 0.01 * sum(map(len, new))
