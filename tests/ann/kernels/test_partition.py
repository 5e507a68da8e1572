"""The inner loops of k-means over 8-bit codes beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.partition import assign_rows, halve_squares, sum_cells, sum_rows, train_centroids
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


@pytest.mark.parametrize("dim", [1, 17])
@pytest.mark.parametrize("n_centroids", [1, 2, 9])
@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_training_moves_centroids_to_the_mean_of_their_rows(rng, dim, n_centroids, rounds):
    codes, scales = coded(rng, 60, dim)
    points = reference.decode_rows(codes, scales, dim)
    rows = rng.permutation(60)[:50].astype(np.uint32)
    centroids = points[rng.choice(60, n_centroids, replace=False)] + 0.01
    centroids[0] = 1e6  # nobody's
    expected = reference.train_centroids(points[rows], centroids, rounds) if n_centroids > 1 else points[rows]
    work = np.zeros_like(centroids), np.zeros(n_centroids, np.int32), np.zeros(n_centroids, np.float32)
    args = np.zeros(dim, np.float32), np.zeros(50, np.int32), work, centroids
    train_centroids(codes, scales, rows, rounds, *args)
    if n_centroids > 1:
        np.testing.assert_allclose(centroids, expected, rtol=1e-4, atol=1e-3)
        assert (centroids[0] == 1e6).all()
    elif rounds:
        np.testing.assert_allclose(centroids[0], expected.mean(axis=0), rtol=1e-4, atol=1e-3)


def test_half_squares(rng):
    centroids, half_squares = rng.standard_normal((5, 19)).astype(np.float32), np.zeros(5, np.float32)
    halve_squares(centroids, half_squares)
    np.testing.assert_allclose(half_squares, np.square(centroids).sum(axis=1) / 2, rtol=1e-6)


@pytest.mark.parametrize("is_cosine", [True, False])
@pytest.mark.parametrize("block", [1, 3, 12])
def test_sums_of_cells_do_not_depend_on_blocks(rng, is_cosine, block):
    vectors, cells = rng.standard_normal((12, 5)).astype(np.float32), np.array([0, 1, 5, 6, 12])
    sums, cell = np.zeros((4, 5), np.float32), 0
    for start in range(0, 12, block):
        cell = sum_cells(vectors[start : start + block], start, cells, cell, is_cosine, sums)
    assert 3 == cell
    np.testing.assert_allclose(sums, reference.sum_cells(vectors, cells, is_cosine), rtol=1e-5, atol=1e-6)
