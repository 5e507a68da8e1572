"""Integer sums are exact in every kernel family; the float primitives do what their one line says."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.arrays import aligned_zeros
from skeg.ann.kernels import simd
from skeg.jit import kernel
from tests import reference

pytestmark = pytest.mark.kernels


def from_python(primitive):
    """Intrinsics can be called from compiled code only."""

    def call(*args):
        return primitive(*args)

    return kernel(inline=True)(call)


PACKED = {
    bits: from_python(primitive)
    for bits, primitive in (
        (1, simd.dot_packed_1),
        (2, simd.dot_packed_2),
        (4, simd.dot_packed_4),
        (8, simd.dot_packed_8),
    )
}
dot_bytes = from_python(simd.dot_bytes)
shift_up = from_python(simd.shift_up)
prefetch_row = from_python(simd.prefetch_row)
butterfly = from_python(simd.butterfly)
hadamard_16 = from_python(simd.hadamard_16)


def code_rows(rng, n_bytes):
    """Random rows between rows of the smallest and of the largest code values."""
    codes = aligned_zeros((4, n_bytes), np.uint8)
    codes[1] = rng.integers(0, 256, n_bytes)
    codes[2] = 255
    codes[3] = rng.integers(0, 256, n_bytes)
    return codes


@pytest.mark.parametrize("bits", reference.BITS)
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_packed_dot_products_are_exact(rng, bits, blocks):
    codes = code_rows(rng, 64 * blocks)
    dim = 64 * blocks * 8 // bits
    extremes = [np.full(dim, 127), np.full(dim, -128), np.where(np.arange(dim) % 2, -128, 127)]
    for query in (rng.integers(-128, 128, dim), *extremes):
        digits = query.astype(np.int8)
        for row in range(4):
            expected = int(reference.unpack_digits(codes[row], bits) @ query)
            assert expected == PACKED[bits](codes, row, digits)


@pytest.mark.parametrize("bits", reference.BITS)
def test_layout_puts_every_dimension_where_the_text_says(bits):
    dim = 64 * 8 // bits
    top = (1 << bits) - 1
    for dimension in range(0, dim, 7):
        digits = np.zeros(dim, np.int64)
        digits[dimension] = top
        query = np.zeros(dim, np.int8)
        query[dimension] = 3
        codes = reference.pack_digits(digits, bits)[None]
        assert 3 * top == PACKED[bits](codes, 0, query)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_products_of_two_code_rows_are_exact(rng, blocks):
    codes = code_rows(rng, 64 * blocks)
    wide = codes.astype(np.int64)
    for a in range(4):
        for b in range(4):
            assert int(wide[a] @ (wide[b] - 128)) == dot_bytes(codes, a, b)


def test_shifting_moves_the_range_up_by_one_and_nothing_else():
    for start, count in [(0, 0), (0, 1), (0, 9), (3, 5), (9, 0)]:
        array = np.arange(10, 20, dtype=np.int64)
        expected = array.tolist()
        expected[start + 1 : start + 1 + count] = expected[start : start + count]
        shift_up(array, start, count)
        assert expected == array.tolist()


def test_prefetching_changes_nothing(rng):
    wide, flat = rng.integers(0, 256, (3, 64)).astype(np.uint8), rng.integers(0, 9, 40).astype(np.uint32)
    before = wide.copy(), flat.copy()
    prefetch_row(wide, 2, 1)
    prefetch_row(wide, 2, 8)  # past the end
    prefetch_row(flat, 39, 3)
    np.testing.assert_array_equal(before[0], wide)
    np.testing.assert_array_equal(before[1], flat)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 33])
def test_butterfly_makes_scaled_sums_and_differences(rng, count):
    x = rng.standard_normal(80).astype(np.float32)
    left, right = x[2 : 2 + count].copy(), x[40 : 40 + count].copy()
    expected = x.copy()
    expected[2 : 2 + count] = (left + right) * np.float32(0.7)
    expected[40 : 40 + count] = (left - right) * np.float32(0.7)
    butterfly(x, 2, 40, count, np.float32(0.7))
    np.testing.assert_array_equal(expected, x)


def test_hadamard_of_16_works_on_each_block_alone(rng):
    x = rng.integers(-9, 10, 40).astype(np.float32)
    expected = x.astype(np.float64)
    for start in (5, 21):
        expected[start : start + 16] = reference.hadamard(x[start : start + 16])
    hadamard_16(x, 5, 2)
    np.testing.assert_array_equal(expected, x)
