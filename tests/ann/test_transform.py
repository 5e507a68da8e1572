"""Normalizing, centering and the random rotation, which has to mix every dimension with every other."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.metric import METRICS
from skeg.ann.transform import ROUNDS, RowTransform
from skeg.errors import VectorError


def rotation(dim, seed=0):
    """The rotation as a matrix: row i is the image of the i-th unit vector."""
    transform = RowTransform.fit(np.zeros((0, dim), np.float32), "ip", seed)
    return transform.apply(np.eye(dim, dtype=np.float32))[0].astype(np.float64)


@pytest.mark.parametrize("dim", range(1, 131))
def test_rotation_keeps_lengths_and_angles(dim):
    matrix = rotation(dim)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dim", range(8, 131))
def test_rotation_spreads_every_spike_over_all_coordinates(dim):
    """No coordinate of a turned unit vector is over 6 / sqrt(dim), and no 8 x 8 block of the matrix is near zero."""
    for seed in range(3):
        matrix = rotation(dim, seed)
        assert np.abs(matrix).max() < 6 / np.sqrt(dim)
        whole = dim // 8 * 8
        for rows in (slice(0, whole), slice(dim - whole, dim)):
            energy = np.square(matrix[rows, rows]).reshape(whole // 8, 8, -1, 8).mean(axis=(1, 3)) * dim
            assert energy.min() > 0.2


@pytest.mark.parametrize("dim", [31, 64, 100, 129])
def test_turned_coordinates_look_normal(dim):
    """Fourth moment 3, as uniform codes assume, even for spikes; a lone Hadamard transform of one has 1."""
    moments = [np.mean((rotation(dim, seed) * np.sqrt(dim)) ** 4) for seed in range(8)]
    assert 2.4 < np.mean(moments) < 3.6


def test_rotation_is_drawn_from_the_seed():
    sample = np.ones((3, 20), np.float32)
    signs = [RowTransform.fit(sample, "l2", seed).signs for seed in (0, 0, 1)]
    np.testing.assert_array_equal(signs[0], signs[1])
    assert (signs[0] != signs[2]).any()
    assert (ROUNDS, 20) == signs[0].shape
    assert {-1, 1} == set(np.unique(signs[0]).tolist())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotated", [False, True])
def test_rows_are_normalized_and_centered_as_the_metric_asks(rng, metric, rotated):
    vectors = (rng.standard_normal((50, 17)) * 3 + 2).astype(np.float32)
    transform = RowTransform.fit(vectors, metric, 0, rotated=rotated)
    turned, squares = transform.apply(vectors)
    expected = vectors.astype(np.float64)
    if metric == "cosine":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    if metric != "ip":
        expected -= expected.mean(axis=0)
    np.testing.assert_allclose(turned @ turned.T, expected @ expected.T, rtol=0, atol=2e-3)
    np.testing.assert_allclose(squares, np.square(expected).sum(axis=1), rtol=1e-4)
    if not rotated:
        np.testing.assert_allclose(turned, expected, rtol=0, atol=1e-5)


def test_inner_product_keeps_its_origin(rng):
    sample = (rng.standard_normal((20, 3)) + 5).astype(np.float32)
    assert not RowTransform.fit(sample, "ip", 0).mean.any()
    assert RowTransform.fit(sample, "l2", 0).mean.all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_is_turned_in_the_same_way_whatever_stands_beside_it(rng, metric):
    vectors = rng.standard_normal((9, 33)).astype(np.float32)
    transform = RowTransform.fit(vectors, metric, 0)
    together, squares = transform.apply(vectors)
    for i in range(9):
        alone, its_square = transform.apply(vectors[i : i + 1])
        np.testing.assert_array_equal(together[i], alone[0])
        assert squares[i] == its_square[0]


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_sample_means_no_centering(metric):
    transform = RowTransform.fit(np.zeros((0, 5), np.float32), metric, 0)
    assert not transform.mean.any()
    assert 5 == transform.dim


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "nan at column 1"), (np.inf, "inf at column 1"), (2e19, "square fits float32")]
)
def test_a_bad_row_is_named_with_its_place_in_the_source(metric, value, message):
    vectors = np.ones((4, 3), np.float32)
    vectors[2, 1] = value
    transform = RowTransform.fit(vectors[:1], metric, 0)
    with pytest.raises(VectorError, match=message) as caught:
        transform.apply(vectors, 1000, "base.npy")
    assert 1002 == caught.value.row
    assert "base.npy, row 1002" in str(caught.value)


def test_a_zero_row_is_an_error_under_cosine_only():
    vectors = np.ones((3, 2), np.float32)
    vectors[1] = 0
    with pytest.raises(VectorError, match="all zeros") as caught:
        RowTransform.fit(vectors[:1], "cosine", 0).apply(vectors)
    assert 1 == caught.value.row
    for metric in ("ip", "l2"):
        _, squares = RowTransform.fit(vectors[:0], metric, 0).apply(vectors)
        assert 0 == squares[1]
