"""SIMD primitives: integer dot products over packed codes, prefetch, shift.

Each primitive exists in up to three families (see `skeg.jit`): an AVX-512 and an AVX2 form written in LLVM IR through
`numba.extending.intrinsic`, and a portable form in plain loops. Integer sums are bit-identical in all of them. Which
one a kernel gets is decided here, once, by `skeg.jit.FAMILY`; the names to import are those without a suffix.

Code layout (`skeg.ann.quantizers` writes it): a row is a whole number of 64-byte blocks. With b bits a dimension, byte
j of block i carries the dimensions ``i * 64 * (8 // b) + s * 64 + j`` for s = 0 .. 8 // b - 1, dimension s in bits
``s * b .. s * b + b - 1``. So one AND and one shift unpack 64 dimensions, and the query needs no permutation.

Nothing here checks bounds: callers guarantee that rows exist, that arrays are C-contiguous and that code rows are
multiples of 64 bytes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from skeg.jit import FAMILY, kernel

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()


def _vec(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def _splat(element: ir.Type, lanes: int, value: Any) -> ir.Constant:
    return ir.Constant(_vec(element, lanes), [value] * lanes)


def _call(builder: Any, name: str, result: ir.Type, args: list[Any]) -> Any:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def _address(context: Any, builder: Any, array_type: Any, array: Any, byte_offset: Any) -> Any:
    """Integer address of ``array``'s first byte plus an offset."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.add(builder.ptrtoint(data, _I64), byte_offset)


def _load(builder: Any, address: Any, vector: ir.Type) -> Any:
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=1)


def _dpbusd512(b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
    """acc[i] += sum over 4 bytes of unsigned * signed (exact, 64 products)."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    # The three-i32-vector form is upgraded by every LLVM, the newer byte form only by new ones.
    return _call(b, name, acc.type, [acc, b.bitcast(unsigned, acc.type), b.bitcast(signed, acc.type)])


def _dot32_avx2(b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
    """The same over 32 bytes in 16-bit halves: vpmaddubsw would saturate for 8-bit codes, vpmaddwd does not."""
    wide = _vec(_I16, 16)
    undefined = ir.Constant(unsigned.type, ir.Undefined)
    for part in (0, 16):
        lanes = ir.Constant(_vec(_I32, 16), list(range(part, part + 16)))
        u = b.zext(b.shuffle_vector(unsigned, undefined, lanes), wide)
        s = b.sext(b.shuffle_vector(signed, undefined, lanes), wide)
        acc = b.add(acc, _call(b, "llvm.x86.avx2.pmadd.wd", acc.type, [u, s]))
    return acc


def first_address(context: Any, b: Any, array_type: Any, array: Any) -> Any:
    """Address of an array's first byte."""
    return _address(context, b, array_type, array, ir.Constant(_I64, 0))


def row_address(context: Any, b: Any, array_type: Any, array: Any, row: Any) -> tuple[Any, Any]:
    """Address of a row of a C-contiguous 2-D array, and the row's length in bytes."""
    columns = b.extract_value(context.make_array(array_type)(context, b, array).shape, 1)
    stride = b.mul(columns, ir.Constant(_I64, array_type.dtype.bitwidth // 8))
    return _address(context, b, array_type, array, b.mul(row, stride)), stride


def packed_sums(b: Any, bits: int, rows: list[Any], stride: Any, query: Any) -> list[Any]:
    """Lanes of int32 that add up to ``sum_j codes[row, j] * query[j]``, for code rows and a query at these addresses.

    One row keeps two sums where there are several products for each load, so that they need not wait for each other.
    """
    slots = 8 // bits
    width, step = (64, _dpbusd512) if FAMILY == "avx512" else (32, _dot32_avx2)
    ints = _vec(_I32, 16 if FAMILY == "avx512" else 8)
    n_sums = min(slots, 2) if len(rows) == 1 else 1
    sums = [[cgutils.alloca_once_value(b, _splat(_I32, ints.count, 0)) for _ in range(n_sums)] for _ in rows]
    with cgutils.for_range(b, b.lshr(stride, ir.Constant(_I64, 6))) as loop:
        block = b.shl(loop.index, ir.Constant(_I64, 6))
        for part in range(0, 64, width):
            here = b.add(block, ir.Constant(_I64, part))
            packed = [_load(b, b.add(row, here), _vec(_I8, width)) for row in rows]
            for s in range(slots):
                at = b.add(b.mul(block, ir.Constant(_I64, slots)), ir.Constant(_I64, s * 64 + part))
                digits = _load(b, b.add(query, at), _vec(_I8, width))
                for codes, of_row in zip(packed, sums, strict=True):
                    u = b.lshr(codes, _splat(_I8, width, s * bits)) if s else codes
                    if s < slots - 1:
                        u = b.and_(u, _splat(_I8, width, (1 << bits) - 1))
                    acc = of_row[s % n_sums]
                    b.store(step(b, b.load(acc), u, digits), acc)
    return [functools.reduce(b.add, [b.load(acc) for acc in of_row]) for of_row in sums]


def _make_dot_packed(bits: int) -> Any:
    """``sum_j codes[row, j] * query[j]`` over the dimensions of one packed row."""
    slots = 8 // bits
    if FAMILY == "portable":
        mask = (1 << bits) - 1

        @kernel()
        def portable(codes: Any, row: Any, query: Any) -> Any:
            total = np.int32(0)
            for block in range(codes.shape[1] // 64):
                for s in range(slots):
                    for j in range(64):
                        u = (np.int32(codes[row, block * 64 + j]) >> np.int32(s * bits)) & np.int32(mask)
                        total = np.int32(total + u * np.int32(query[(block * slots + s) * 64 + j]))
            return total

        return portable

    @intrinsic
    def dot(typingctx: Any, codes: Any, row: Any, query: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            code, stride = row_address(context, b, sig.args[0], args[0], args[1])
            (total,) = packed_sums(b, bits, [code], stride, first_address(context, b, sig.args[2], args[2]))
            return _call(b, f"llvm.vector.reduce.add.v{total.type.count}i32", _I32, [total])

        return types.int32(codes, types.int64, query), codegen

    return dot


dot_packed_1 = _make_dot_packed(1)
dot_packed_2 = _make_dot_packed(2)
dot_packed_4 = _make_dot_packed(4)
dot_packed_8 = _make_dot_packed(8)


def _make_dot_bytes() -> Any:
    """``sum_j codes[a, j] * (codes[b, j] - 128)`` over two rows of 8-bit codes."""
    if FAMILY == "portable":

        @kernel()
        def portable(codes: Any, a: Any, b: Any) -> Any:
            total = np.int32(0)
            for j in range(codes.shape[1]):
                total = np.int32(total + np.int32(codes[a, j]) * (np.int32(codes[b, j]) - np.int32(128)))
            return total

        return portable

    width = 64 if FAMILY == "avx512" else 32
    step = _dpbusd512 if FAMILY == "avx512" else _dot32_avx2
    ints = _vec(_I32, 16) if FAMILY == "avx512" else _vec(_I32, 8)

    @intrinsic
    def dot(typingctx: Any, codes: Any, row_a: Any, row_b: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            left, stride = row_address(context, b, sig.args[0], args[0], args[1])
            right, _ = row_address(context, b, sig.args[0], args[0], args[2])
            total = cgutils.alloca_once_value(b, ir.Constant(ints, [0] * ints.count))
            with cgutils.for_range(b, b.lshr(stride, ir.Constant(_I64, 6))) as loop:
                block = b.shl(loop.index, ir.Constant(_I64, 6))
                for part in range(0, 64, width):
                    at = b.add(block, ir.Constant(_I64, part))
                    unsigned = _load(b, b.add(left, at), _vec(_I8, width))
                    signed = b.xor(_load(b, b.add(right, at), _vec(_I8, width)), _splat(_I8, width, 0x80))
                    b.store(step(b, b.load(total), unsigned, signed), total)
            return _call(b, f"llvm.vector.reduce.add.v{ints.count}i32", _I32, [b.load(total)])

        return types.int32(codes, types.int64, types.int64), codegen

    return dot


dot_bytes = _make_dot_bytes()


def _make_prefetch_row() -> Any:
    """Ask the second-level cache for the first 64-byte lines of a row; never faults, changes nothing."""
    if FAMILY == "portable":

        @kernel(inline=True)
        def portable(array: Any, row: Any, n_lines: Any) -> Any:
            return None

        return portable

    @intrinsic
    def prefetch(typingctx: Any, array: Any, row: Any, n_lines: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            pointer = _I8.as_pointer()
            name = "llvm.prefetch.p0"
            ask = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32]), name
            )
            if sig.args[0].ndim == 2:
                start, _ = row_address(context, b, sig.args[0], args[0], args[1])
            else:
                size = ir.Constant(_I64, sig.args[0].dtype.bitwidth // 8)
                start = _address(context, b, sig.args[0], args[0], b.mul(args[1], size))
            with cgutils.for_range(b, args[2]) as loop:
                line = b.inttoptr(b.add(start, b.shl(loop.index, ir.Constant(_I64, 6))), pointer)
                b.call(ask, [line, _I32(0), _I32(2), _I32(1)])
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen

    return prefetch


prefetch_row = _make_prefetch_row()


def _make_shift_up() -> Any:
    """Move ``array[start:start + count]`` one place up (overlapping, like memmove)."""
    if FAMILY == "portable":

        @kernel(inline=True)
        def portable(array: Any, start: Any, count: Any) -> Any:
            for i in range(start + count, start, -1):
                array[i] = array[i - 1]

        return portable

    @intrinsic
    def shift_up(typingctx: Any, array: Any, start: Any, count: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            size = ir.Constant(_I64, sig.args[0].dtype.bitwidth // 8)
            source = _address(context, b, sig.args[0], args[0], b.mul(args[1], size))
            pointer = _I8.as_pointer()
            move = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(ir.VoidType(), [pointer, pointer, _I64, _I1]), "llvm.memmove.p0.p0.i64"
            )
            target = b.inttoptr(b.add(source, size), pointer)
            b.call(move, [target, b.inttoptr(source, pointer), b.mul(args[2], size), _I1(0)])
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen

    return shift_up


shift_up = _make_shift_up()


def _make_butterfly() -> Any:
    """``x[a + i], x[b + i] = (x[a + i] + x[b + i]) * scale, (x[a + i] - x[b + i]) * scale`` for i < count.

    float32; the two ranges do not overlap. Only the JIT-disabled form needs the plain loop: the vector form below is
    ordinary LLVM IR for every CPU.
    """
    if FAMILY == "portable":

        @kernel(inline=True)
        def portable(x: Any, a: Any, b: Any, count: Any, scale: Any) -> Any:
            for i in range(count):
                p = x[a + i]
                q = x[b + i]
                x[a + i] = (p + q) * scale
                x[b + i] = (p - q) * scale

        return portable

    @intrinsic
    def butterfly(typingctx: Any, x: Any, a: Any, b: Any, count: Any, scale: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: list[Any]) -> Any:
            base = _address(context, builder, sig.args[0], args[0], ir.Constant(_I64, 0))
            left, right = (builder.add(base, builder.shl(args[i], ir.Constant(_I64, 2))) for i in (1, 2))

            def turn(offset: Any, lanes: int) -> None:
                vector = _vec(_F32, lanes)
                scales = builder.insert_element(ir.Constant(vector, ir.Undefined), args[4], _I32(0))
                zeros = ir.Constant(_vec(_I32, lanes), [0] * lanes)
                scales = builder.shuffle_vector(scales, ir.Constant(vector, ir.Undefined), zeros)
                p, q = (_load(builder, builder.add(side, offset), vector) for side in (left, right))
                for side, value in ((left, builder.fadd(p, q)), (right, builder.fsub(p, q))):
                    target = builder.inttoptr(builder.add(side, offset), vector.as_pointer())
                    builder.store(builder.fmul(value, scales), target, align=4)

            whole = builder.lshr(args[3], ir.Constant(_I64, 4))
            with cgutils.for_range(builder, whole) as loop:
                turn(builder.shl(loop.index, ir.Constant(_I64, 6)), 16)
            done = builder.shl(whole, ir.Constant(_I64, 4))
            with cgutils.for_range(builder, builder.sub(args[3], done)) as loop:
                turn(builder.shl(builder.add(loop.index, done), ir.Constant(_I64, 2)), 1)
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, types.int64, types.float32), codegen

    return butterfly


butterfly = _make_butterfly()


def _make_hadamard_16() -> Any:
    """Unnormalized Walsh-Hadamard transform of every 16 coordinates of ``x[start:start + 16 * blocks]``, in place."""
    if FAMILY == "portable":

        @kernel(inline=True)
        def portable(x: Any, start: Any, blocks: Any) -> Any:
            for step in (1, 2, 4, 8):
                for i in range(start, start + 16 * blocks):
                    if (i - start) & step == 0:
                        p = x[i]
                        q = x[i + step]
                        x[i] = p + q
                        x[i + step] = p - q

        return portable

    @intrinsic
    def hadamard_16(typingctx: Any, x: Any, start: Any, blocks: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            vector = _vec(_F32, 16)
            base = _address(context, b, sig.args[0], args[0], b.shl(args[1], ir.Constant(_I64, 2)))
            with cgutils.for_range(b, args[2]) as loop:
                pointer = b.inttoptr(b.add(base, b.shl(loop.index, ir.Constant(_I64, 6))), vector.as_pointer())
                value = b.load(pointer, align=4)
                for step in (1, 2, 4, 8):
                    lanes = ir.Constant(_vec(_I32, 16), [i ^ step for i in range(16)])
                    other = b.shuffle_vector(value, ir.Constant(vector, ir.Undefined), lanes)
                    signs = ir.Constant(vector, [-1.0 if i & step else 1.0 for i in range(16)])
                    value = b.fadd(other, b.fmul(value, signs))
                b.store(value, pointer, align=4)
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64), codegen

    return hadamard_16


hadamard_16 = _make_hadamard_16()


def _masked(builder: Any, address: Any, mask: Any, passed: Any) -> Any:
    """Load the lanes of a mask, and nothing else, from an address; the other lanes are those of ``passed``."""
    pointer = builder.inttoptr(address, passed.type.as_pointer())
    return _call(builder, "llvm.masked.load.v8i64.p0", passed.type, [pointer, _I32(8), mask, passed])


def _make_insert_sorted() -> Any:
    """Insert ``key`` into ascending ``pool[:size]``, moving what is larger one place up; gives the key's place.

    int64; ``pool[size]`` is overwritten. Counts the smaller keys in whole vectors: up to a few hundred entries, reading
    all of them costs less than the branches of a binary search, which nobody can predict.
    """
    if FAMILY != "avx512":

        @kernel(inline=True)
        def counting(pool: Any, size: Any, key: Any) -> Any:
            place = np.int64(0)
            for i in range(size):
                place += np.int64(pool[i] < key)
            shift_up(pool, place, size - place)
            pool[place] = key
            return place

        return counting

    @intrinsic
    def insert(typingctx: Any, pool: Any, size: Any, key: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            eight = _vec(_I64, 8)
            undefined, none = ir.Constant(eight, ir.Undefined), ir.Constant(eight, [0] * 8)

            def spread(value: Any) -> Any:
                zeros = ir.Constant(_vec(_I32, 8), [0] * 8)
                return b.shuffle_vector(b.insert_element(undefined, value, _I32(0)), undefined, zeros)

            def block(index: Any) -> tuple[Any, Any]:
                """Address of eight entries, and their numbers."""
                numbers = b.add(ir.Constant(eight, list(range(8))), spread(b.shl(index, ir.Constant(_I64, 3))))
                return b.add(base, b.shl(index, ir.Constant(_I64, 6))), numbers

            base = _address(context, b, sig.args[0], args[0], ir.Constant(_I64, 0))
            ends, keys = spread(args[1]), spread(args[2])
            smaller = cgutils.alloca_once_value(b, none)
            last = b.lshr(args[1], ir.Constant(_I64, 3))
            with cgutils.for_range(b, b.add(last, ir.Constant(_I64, 1))) as loop:
                address, numbers = block(loop.index)
                here = _masked(b, address, b.icmp_signed("<", numbers, ends), keys)
                b.store(b.add(b.load(smaller), b.zext(b.icmp_signed("<", here, keys), eight)), smaller)
            place = _call(b, "llvm.vector.reduce.add.v8i64", _I64, [b.load(smaller)])
            places = spread(place)
            first = b.lshr(place, ir.Constant(_I64, 3))
            with cgutils.for_range(b, b.add(b.sub(last, first), ir.Constant(_I64, 1))) as loop:
                address, numbers = block(b.sub(last, loop.index))
                inside = b.icmp_signed("<=", numbers, ends)
                moved = _masked(b, address, b.icmp_signed("<", numbers, places), keys)
                above = b.and_(inside, b.icmp_signed(">", numbers, places))
                moved = _masked(b, b.sub(address, ir.Constant(_I64, 8)), above, moved)
                pointer = b.inttoptr(address, eight.as_pointer())
                _call(b, "llvm.masked.store.v8i64.p0", ir.VoidType(), [moved, pointer, _I32(8), inside])
            return place

        return types.int64(pool, types.int64, types.int64), codegen

    return insert


insert_sorted = _make_insert_sorted()
