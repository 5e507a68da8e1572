"""The random rotation beside its matrix form."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.rotate import hadamard, rotate
from tests import reference

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 32, 64])
def test_hadamard_transform_is_that_of_its_matrix(rng, length):
    x = rng.integers(-9, 10, length + 4).astype(np.float32)
    expected = x.astype(np.float64)
    expected[3 : 3 + length] = reference.hadamard(x[3 : 3 + length])
    hadamard(x, 3, length)
    np.testing.assert_array_equal(expected, x)


@pytest.mark.parametrize("dim", reference.DIMS)
@pytest.mark.parametrize("rounds", [0, 1, 2, 4])
def test_rotation_is_that_of_its_definition(rng, dim, rounds):
    signs = rng.choice([-1, 1], (rounds, dim)).astype(np.int8)
    x = rng.standard_normal(dim).astype(np.float32)
    expected = reference.rotate(x, signs)
    rotate(x, signs)
    np.testing.assert_allclose(x, expected, rtol=0, atol=2e-6)
