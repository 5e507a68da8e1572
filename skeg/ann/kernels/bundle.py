"""Many arrays handed to a kernel as one: a table of their addresses and shapes.

Unpacking an array costs a call some 30 ns, and a search reads thirty of them: as much as a twelfth of a quick search.
A bundle is made once. Whoever holds it holds the arrays; a kernel must not keep what it takes out of a table.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import from_dtype

from skeg.jit import JIT_DISABLED

_DIMENSIONS = 3


class Bundle:
    """Arrays with what kernels need to find them: ``table`` int64 (n_arrays, 4), address and sizes of each.

    Parameters
    ----------
    arrays : ndarray
        C-contiguous, of at most three dimensions.
    """

    def __init__(self, *arrays: npt.NDArray[Any]) -> None:
        for array in arrays:
            assert array.flags.c_contiguous, "a kernel knows addresses and sizes only"
        self._arrays = arrays
        self.table = np.array([place_of(a) for a in arrays], np.int64).reshape(len(arrays), 1 + _DIMENSIONS)


def place_of(array: npt.NDArray[Any]) -> list[int]:
    """An array's row of a table."""
    return [array.ctypes.data, *array.shape, *[0] * (_DIMENSIONS - array.ndim)]


def _make_take(dtype: Any, ndim: int) -> Any:
    """Array number i of a table; it has to be of this dtype and of so many dimensions."""
    if JIT_DISABLED:

        def plain(table: Any, i: Any) -> Any:
            shape = table[i, 1 : 1 + ndim]
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return np.frombuffer((ctypes.c_char * size).from_address(int(table[i, 0])), dtype).reshape(shape)

        return plain

    array_type = types.Array(from_dtype(np.dtype(dtype)), ndim, "C")

    @intrinsic
    def take(typingctx: Any, table: Any, i: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            i64, item = ir.IntType(64), np.dtype(dtype).itemsize
            first = context.make_array(sig.args[0])(context, b, args[0]).data
            row = b.gep(first, [b.mul(args[1], ir.Constant(i64, 1 + _DIMENSIONS))])
            address, *sizes = (b.load(b.gep(row, [ir.Constant(i64, j)])) for j in range(1 + ndim))
            strides = [ir.Constant(i64, item)]
            for size in reversed(sizes[1:]):
                strides.insert(0, b.mul(strides[0], size))
            array = context.make_array(array_type)(context, b)
            pointer = b.inttoptr(address, array.data.type)
            populate_array(array, pointer, sizes, strides, ir.Constant(i64, item), None)
            return array._getvalue()  # noqa: SLF001 - how Numba's own constructors end

        return array_type(table, types.int64), codegen

    return take


take_f4_1, take_f4_2, take_f4_3 = (_make_take(np.float32, ndim) for ndim in (1, 2, 3))
take_u1_1, take_u1_2 = (_make_take(np.uint8, ndim) for ndim in (1, 2))
take_i1_1, take_i1_2 = (_make_take(np.int8, ndim) for ndim in (1, 2))
take_u4, take_u8 = (_make_take(dtype, 1) for dtype in (np.uint32, np.uint64))
take_i4, take_i8 = (_make_take(dtype, 1) for dtype in (np.int32, np.int64))
take_table = _make_take(np.int64, 2)  # of tables of several bundles
