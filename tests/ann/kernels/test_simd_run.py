"""Dot products and estimates of runs of rows beside those of single rows."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.score import Codes, Query, score_run
from skeg.ann.kernels.simd_run import GROUP, dots_run_1, dots_run_2, dots_run_4, dots_run_8
from skeg.jit import kernel
from tests import reference

pytestmark = pytest.mark.kernels


def callable_form(dots):
    """A kernel around an intrinsic, which Python can't call."""

    @kernel(inline=True)
    def run(codes, first, n_groups, query, products):
        dots(codes, first, n_groups, query, products)

    return run


@pytest.mark.parametrize(("bits", "dots"), [(1, dots_run_1), (2, dots_run_2), (4, dots_run_4), (8, dots_run_8)])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("extreme", [False, True])
def test_products_of_a_run_are_exact(rng, bits, dots, blocks, extreme):
    codes = np.full((11, 64 * blocks), 255, np.uint8) if extreme else rng.integers(0, 256, (11, 64 * blocks), np.uint8)
    query = np.full(64 * blocks * 8 // bits, -127, np.int8)
    if not extreme:
        query[:] = rng.integers(-127, 128, len(query))
    run = callable_form(dots)
    expected = [int(reference.unpack_digits(code, bits) @ query.astype(np.int64)) for code in codes]
    for first, n_groups in ((0, 1), (3, 2), (2, 0)):
        products = np.full(11, -7, np.int32)
        run(codes, np.int64(first), np.int64(n_groups), query, products)
        written = GROUP * n_groups
        assert expected[first : first + written] == products[:written].tolist()
        assert (products[written:] == -7).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("columns", [1, 2])
def test_estimates_of_a_run_are_those_of_its_rows(rng, bits, columns):
    codes = Codes(
        bits, rng.integers(0, 256, (13, 64), np.uint8), rng.standard_normal((13, columns)).astype(np.float32),
        np.zeros((1, 1), np.float32),
    )  # fmt: skip
    digits = rng.integers(-127, 128, 512 // bits).astype(np.int8)
    query = Query(digits, np.zeros(1, np.float32), np.float32(0.01), np.float32(5), np.float32(1))
    two = codes._replace(factors=np.pad(codes.factors, ((0, 0), (0, 2 - columns))))
    expected = reference.score_rows(two, query, range(13))
    for first, count in ((0, 13), (2, 7), (5, 3), (4, 0)):
        estimates = np.full(13, np.nan, np.float32)
        score_run(codes, query, np.int64(first), np.int64(count), np.zeros(13, np.int32), estimates)
        np.testing.assert_allclose(expected[first : first + count], estimates[:count], rtol=1e-6, atol=1e-5)
        assert np.isnan(estimates[count:]).all()
