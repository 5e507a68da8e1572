"""The inner loops of k-means over 8-bit codes beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.partition import assign_rows, sum_rows
from tests import reference

pytestmark = pytest.mark.kernels


def coded(rng, n, dim):
    """8-bit codes of n vectors, padded with what stands for zero, and their scales."""
    codes = np.full((n, 64 * (-(-dim // 64))), 128, np.uint8)
    codes[:, :dim] = rng.integers(1, 256, (n, dim))
    return codes, (0.01 + rng.random(n)).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 3, 17, 65])
@pytest.mark.parametrize("n_centroids", [1, 2, 9])
def test_rows_go_to_their_nearest_centroid(rng, dim, n_centroids):
    codes, scales = coded(rng, 20, dim)
    points = reference.decode_rows(codes, scales, dim)
    centroids = rng.standard_normal((n_centroids, dim)).astype(np.float32) * 50
    rows = rng.permutation(20)[:13].astype(np.uint32)
    half_squares = (np.square(centroids).sum(axis=1) / 2).astype(np.float32)
    labels = np.full(13, -1, np.int32)
    assign_rows(codes, scales, rows, centroids, half_squares, np.zeros(dim, np.float32), labels)
    distances = reference.assign_rows(points[rows], centroids)
    chosen = distances[np.arange(13), labels]
    assert (chosen <= distances.min(axis=1) * (1 + 1e-5) + 1e-3).all()


def test_the_first_of_equal_centroids_gets_the_row(rng):
    codes, scales = coded(rng, 5, 3)
    centroids, labels = np.ones((4, 3), np.float32), np.full(5, -1, np.int32)
    args = np.arange(5, dtype=np.uint32), centroids, np.full(4, 1.5, np.float32), np.zeros(3, np.float32), labels
    assign_rows(codes, scales, *args)
    assert [0] * 5 == labels.tolist()


@pytest.mark.parametrize("dim", [1, 17, 65])
def test_sums_and_counts_are_those_of_each_label(rng, dim):
    codes, scales = coded(rng, 20, dim)
    rows, labels = rng.permutation(20)[:13].astype(np.uint32), rng.integers(0, 4, 13).astype(np.int32)
    sums, counts = np.zeros((5, dim), np.float32), np.zeros(5, np.int32)
    sum_rows(codes, scales, rows, labels, np.zeros(dim, np.float32), sums, counts)
    expected, expected_counts = reference.sum_rows(reference.decode_rows(codes, scales, dim)[rows], labels, 5)
    np.testing.assert_allclose(expected, sums, rtol=1e-6)
    assert expected_counts.tolist() == counts.tolist()
