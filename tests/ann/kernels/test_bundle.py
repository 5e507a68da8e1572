"""Arrays that go through a table of addresses come out as they were."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels import bundle
from skeg.jit import kernel

pytestmark = pytest.mark.kernels

TAKES = [
    (bundle.take_f4_1, np.float32, 1), (bundle.take_f4_2, np.float32, 2), (bundle.take_f4_3, np.float32, 3),
    (bundle.take_u1_1, np.uint8, 1), (bundle.take_u1_2, np.uint8, 2), (bundle.take_i1_1, np.int8, 1),
    (bundle.take_i1_2, np.int8, 2), (bundle.take_u4, np.uint32, 1), (bundle.take_u8, np.uint64, 1),
    (bundle.take_i4, np.int32, 1), (bundle.take_i8, np.int64, 1),
]  # fmt: skip


def copier(take, ndim):
    """A kernel that copies array i of a table, element by element."""
    if ndim == 1:

        @kernel(inline=True)
        def copy(table, i, out):
            array = take(table, np.int64(i))
            for j in range(array.shape[0]):
                out[j] = array[j]

    elif ndim == 2:

        @kernel(inline=True)
        def copy(table, i, out):
            array = take(table, np.int64(i))
            for j in range(array.shape[0]):
                for k in range(array.shape[1]):
                    out[j, k] = array[j, k]

    else:

        @kernel(inline=True)
        def copy(table, i, out):
            array = take(table, np.int64(i))
            for j in range(array.shape[0]):
                for k in range(array.shape[1]):
                    for m in range(array.shape[2]):
                        out[j, k, m] = array[j, k, m]

    return copy


@pytest.mark.parametrize(("take", "dtype", "ndim"), TAKES)
def test_arrays_come_out_of_a_table_as_they_went_in(rng, take, dtype, ndim):
    copy = copier(take, ndim)
    for shape in ((3, 5, 2)[:ndim], (1, 1, 1)[:ndim], (0, 4, 4)[:ndim]):
        arrays = [rng.integers(0, 100, shape).astype(dtype) for _ in range(3)]
        held = bundle.Bundle(*arrays)
        for i, array in enumerate(arrays):
            out = np.zeros(shape, dtype)
            copy(held.table, i, out)
            np.testing.assert_array_equal(array, out)


def test_a_table_has_addresses_and_sizes(rng):
    array = rng.standard_normal((2, 3))
    held = bundle.Bundle(array, array[:1])
    assert [[array.ctypes.data, 2, 3, 0], [array.ctypes.data, 1, 3, 0]] == held.table.tolist()


def test_arrays_with_gaps_are_our_own_mistake():
    with pytest.raises(AssertionError, match="addresses and sizes"):
        bundle.Bundle(np.zeros((4, 4))[:, :2])
