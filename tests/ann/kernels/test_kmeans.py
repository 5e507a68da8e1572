"""Nearest centroids: equal to the twin to the last bit, in every kernel family."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.kmeans import assign_points, encode_pq, nearest_centroid
from tests import reference

pytestmark = pytest.mark.kernels


def book(rng, n_subspaces):
    """Centroids (n_subspaces, 256, 8), the same as columns, and half their squares."""
    centroids = rng.standard_normal((n_subspaces, 256, 8)).astype(np.float32)
    half_squares = np.square(centroids).sum(axis=2) * np.float32(0.5)
    return centroids, np.ascontiguousarray(centroids.transpose(0, 2, 1)), half_squares


def test_each_point_gets_its_nearest_centroid(rng):
    centroids, columns, half_squares = book(rng, 1)
    points = rng.standard_normal((9, 8)).astype(np.float32)
    points[0] = centroids[0, 255]
    points[1] = 0
    labels = np.zeros(9, np.int64)
    assign_points(points, columns[0], half_squares[0], np.zeros(256, np.int32), labels)
    assert [reference.nearest_centroid(point, centroids[0]) for point in points] == labels.tolist()
    assert 255 == labels[0]


def test_the_lowest_number_wins_ties(rng):
    _, columns, half_squares = book(rng, 1)
    for twin in (3, 200, 255):
        columns[0][:, twin] = columns[0][:, 3]
        half_squares[0][twin] = half_squares[0][3]
    point = np.ascontiguousarray(columns[0][:, 3])
    assert 3 == nearest_centroid(point, columns[0], half_squares[0], np.zeros(256, np.int32))
    zeros = np.zeros((8, 256), np.float32)
    assert 0 == nearest_centroid(point, zeros, zeros[0], np.zeros(256, np.int32))


@pytest.mark.parametrize("dim", reference.DIMS)
def test_codes_and_scales_are_those_of_the_twin(rng, dim):
    centroids, columns, half_squares = book(rng, -(-dim // 8))
    for j in range(dim, len(centroids) * 8):
        centroids[j // 8, :, j % 8] = columns[j // 8, j % 8] = 0
    half_squares = np.square(centroids).sum(axis=2) * np.float32(0.5)
    turned = rng.standard_normal((2, dim)).astype(np.float32)
    squares = np.square(turned).sum(axis=1)
    codes, scales = np.zeros((2, len(centroids)), np.uint8), np.zeros(2, np.float32)
    work = np.zeros(8, np.float32), np.zeros(256, np.int32)
    encode_pq(turned, squares, columns, half_squares, work, codes, scales)
    for i in range(2):
        code, scale = reference.encode_pq(turned[i], squares[i], centroids)
        assert code == codes[i].tolist()
        np.testing.assert_allclose(scales[i], scale, rtol=2e-5)


def test_a_zero_row_and_a_row_against_its_centroids_get_scale_zero(rng):
    _, columns, half_squares = book(rng, 1)
    turned = np.array([np.zeros(8), np.ones(8)], np.float32)
    columns[:], half_squares[:] = -1, 4
    codes, scales = np.zeros((2, 1), np.uint8), np.ones(2, np.float32)
    work = np.zeros(8, np.float32), np.zeros(256, np.int32)
    encode_pq(turned, np.array([0, 8], np.float32), columns, half_squares, work, codes, scales)
    np.testing.assert_array_equal([0, 0], scales)
