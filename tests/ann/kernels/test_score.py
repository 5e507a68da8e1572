"""Estimates from codes: exact for integer sums, within rounding for sums of floats."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.arrays import aligned_zeros
from skeg.ann.kernels.score import SCHEME_F32, SCHEME_PQ, Codes, Query, score_rows
from tests import reference

pytestmark = pytest.mark.kernels

N = 7
NO_CODES = np.zeros((0, 64), np.uint8)
NO_VECTORS = np.zeros((1, 1), np.float32)


def factors_for(rng):
    factors = rng.standard_normal((N, 2)).astype(np.float32)
    factors[3, 0] = 0  # a zero row
    return factors


def scored(codes, query, rows):
    """Estimates of ``rows``; nothing else is written."""
    rows = np.array(rows, np.int64)
    estimates = np.full(len(rows) + 1, 77, np.float32)
    score_rows(codes, query, rows, len(rows), estimates)
    assert estimates[-1] == 77
    return estimates[:-1]


@pytest.mark.parametrize("bits", reference.BITS)
@pytest.mark.parametrize("rows", [[], [6], [0, 1, 2, 3, 4, 5, 6], [6, 6, 0, 3, 0]])
@pytest.mark.parametrize(("weight", "n_factors"), [(0, 2), (1, 2), (1, 1)])
def test_packed_codes(rng, bits, rows, weight, n_factors):
    codes = aligned_zeros((N, 128), np.uint8)
    codes[:] = rng.integers(0, 256, (N, 128))
    digits = rng.integers(-127, 128, 1024 // bits).astype(np.int8)
    query = Query(digits, np.zeros(1, np.float32), np.float32(0.013), np.float32(-37.5), np.float32(weight))
    packed = Codes(bits, codes, np.ascontiguousarray(factors_for(rng)[:, :n_factors]), NO_VECTORS)
    np.testing.assert_array_equal(reference.score_rows(packed, query, rows), scored(packed, query, rows))


@pytest.mark.parametrize("bits", reference.BITS)
def test_what_stands_in_the_padding_of_a_code_row_does_not_count(rng, bits):
    dim = 17
    digits = np.zeros(512 // bits, np.int64)
    digits[:dim] = rng.integers(0, 1 << bits, dim)
    dirty = digits.copy()
    dirty[dim:] = rng.integers(0, 1 << bits, len(digits) - dim)
    codes = np.stack([reference.pack_digits(digits, bits), reference.pack_digits(dirty, bits)])
    query_digits = np.zeros(len(digits), np.int8)
    query_digits[:dim] = rng.integers(-127, 128, dim)
    query = Query(query_digits, np.zeros(1, np.float32), np.float32(0.1), np.float32(2), np.float32(1))
    clean_score, dirty_score = scored(Codes(bits, codes, np.ones((2, 2), np.float32), NO_VECTORS), query, [0, 1])
    assert clean_score == dirty_score


@pytest.mark.parametrize("dim", reference.DIMS)
def test_stored_vectors(rng, dim):
    vectors = rng.standard_normal((N, dim)).astype(np.float32)
    raw = rng.standard_normal(dim).astype(np.float32)
    query = Query(np.zeros(1, np.int8), raw, np.float32(1), np.float32(0), np.float32(1))
    codes = Codes(SCHEME_F32, NO_CODES, factors_for(rng), vectors)
    rows = [0, 6, 1, 5, 2, 4, 3]
    np.testing.assert_allclose(
        scored(codes, query, rows), reference.score_rows(codes, query, rows), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("n_subspaces", [1, 2, 13])
def test_product_codes(rng, n_subspaces):
    table = rng.standard_normal(n_subspaces * 256).astype(np.float32)
    book = rng.integers(0, 256, (N, n_subspaces)).astype(np.uint8)
    book[0], book[1] = 0, 255
    query = Query(np.zeros(1, np.int8), table, np.float32(1), np.float32(0), np.float32(1))
    codes = Codes(SCHEME_PQ, book, factors_for(rng), NO_VECTORS)
    rows = list(range(N))
    np.testing.assert_allclose(
        scored(codes, query, rows), reference.score_rows(codes, query, rows), rtol=1e-5, atol=1e-5
    )
