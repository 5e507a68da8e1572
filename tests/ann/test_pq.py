"""Product quantization: training, degenerate samples, codes, and what it is worth on real data."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann import pq
from skeg.ann.kernels.score import SCHEME_PQ
from skeg.ann.pq import PqQuantizer, train_centroids
from skeg.ann.quantizers import PreparedQuery, encode_rows, factors_of, fit_quantizer
from skeg.ann.transform import RowTransform
from tests import reference


def plain(dim, metric="l2"):
    """A transform that changes nothing."""
    return RowTransform(metric, np.zeros(dim, np.float32), np.zeros((0, dim), np.int8))


def rebuilt(quantizer, codes):
    """Vectors that the codes name."""
    parts = [quantizer.codebook[m][codes[:, m]] for m in range(quantizer.row_bytes)]
    return np.concatenate(parts, axis=1)[:, : quantizer.transform.dim]


@pytest.mark.parametrize(("dim", "n_subspaces"), [(1, 1), (7, 1), (8, 1), (9, 2), (64, 8), (65, 9)])
def test_a_code_takes_one_byte_for_each_8_dimensions(rng, dim, n_subspaces):
    sample = rng.standard_normal((40, dim)).astype(np.float32)
    quantizer = PqQuantizer.fit(plain(dim), sample, 0)
    assert ("pq", SCHEME_PQ, 0.0) == (quantizer.kind, quantizer.scheme, quantizer.center)
    assert n_subspaces == quantizer.row_bytes
    assert (n_subspaces, 256, 8) == quantizer.codebook.shape
    assert not quantizer.codebook.transpose(0, 2, 1).reshape(-1, 256)[dim:].any(), "zero past the last dimension"


@pytest.mark.parametrize("n_rows", [1, 2, 100, 255])
def test_a_sample_of_fewer_rows_than_centroids_is_coded_all_but_exactly(rng, n_rows):
    sample = rng.standard_normal((n_rows, 17)).astype(np.float32)
    sample = np.concatenate([sample, sample[::-1]])
    quantizer = PqQuantizer.fit(plain(17), sample, 0)
    codes, scales = quantizer.encode(sample, np.square(sample).sum(axis=1))
    # Two values of the lone last dimension may be too close for float32 to tell which is nearer.
    np.testing.assert_allclose(rebuilt(quantizer, codes), sample, rtol=0, atol=1e-3)
    np.testing.assert_allclose(scales, 1, rtol=1e-4)


def test_negative_zero_is_no_other_value(rng):
    sample = np.zeros((300, 8), np.float32)
    sample[::2] = -0.0
    assert not train_centroids(sample, rng).any()


def test_an_empty_sample_gives_centroids_of_zero():
    quantizer = PqQuantizer.fit(plain(9), np.zeros((0, 9), np.float32), 0)
    assert not quantizer.codebook.any()
    codes, scales = quantizer.encode(np.ones((1, 9), np.float32), np.array([9], np.float32))
    assert [[0, 0]] == codes.tolist()
    assert [0] == scales.tolist()


@pytest.mark.parametrize("dim", [3, 17])
def test_codes_name_the_nearest_centroids(rng, dim):
    sample = rng.standard_normal((400, dim)).astype(np.float32)
    quantizer = PqQuantizer.fit(plain(dim), sample, 0)
    squares = np.square(sample).sum(axis=1)
    codes, scales = quantizer.encode(sample, squares)
    for i in range(0, 400, 50):
        code, scale = reference.encode_pq(sample[i], squares[i], quantizer.codebook)
        assert code == codes[i].tolist()
        np.testing.assert_allclose(scales[i], scale, rtol=1e-4)


def test_scales_make_the_product_of_a_row_with_itself_exact(rng):
    sample = rng.standard_normal((600, 24)).astype(np.float32)
    quantizer = PqQuantizer.fit(plain(24), sample, 0)
    squares = np.square(sample).sum(axis=1)
    codes, scales = quantizer.encode(sample, squares)
    products = np.einsum("ij,ij->i", sample, rebuilt(quantizer, codes))
    np.testing.assert_allclose(scales * products, squares, rtol=1e-4)


def test_training_lowers_the_error_and_is_the_same_for_a_seed(rng, monkeypatch):
    sample = rng.standard_normal((3000, 8)).astype(np.float32)

    def error(rounds):
        monkeypatch.setattr(pq, "LLOYD_ROUNDS", rounds)
        quantizer = PqQuantizer.fit(plain(8), sample, 0)
        codes, _ = quantizer.encode(sample, np.square(sample).sum(axis=1))
        return np.square(sample - rebuilt(quantizer, codes)).sum()

    errors = [error(rounds) for rounds in (0, 1, 3, 15, 15)]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] == errors[4]
    assert errors[3] < 0.8 * errors[0]


def test_centroids_are_the_means_of_their_points(rng):
    points = rng.standard_normal((2000, 8)).astype(np.float32)
    labels = rng.integers(0, 256, 2000)
    means = pq._means(points, points[:256], labels)
    for centroid in (0, 100, 255):
        np.testing.assert_allclose(means[centroid], points[labels == centroid].mean(axis=0), rtol=0, atol=1e-6)


def test_a_centroid_without_points_moves_to_the_point_farthest_from_its_own():
    points = np.zeros((300, 8), np.float32)
    points[:, 0] = np.arange(300)
    labels = np.full(300, 7)
    centroids = np.zeros((256, 8), np.float32)
    means = pq._means(points, centroids, labels)
    assert 149.5 == means[7, 0]
    assert [299, 298, 297] == means[:3, 0].tolist()
    assert 299 - 254 == means[255, 0]


def test_every_centroid_is_used_on_clustered_data(rng):
    """300 tight clusters of very different sizes: random starts leave big ones shared and others without points."""
    centers = rng.standard_normal((300, 8)) * 10
    sample = (centers[rng.integers(0, 300, 4000) ** 2 // 300] + rng.standard_normal((4000, 8)) * 0.01).astype(
        np.float32
    )
    quantizer = PqQuantizer.fit(plain(8), sample, 0)
    codes, _ = quantizer.encode(sample, np.square(sample).sum(axis=1))
    assert 256 == len(np.unique(codes))


def test_only_part_of_a_large_sample_is_looked_at(rng, monkeypatch):
    monkeypatch.setattr(pq, "TRAINING_ROWS", 100)
    sample = rng.standard_normal((400, 8)).astype(np.float32)
    quantizer = PqQuantizer.fit(plain(8), sample, 0)
    different = np.unique(quantizer.codebook[0], axis=0)
    assert 100 == len(different)
    assert {row.tobytes() for row in different} <= {row.tobytes() for row in sample}


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_estimates_rank_as_exact_scores_when_codes_lose_nothing(rng, metric):
    vectors = (rng.standard_normal((50, 17)) + 2).astype(np.float32)
    query = rng.standard_normal(17).astype(np.float32)
    quantizer = fit_quantizer("pq", vectors, metric, 0)
    codes, scales, squares = encode_rows(quantizer, vectors)
    found = PreparedQuery(quantizer, query).score(codes, factors_of(scales, squares, metric))
    exact = reference.exact_scores(vectors, query, {"cosine": 0, "ip": 1, "l2": 2}[metric])
    np.testing.assert_array_equal(np.argsort(-exact), np.argsort(-found))


def test_real_embeddings_are_found_among_the_first_50_estimates(wordnet):
    base = np.asarray(wordnet.vectors[:5000], np.float32)
    queries = np.asarray(wordnet.queries[:40], np.float32)
    quantizer = fit_quantizer("pq", base, "cosine", 0)
    codes, scales, squares = encode_rows(quantizer, base)
    factors = factors_of(scales, squares, "cosine")
    found = 0
    for query in queries:
        true = np.argsort(-reference.exact_scores(base, query, 0))[:10]
        estimated = np.argsort(-PreparedQuery(quantizer, query).score(codes, factors))[:50]
        found += len(np.intersect1d(true, estimated))
    assert found / (10 * len(queries)) >= 0.97
