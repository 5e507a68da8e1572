"""Queries as the scoring kernels want them."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.prepare import COSINE, IP, L2, Transform, prepare_query, quantize_query, square_sum
from skeg.ann.kernels.score import SCHEME_F32, SCHEME_PQ
from tests import reference

pytestmark = pytest.mark.kernels

METRICS = [COSINE, IP, L2]
NO_BOOK = np.zeros((0, 0, 0), np.float32)


def prepared(raw, metric, scheme, transform, padded=128):
    work, digits = np.zeros(len(raw), np.float32), np.zeros(padded, np.int8)
    table = np.zeros(max(1, transform.codebook.shape[0] * 256), np.float32)
    return prepare_query(raw, metric, scheme, transform, work, digits, table)


@pytest.mark.parametrize("dim", reference.DIMS)
def test_sum_of_squares(rng, dim):
    x = rng.standard_normal(dim).astype(np.float32)
    np.testing.assert_allclose(square_sum(x), float(np.square(x.astype(np.float64)).sum()), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sum_of_squares_of_a_vector_that_is_not_finite_is_not_finite(bad):
    for dim in (1, 17, 64):
        x = np.ones(dim, np.float32)
        x[dim // 2] = bad
        assert not np.isfinite(square_sum(x))


@pytest.mark.parametrize("dim", reference.DIMS)
def test_digits_are_the_query_to_half_a_step(rng, dim):
    x = rng.standard_normal(dim).astype(np.float32)
    digits = np.zeros(128, np.int8)
    step, total = quantize_query(x, digits)
    np.testing.assert_allclose(step, np.abs(x).max() / 127, rtol=1e-6)
    assert np.abs(digits[:dim] * np.float64(step) - x).max() <= step * 0.5001
    assert np.abs(digits[:dim].astype(int)).max() == 127
    assert int(digits.sum(dtype=np.int64)) == total
    assert not digits[dim:].any()


@pytest.mark.parametrize("size", [0, 1e-45, 1e-40, 1e-36, 1e-30, 1e18, 3e38])
def test_queries_at_the_ends_of_float32_keep_their_size(size):
    x = np.array([0, size, -size], np.float32)
    digits = np.zeros(64, np.int8)
    step, total = quantize_query(x, digits)
    assert np.isfinite(step)
    assert 0 == total
    np.testing.assert_allclose(digits[:3] * np.float64(step), x, rtol=1e-5, atol=1e-35)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", reference.DIMS)
def test_packed_kinds_get_the_turned_query_in_int8_and_its_bias(rng, metric, dim):
    transform = Transform(
        rng.standard_normal(dim).astype(np.float32),
        rng.choice([-1, 1], (4, dim)).astype(np.int8),
        np.float32(7.5),
        NO_BOOK,
    )
    raw = rng.standard_normal(dim).astype(np.float32)
    query = prepared(raw, metric, 4, transform)
    expected = reference.prepare_query(raw, metric, transform.mean, transform.signs)
    np.testing.assert_allclose(
        query.digits[:dim] * np.float64(query.step), expected, rtol=0, atol=float(query.step) * 0.5 + 1e-5
    )
    np.testing.assert_allclose(query.bias, 7.5 * query.digits.sum(dtype=np.int64), rtol=1e-6)
    assert (1.0 if metric == L2 else 0.0) == query.weight


@pytest.mark.parametrize("metric", METRICS)
def test_f32_takes_the_query_as_it_is(rng, metric):
    raw = rng.standard_normal(5).astype(np.float32)
    transform = Transform(np.zeros(5, np.float32), np.zeros((0, 5), np.int8), np.float32(0), NO_BOOK)
    query = prepared(raw, metric, SCHEME_F32, transform)
    np.testing.assert_array_equal(raw, query.table)
    assert (1.0, 0.0) == (query.step, query.bias)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 8, 17])
def test_pq_gets_the_inner_product_with_every_centroid(rng, metric, dim):
    codebook = rng.standard_normal((-(-dim // 8), 256, 8)).astype(np.float32)  # not zero past dim: must not matter
    mean, signs = rng.standard_normal(dim).astype(np.float32), rng.choice([-1, 1], (4, dim)).astype(np.int8)
    raw = rng.standard_normal(dim).astype(np.float32)
    query = prepared(raw, metric, SCHEME_PQ, Transform(mean, signs, np.float32(0), codebook))
    turned = np.zeros(len(codebook) * 8)
    turned[:dim] = reference.prepare_query(raw, metric, mean, signs)
    expected = np.einsum("mj,mcj->mc", turned.reshape(-1, 8), codebook)
    np.testing.assert_allclose(query.table.reshape(-1, 256), expected, rtol=0, atol=2e-5)
    assert (1.0, 0.0) == (query.step, query.bias)
