"""Turning rows and coding them beside twins in float64."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.encode import (
    ROW_NOT_FINITE,
    ROW_OK,
    ROW_ZERO,
    encode_uniform,
    turn_and_encode,
    turn_rows,
)
from skeg.ann.kernels.prepare import COSINE, IP, L2
from skeg.ann.quantizers import STEP_SIZES
from tests import reference

pytestmark = pytest.mark.kernels


def encode(turned, bits):
    """Digits (n, padded), scales (n,) and squared norms (n,) from the kernel."""
    padded = -(-turned.shape[1] // (512 // bits)) * (512 // bits)
    squares = np.square(turned).sum(axis=1, dtype=np.float32)
    codes = np.full((len(turned), padded * bits // 8), 7, np.uint8)
    scales = np.full(len(turned), np.nan, np.float32)
    work = np.zeros(padded, np.uint8)
    encode_uniform(turned, squares, bits, np.float32(STEP_SIZES[bits]), work, codes, scales)
    return np.array([reference.unpack_digits(code, bits) for code in codes]), scales, squares


@pytest.mark.parametrize("dim", reference.DIMS)
@pytest.mark.parametrize("metric", [COSINE, IP, L2])
def test_rows_are_normalized_centered_and_rotated(rng, dim, metric):
    raw = (rng.standard_normal((3, dim)) * 5).astype(np.float32)
    mean = rng.standard_normal(dim).astype(np.float32)
    signs = rng.choice([-1, 1], (4, dim)).astype(np.int8)
    turned, squares = np.zeros_like(raw), np.zeros(3, np.float32)
    assert (ROW_OK, 3) == tuple(turn_rows(raw, metric, mean, signs, turned, squares))
    expected = reference.turn_rows(raw, metric, mean, signs)
    np.testing.assert_allclose(turned, expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(squares, np.square(expected).sum(axis=1), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("metric", [COSINE, IP, L2])
def test_a_row_that_is_not_finite_or_too_long_is_named(bad, metric):
    raw = np.ones((4, 5), np.float32)
    raw[2, 4] = bad
    mean, signs = np.zeros(5, np.float32), np.ones((0, 5), np.int8)
    with np.errstate(over="ignore"):  # 1e30 squared is what the kernel has to notice
        verdict = turn_rows(raw, metric, mean, signs, np.zeros_like(raw), np.zeros(4, np.float32))
    assert (ROW_NOT_FINITE, 2) == tuple(verdict)


def test_a_zero_row_is_refused_under_cosine_only():
    raw = np.ones((3, 2), np.float32)
    raw[1] = 0
    arguments = np.zeros(2, np.float32), np.ones((0, 2), np.int8), np.zeros_like(raw), np.zeros(3, np.float32)
    assert (ROW_ZERO, 1) == tuple(turn_rows(raw, COSINE, *arguments))
    assert (ROW_OK, 3) == tuple(turn_rows(raw, IP, *arguments))
    assert (ROW_OK, 3) == tuple(turn_rows(raw, L2, *arguments))


@pytest.mark.parametrize("dim", reference.DIMS)
@pytest.mark.parametrize("bits", reference.BITS)
def test_codes_are_those_of_a_uniform_grid_and_the_scale_is_unbiased(rng, dim, bits):
    turned = rng.standard_normal((4, dim)).astype(np.float32)
    turned[1] *= 1e-6
    turned[2, 1:] = 0  # all in one coordinate: beyond the grid
    turned[3] *= 1e6
    digits, scales, squares = encode(turned, bits)
    for i in range(len(turned)):
        places, scale = reference.encode_uniform(turned[i], squares[i], bits, STEP_SIZES[bits])
        sure = np.abs(places - np.rint(places)) > 1e-3  # elsewhere float32 may fall on either side
        np.testing.assert_array_equal(np.floor(places[sure]), digits[i, :dim][sure])
        assert np.abs(places - 0.5 - digits[i, :dim]).max() <= 0.502
        np.testing.assert_allclose(scales[i], scale(digits[i, :dim]), rtol=1e-5)


@pytest.mark.parametrize("bits", reference.BITS)
def test_padding_holds_the_same_digit_for_every_row(rng, bits):
    digits, _, _ = encode(rng.standard_normal((3, 17)).astype(np.float32), bits)
    assert {128 if bits == 8 else 0} == set(digits[:, 17:].ravel().tolist())


@pytest.mark.parametrize("bits", reference.BITS)
def test_a_zero_row_gets_scale_zero(bits):
    _, scales, _ = encode(np.zeros((2, 5), np.float32), bits)
    np.testing.assert_array_equal([0, 0], scales)


@pytest.mark.parametrize("bits", reference.BITS)
@pytest.mark.parametrize("size", [1e-18, 1e-23, 1e-40, 1e18])
def test_rows_at_the_ends_of_float32_get_finite_scales(bits, size):
    with np.errstate(under="ignore"):
        _, scales, _ = encode(np.full((1, 3), size, np.float32), bits)
    assert np.isfinite(scales).all()
    assert (scales >= 0).all()


@pytest.mark.parametrize("dim", [1, 17, 130])
@pytest.mark.parametrize("bits", reference.BITS)
@pytest.mark.parametrize("metric", [COSINE, IP, L2])
def test_turning_and_encoding_at_once_is_one_after_the_other(rng, dim, bits, metric):
    raw = rng.standard_normal((5, dim)).astype(np.float32)
    mean, signs = rng.standard_normal(dim).astype(np.float32), rng.choice([-1, 1], (4, dim)).astype(np.int8)
    turned, squares = np.zeros_like(raw), np.zeros(5, np.float32)
    turn_rows(raw, metric, mean, signs, turned, squares)
    padded = -(-dim // (512 // bits)) * (512 // bits)
    clip = np.float32(STEP_SIZES[bits])
    codes, scales = np.zeros((5, padded * bits // 8), np.uint8), np.zeros(5, np.float32)
    encode_uniform(turned, squares, bits, clip, np.zeros(padded, np.uint8), codes, scales)
    both = np.full_like(squares, 7), np.full_like(codes, 7), np.full_like(scales, 7)

    def at_once():
        work = np.full(dim, 7, np.float32), both[0], bits, clip, np.full(padded, 7, np.uint8)
        return tuple(turn_and_encode(raw, metric, mean, signs, *work, *both[1:]))

    assert (ROW_OK, 5) == at_once()
    for expected, found in zip((squares, codes, scales), both, strict=True):
        np.testing.assert_array_equal(expected, found)
    raw[3, 0] = np.inf
    assert (ROW_NOT_FINITE, 3) == at_once()
    raw[2] = 0
    assert ((ROW_ZERO, 2) if metric == COSINE else (ROW_NOT_FINITE, 3)) == at_once()
