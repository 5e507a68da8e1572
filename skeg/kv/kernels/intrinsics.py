"""What XXH3 needs and Numba can't say: unaligned access, vectors, products of 128 bits, byte swaps, sums that wrap.

Each is a few generic LLVM instructions, the same for every CPU and kernel family. Access checks nothing: callers know
the bytes to be there. With Numba's bounds checks on, another form of them does check. With the JIT disabled all are
Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from skeg.jit import JIT_DISABLED, kernel

_I8, _I32, _I64, _I128 = (ir.IntType(n) for n in (8, 32, 64, 128))
_LANES = 8
_LARGEST = 64
_VECTOR = ir.VectorType(_I64, _LANES)
_LOW32 = np.uint64(2**32 - 1)
_CHECKED = JIT_DISABLED or config.BOUNDSCHECK


def _address(context: Any, b: Any, array_type: Any, array: Any, byte_offset: Any, kind: Any) -> Any:
    first = b.ptrtoint(context.make_array(array_type)(context, b, array).data, _I64)
    return b.inttoptr(b.add(first, byte_offset), kind.as_pointer())


def _load(context: Any, b: Any, array_type: Any, array: Any, byte_offset: Any, kind: Any) -> Any:
    return b.load(_address(context, b, array_type, array, byte_offset, kind), align=1)


def _make_read(dtype: Any) -> Any:
    """``data[at : at + size]`` as a little-endian number, in 64 bits; data uint8."""
    size = np.dtype(dtype).itemsize
    if _CHECKED:

        @kernel(inline=True)
        def checked(data: Any, at: Any) -> Any:
            return np.uint64(data[at : at + size].view(dtype)[0])

        return checked

    @intrinsic
    def read(typingctx: Any, data: Any, at: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            return b.zext(_load(context, b, sig.args[0], args[0], args[1], ir.IntType(8 * size)), _I64)

        return types.uint64(data, types.int64), codegen

    return read


read32 = _make_read(np.uint32)
read64 = _make_read(np.uint64)


def _make_write64() -> Any:
    """``data[at : at + 8] = value``, little-endian; data uint8."""
    if _CHECKED:

        @kernel(inline=True)
        def checked(data: Any, at: Any, value: Any) -> None:
            data[at : at + 8].view(np.uint64)[0] = value

        return checked

    @intrinsic
    def write(typingctx: Any, data: Any, at: Any, value: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            b.store(args[2], _address(context, b, sig.args[0], args[0], args[1], _I64), align=1)
            return context.get_dummy_value()

        return types.void(data, types.int64, types.uint64), codegen

    return write


write64 = _make_write64()


def _make_copy() -> Any:
    """``target[at : at + n] = source[start : start + n]``; both uint8, and not the same memory."""
    if _CHECKED:

        @kernel(inline=True)
        def checked(target: Any, at: Any, source: Any, start: Any, n: Any) -> None:
            for i in range(n):
                target[at + i] = source[start + i]

        return checked

    @intrinsic
    def copy(typingctx: Any, target: Any, at: Any, source: Any, start: Any, n: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            to = _address(context, b, sig.args[0], args[0], args[1], _I8)
            where = _address(context, b, sig.args[2], args[2], args[3], _I8)
            cgutils.raw_memcpy(b, to, where, args[4], 1)
            return context.get_dummy_value()

        return types.void(target, types.int64, source, types.int64, types.int64), codegen

    return copy


copy = _make_copy()


def _make_fold() -> Any:
    """The 128-bit product of two uint64, its upper half XOR its lower half."""
    if JIT_DISABLED:

        def plain(a: Any, b: Any) -> Any:
            product = int(a) * int(b)
            return np.uint64(product >> 64 ^ product & (2**64 - 1))

        return plain

    @intrinsic
    def fold(typingctx: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            product = b.mul(b.zext(args[0], _I128), b.zext(args[1], _I128))
            return b.xor(b.trunc(product, _I64), b.trunc(b.lshr(product, ir.Constant(_I128, 64)), _I64))

        return types.uint64(types.uint64, types.uint64), codegen

    return fold


fold = _make_fold()


def _make_swap() -> Any:
    """The bytes of a uint64 in opposite order."""
    if JIT_DISABLED:

        def plain(value: Any) -> Any:
            return value.byteswap()

        return plain

    @intrinsic
    def swap(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            name = "llvm.bswap.i64"
            return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(_I64, [_I64]), name), args)

        return types.uint64(types.uint64), codegen

    return swap


swap = _make_swap()


def _make_accumulate() -> Any:
    """The eight lanes of XXH3 after so many stripes of 64 bytes from ``data[at]`` on, with keys from ``words[0]`` on.

    A lane takes the product of the halves of its own word XOR key, and its neighbor's word. The key of a stripe begins
    one word after that of the stripe before.
    """
    if _CHECKED:

        @kernel(inline=True)
        def pair(a: Any, b: Any, data: Any, at: Any, words: Any, w: Any) -> Any:
            x, y = read64(data, at), read64(data, at + 8)
            p, q = x ^ words[w], y ^ words[w + 1]
            return a + y + (p & _LOW32) * (p >> 32), b + x + (q & _LOW32) * (q >> 32)

        @kernel(inline=True)
        def checked(lanes: Any, data: Any, at: Any, stripes: Any, words: Any) -> Any:
            a, b, c, d, e, f, g, h = lanes
            for i in range(stripes):
                stripe = at + 64 * i
                a, b = pair(a, b, data, stripe, words, i)
                c, d = pair(c, d, data, stripe + 16, words, i + 2)
                e, f = pair(e, f, data, stripe + 32, words, i + 4)
                g, h = pair(g, h, data, stripe + 48, words, i + 6)
            return a, b, c, d, e, f, g, h

        return checked

    @intrinsic
    def accumulate(typingctx: Any, lanes: Any, data: Any, at: Any, stripes: Any, words: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            vector = ir.Constant(_VECTOR, ir.Undefined)
            for i in range(_LANES):
                vector = b.insert_element(vector, b.extract_value(args[0], i), _I32(i))
            total = cgutils.alloca_once_value(b, vector)
            neighbors = ir.Constant(ir.VectorType(_I32, _LANES), [i ^ 1 for i in range(_LANES)])
            low, half = (ir.Constant(_VECTOR, [value] * _LANES) for value in (2**32 - 1, 32))
            with cgutils.for_range(b, args[3]) as loop:
                stripe = b.add(args[2], b.shl(loop.index, ir.Constant(_I64, 6)))
                word = _load(context, b, sig.args[1], args[1], stripe, _VECTOR)
                key = _load(context, b, sig.args[4], args[4], b.shl(loop.index, ir.Constant(_I64, 3)), _VECTOR)
                keyed = b.xor(word, key)
                product = b.mul(b.and_(keyed, low), b.lshr(keyed, half))
                added = b.add(product, b.shuffle_vector(word, word, neighbors))
                b.store(b.add(b.load(total), added), total)
            result = b.load(total)
            return context.make_tuple(b, sig.return_type, [b.extract_element(result, _I32(i)) for i in range(_LANES)])

        return lanes(lanes, data, types.int64, types.int64, words), codegen

    return accumulate


accumulate = _make_accumulate()


def wrapping(function: Any) -> Any:
    """Decorator of kernels whose sums wrap, for those that Python calls: uncompiled, NumPy would warn of it."""
    return np.errstate(over="ignore")(function) if JIT_DISABLED else function


def _make_load(bits: int) -> Any:
    """The number of so many bits at an address, in 64 bits."""

    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            return b.zext(b.load(b.inttoptr(args[0], ir.IntType(bits).as_pointer())), _I64)

        return types.uint64(types.uint64), codegen

    return load


def _make_store(bits: int) -> Any:
    """Write the lowest so many bits of a number to an address."""

    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            kind = ir.IntType(bits)
            low = args[1] if bits == _LARGEST else b.trunc(args[1], kind)
            b.store(low, b.inttoptr(args[0], kind.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), codegen

    return store


load8, load64 = _make_load(8), _make_load(64)
store8, store64 = _make_store(8), _make_store(64)
