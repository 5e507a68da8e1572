"""Quantizers: unbiased estimates with the error that theory gives, one contract for every kind."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.metric import METRICS
from skeg.ann.quantizers import (
    BITS,
    KINDS,
    STEP_SIZES,
    PreparedQuery,
    UniformQuantizer,
    encode_rows,
    factors_of,
    fit_quantizer,
    restore_quantizer,
)
from skeg.ann.transform import RowTransform
from skeg.errors import ParameterError, VectorError
from tests import reference


def estimates(quantizer, vectors, query, metric):
    """Estimated scores of stored vectors, up to what one query adds to all of them."""
    codes, scales, squares = encode_rows(quantizer, vectors)
    return PreparedQuery(quantizer, query).score(codes, factors_of(scales, squares, metric), vectors)


def grid_quality(bits):
    """Squared cosine between normal numbers and their places on the grid of b bits."""
    x = np.random.default_rng(1).standard_normal(400_000)
    step = STEP_SIZES[bits]
    if bits == 8:
        places = np.clip(np.rint(x / step), -127, 127)
    else:
        places = np.clip(np.floor(x / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5
    return (x @ places) ** 2 / ((x @ x) * (places @ places))


@pytest.mark.parametrize("dim", [128, 384])
@pytest.mark.parametrize(("kind", "bits"), BITS.items())
def test_cosine_estimates_are_unbiased_and_as_exact_as_theory_says(rng, dim, kind, bits):
    """Each pair of vectors has cosine 0.7; sd = sqrt(1 - cos^2) sqrt((1 - g^2) / g^2) / sqrt(dim - 1), g^2 the squared
    cosine of a vector and its code, and beside it the rounding of the query to int8: uniform over one step.
    """
    n, cosine = 1500, 0.7
    queries, others = rng.standard_normal((2, n, dim))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    others -= np.einsum("ij,ij->i", others, queries)[:, None] * queries
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    vectors = (cosine * queries + np.sqrt(1 - cosine**2) * others).astype(np.float32)
    quantizer = UniformQuantizer(kind, RowTransform.fit(vectors[:0], "cosine", 0), bits)
    codes, scales, squares = encode_rows(quantizer, vectors)
    factors = factors_of(scales, squares, "cosine")
    errors = np.array(
        [
            PreparedQuery(quantizer, query).score(codes[i : i + 1], factors[i : i + 1])[0] - cosine
            for i, query in enumerate(queries.astype(np.float32))
        ]
    )
    quality = grid_quality(bits)
    step = np.abs(quantizer.transform.apply(queries.astype(np.float32))[0]).max(axis=1).mean() / 127
    variance = (1 - cosine**2) * (1 - quality) / quality / (dim - 1) + step**2 / 12
    assert abs(errors.mean()) < 4 * np.sqrt(variance / n)
    np.testing.assert_allclose(errors.std(), np.sqrt(variance), rtol=0.1)


@pytest.mark.parametrize(("kind", "figure"), [("int8", 0.0005), ("tq4", 0.0039), ("tq2", 0.0136), ("tq1", 0.027)])
def test_the_errors_in_the_module_s_table_follow_from_the_formula(kind, figure):
    """At 384 dimensions and cosine 0.7; the largest of 384 normal numbers, which sets the query's step, is about 3."""
    quality = grid_quality(BITS[kind])
    variance = 0.51 * (1 - quality) / quality / 383 + (3 / np.sqrt(384) / 127) ** 2 / 12
    np.testing.assert_allclose(np.sqrt(variance), figure, rtol=0.1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_steps_have_the_least_error_for_normal_numbers(bits):
    """Mean squared error, which the steps of the packed kinds minimize, a little to both sides."""
    x = np.random.default_rng(2).standard_normal(400_000)

    def error(step):
        places = np.clip(np.floor(x / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5
        return np.square(x - places * step).mean()

    assert error(STEP_SIZES[bits]) <= min(error(STEP_SIZES[bits] * 0.97), error(STEP_SIZES[bits] * 1.03))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", reference.DIMS)
def test_f32_ranks_exactly(rng, metric, dim):
    vectors = (rng.standard_normal((40, dim)) * 3).astype(np.float32)
    query = rng.standard_normal(dim).astype(np.float32)
    found = estimates(fit_quantizer("f32", vectors, metric, 0), vectors, query, metric)
    exact = reference.exact_scores(vectors, query, METRICS[metric])
    if metric == "cosine":
        exact *= np.linalg.norm(query)
    if metric == "l2":
        exact = (exact + query.astype(np.float64) @ query) / 2
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("int8", 0.02), ("tq4", 0.15), ("tq2", 0.5), ("tq1", 1), ("binary", 1)]
)
def test_estimates_differ_from_scores_by_what_is_the_same_for_all_rows(rng, metric, kind, tolerance):
    """Half the negative squared distance under l2; rows far from the origin show that centering is undone."""
    vectors = (rng.standard_normal((60, 65)) + 4).astype(np.float32)
    query = (rng.standard_normal(65) + 4).astype(np.float32)
    found = estimates(fit_quantizer(kind, vectors, metric, 0), vectors, query, metric)
    exact = reference.exact_scores(vectors, query, METRICS[metric])
    size = {"cosine": 0.25 * np.linalg.norm(query), "ip": 4 * np.linalg.norm(query), "l2": 8}[metric]
    exact *= {"cosine": np.linalg.norm(query), "ip": 1, "l2": 0.5}[metric]
    differences = found - exact
    assert np.abs(differences - differences.mean()).std() < tolerance * size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 2, 17, 64])
def test_every_kind_keeps_the_contract(rng, kind, metric, dim):
    vectors = (rng.standard_normal((30, dim)) + 1).astype(np.float32)
    quantizer = fit_quantizer(kind, vectors, metric, 0)
    assert kind == quantizer.kind
    codes, scales, squares = encode_rows(quantizer, vectors)
    assert (0 if kind == "f32" else 30, quantizer.row_bytes) == codes.shape
    assert (np.uint8, np.float32, np.float32) == (codes.dtype, scales.dtype, squares.dtype)
    assert np.isfinite(scales).all()
    assert (scales >= 0).all()
    if kind in BITS or kind == "binary":
        assert 0 == quantizer.row_bytes % 64
        assert 0 == codes.ctypes.data % 64
    assert np.isfinite(estimates(quantizer, vectors, vectors[0], metric)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_codes_of_a_row_do_not_depend_on_its_block(rng, kind):
    vectors = rng.standard_normal((20, 33)).astype(np.float32)
    quantizer = fit_quantizer(kind, vectors, "l2", 0)
    whole = encode_rows(quantizer, vectors)
    parts = [encode_rows(quantizer, vectors[start : start + 7]) for start in (0, 7, 14)]
    for i in range(3):
        np.testing.assert_array_equal(whole[i], np.concatenate([part[i] for part in parts]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_restored_quantizer_scores_as_the_fitted_one(rng, kind, metric):
    vectors = (rng.standard_normal((30, 17)) + 1).astype(np.float32)
    query = rng.standard_normal(17).astype(np.float32)
    fitted = fit_quantizer(kind, vectors, metric, 3)
    stored = fitted.transform
    restored = restore_quantizer(kind, metric, stored.mean, stored.signs, fitted.codebook)
    np.testing.assert_array_equal(
        estimates(fitted, vectors, query, metric), estimates(restored, vectors, query, metric)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_depends_on_the_sample_and_the_seed_only(rng, kind):
    sample = rng.standard_normal((300, 17)).astype(np.float32)
    first, second = (fit_quantizer(kind, sample, "cosine", 5) for _ in range(2))
    np.testing.assert_array_equal(first.transform.signs, second.transform.signs)
    np.testing.assert_array_equal(first.transform.mean, second.transform.mean)
    np.testing.assert_array_equal(first.codebook, second.codebook)


def test_binary_codes_are_the_signs_of_the_centered_vector(rng):
    vectors = (rng.standard_normal((10, 20)) + 1).astype(np.float32)
    quantizer = fit_quantizer("binary", vectors, "l2", 0)
    codes, _, _ = encode_rows(quantizer, vectors)
    for i in range(10):
        signs = vectors[i] >= quantizer.transform.mean
        np.testing.assert_array_equal(signs, reference.unpack_digits(codes[i], 1)[:20])


def test_offsets_are_half_the_squared_norms_under_l2_only():
    scales, squares = np.array([1, 2], np.float32), np.array([8, 6], np.float32)
    np.testing.assert_array_equal([[1, -4], [2, -3]], factors_of(scales, squares, "l2"))
    for metric in ("cosine", "ip"):
        np.testing.assert_array_equal([[1, 0], [2, 0]], factors_of(scales, squares, metric))


def test_an_unknown_kind_is_refused_with_the_known_ones_named():
    with pytest.raises(ParameterError, match="'tq4'"):
        fit_quantizer("tq3", np.ones((2, 2), np.float32), "l2", 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "f32"])
def test_a_bad_row_in_the_sample_is_named(kind):
    sample = np.ones((5, 3), np.float32)
    sample[3, 0] = np.nan
    with pytest.raises(VectorError) as caught:
        fit_quantizer(kind, sample, "cosine", 0)
    assert 3 == caught.value.row
