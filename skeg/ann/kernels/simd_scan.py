"""SIMD primitives of exhaustive scans: many rows against many queries at once (`skeg.ann.kernels.scan`, `.matmul`).

As in `skeg.ann.kernels.simd`, the family is chosen once by `skeg.jit.FAMILY`. Sums over sketches are integers and
bit-identical in all families. A float32 product adds its terms in one order whatever tile it is part of, so that a pair
of a row and a query has one score, alone or in a batch; the order differs between families.

Nothing here checks bounds: callers guarantee that rows, groups and queries exist and that arrays are C-contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from skeg.ann.kernels.simd import _address, _call, _dpbusd512, _load, _splat, _vec, row_address
from skeg.jit import FAMILY, JIT_DISABLED, kernel

GROUP = 16
"""Rows that lie interleaved in a group: one to each 32-bit lane of a 64-byte register."""

_I8, _I16, _I32, _I64, _F32 = (ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType())


def _int(value: int) -> Any:
    return ir.Constant(_I64, value)


def _undefined(vector: Any) -> Any:
    return ir.Constant(vector, ir.Undefined)


def _broadcast(b: Any, value: Any, lanes: int) -> Any:
    """One value in every lane; LLVM folds a load of it into the instruction that uses it."""
    vector = _vec(value.type, lanes)
    first = b.insert_element(_undefined(vector), value, _I32(0))
    return b.shuffle_vector(first, _undefined(vector), ir.Constant(_vec(_I32, lanes), [0] * lanes))


def _shuffle(b: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    return b.shuffle_vector(left, right, ir.Constant(_vec(_I32, len(lanes)), lanes))


# ---- sketches: one bit a dimension ----------------------------------------------------------------------------------


def _dot4_avx2(b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
    """acc[i] += sum over 4 bytes of unsigned * signed, exact for unsigned bytes up to 128: |2 * 128 * 127| < 2^15."""
    pairs = _call(b, "llvm.x86.avx2.pmadd.ub.sw", _vec(_I16, 16), [unsigned, signed])
    ones = ir.Constant(_vec(_I16, 16), [1] * 16)
    return b.add(acc, _call(b, "llvm.x86.avx2.pmadd.wd", acc.type, [pairs, ones]))


def _make_sum_group(n_queries: int, powers: int) -> Any:
    """``sums[first + q, column + l] = sum_d bit(row l of the group, d) * digit(query q, d)`` for ``n_queries`` queries.

    Bit s of byte (l, j) of word w is dimension 32 w + 4 s + j. digits int32, from ``start`` on: those of the dimensions
    32 w + 4 s .. + 3 of query q as the 4 bytes of item ``(8 w + s) * n_queries + q``, so that one pointer serves all.
    Masking a bit in place leaves 0 or 2^s: each of ``powers`` sums takes the bits of its own power of two and is
    shifted down at the end, which saves shifts of the codes where there are registers for more sums.
    """
    if FAMILY == "portable":

        @kernel()
        def portable(groups: Any, group: Any, digits: Any, start: Any, sums: Any, first: Any, column: Any) -> None:
            for q in range(n_queries):
                for lane in range(GROUP):
                    total = np.int32(0)
                    for word in range(groups.shape[1] // 64):
                        for j in range(4):
                            byte = np.int32(groups[group, word * 64 + lane * 4 + j])
                            for s in range(8):
                                bit = (byte >> np.int32(s)) & np.int32(1)
                                four = digits[start + (8 * word + s) * n_queries + q]
                                digit = np.int32(four << np.int32(24 - 8 * j)) >> np.int32(24)
                                total = np.int32(total + bit * digit)
                    sums[first + q, column + lane] = total

        return portable

    width = 64 if FAMILY == "avx512" else 32
    step = _dpbusd512 if FAMILY == "avx512" else _dot4_avx2
    ints, bytes_ = _vec(_I32, width // 4), _vec(_I8, width)

    @intrinsic
    def sum_group(
        typingctx: Any, groups: Any, group: Any, digits: Any, start: Any, sums: Any, first: Any, column: Any
    ) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            code, length = row_address(context, b, sig.args[0], args[0], args[1])
            query = _address(context, b, sig.args[2], args[2], b.shl(args[3], _int(2)))
            zero = ir.Constant(ints, [0] * ints.count)
            for part in range(0, 64, width):
                accs = [[cgutils.alloca_once_value(b, zero) for _ in range(powers)] for _ in range(n_queries)]
                for acc in [acc for row in accs for acc in row]:
                    b.store(zero, acc)
                with cgutils.for_range(b, b.lshr(length, _int(6))) as loop:
                    at = b.add(code, b.add(b.shl(loop.index, _int(6)), _int(part)))
                    packed = _load(b, at, bytes_)
                    word = b.add(query, b.mul(loop.index, _int(8 * n_queries * 4)))
                    for s in range(8):
                        low = s % powers
                        bits = b.lshr(packed, _splat(_I8, width, s - low)) if s >= powers else packed
                        bits = b.and_(bits, _splat(_I8, width, 1 << low))
                        for q in range(n_queries):
                            four = _load(b, b.add(word, _int((s * n_queries + q) * 4)), _I32)
                            digit = b.bitcast(_broadcast(b, four, ints.count), bytes_)
                            b.store(step(b, b.load(accs[q][low]), bits, digit), accs[q][low])
                for q in range(n_queries):
                    total = b.load(accs[q][0])
                    for low in range(1, powers):
                        shift = ir.Constant(ints, [low] * ints.count)
                        total = b.add(total, b.ashr(b.load(accs[q][low]), shift))
                    row, _ = row_address(context, b, sig.args[4], args[4], b.add(args[5], _int(q)))
                    at = b.add(row, b.shl(b.add(args[6], _int(part // 4)), _int(2)))
                    b.store(total, b.inttoptr(at, ints.as_pointer()), align=4)
            return context.get_dummy_value()

        number = types.int64
        return types.void(groups, number, digits, number, sums, number, number), codegen

    return sum_group


MANY, SOME = (12, 4) if FAMILY == "avx512" else (4, 4)
"""Queries that share a load of sketches: as many as leave registers for the codes, and for what is left over."""

sum_group_many = _make_sum_group(MANY, 1 if FAMILY == "avx512" else 2)
sum_group_some = _make_sum_group(SOME, 4 if FAMILY == "avx512" else 2)
sum_group_one = _make_sum_group(1, 8)


def _lanes_mask(b: Any, flags: Any) -> Any:
    """16 flags as the low bits of an int64."""
    return b.zext(b.bitcast(flags, ir.IntType(GROUP)), _I64)


def _make_lowest_bit() -> Any:
    """Place of the lowest bit that is set; the mask is not zero."""
    if JIT_DISABLED:

        def plain(mask: Any) -> Any:
            return (int(mask) & -int(mask)).bit_length() - 1

        return plain

    @intrinsic
    def lowest_bit(typingctx: Any, mask: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            return b.cttz(args[0], ir.IntType(1)(1))

        return types.int64(types.int64), codegen

    return lowest_bit


lowest_bit = _make_lowest_bit()


def _make_store_lanes() -> Any:
    """Write the lanes l of the mask, as ``first + l``, and their sums behind each other; gives how many there are.

    passed int32 (2, room): row numbers and sums, from ``count`` on. Up to 16 places past them may be written.
    """
    if FAMILY != "avx512":

        @kernel()
        def plain(mask: Any, first: Any, sums: Any, q: Any, column: Any, passed: Any, count: Any) -> Any:
            added = 0
            while mask != 0:
                lane = lowest_bit(mask)
                mask &= mask - 1
                passed[0, count + added] = first + lane
                passed[1, count + added] = sums[q, column + lane]
                added += 1
            return np.int64(added)

        return plain

    @intrinsic
    def store_lanes(
        typingctx: Any, mask: Any, first: Any, sums: Any, q: Any, column: Any, passed: Any, count: Any
    ) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            ints, flags = _vec(_I32, GROUP), _vec(ir.IntType(1), GROUP)
            lanes = b.bitcast(b.trunc(args[0], ir.IntType(GROUP)), flags)
            start, _ = row_address(context, b, sig.args[2], args[2], args[3])
            found = _load(b, b.add(start, b.shl(args[4], _int(2))), ints)
            rows = b.add(_broadcast(b, b.trunc(args[1], _I32), GROUP), ir.Constant(ints, list(range(GROUP))))
            for i, values in enumerate((rows, found)):
                out, _ = row_address(context, b, sig.args[5], args[5], _int(i))
                at = b.inttoptr(b.add(out, b.shl(args[6], _int(2))), ints.as_pointer())
                name = "llvm.x86.avx512.mask.compress.v16i32"
                b.store(_call(b, name, ints, [values, ir.Constant(ints, [0] * GROUP), lanes]), at, align=4)
            return b.ctpop(args[0])

        number = types.int64
        return types.int64(number, number, sums, number, number, passed, number), codegen

    return store_lanes


store_lanes = _make_store_lanes()


def _make_group_passes() -> Any:
    """Bits l where a row's score is at least ``least``, for the 16 rows of a group.

    The score is ``factors[group, 0, l] * step * (sums[q, column + l] - bias) + factors[group, 1, l] * weight``, up to
    rounding; sums int32; factors float32 (n_groups, 2, 16); the rest float32.
    """
    if JIT_DISABLED:

        def plain(
            factors: Any, group: Any, sums: Any, q: Any, column: Any, step: Any, bias: Any, weight: Any, least: Any
        ) -> Any:
            mask = 0
            for lane in range(GROUP):
                product = np.float32(sums[q, column + lane]) - bias
                score = factors[group, 0, lane] * step * product + factors[group, 1, lane] * weight
                mask |= int(score >= least) << lane
            return mask

        return plain

    @intrinsic
    def group_passes(
        typingctx: Any,
        factors: Any,
        group: Any,
        sums: Any,
        q: Any,
        column: Any,
        step: Any,
        bias: Any,
        weight: Any,
        least: Any,
    ) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            floats = _vec(_F32, GROUP)
            scale_at = _address(context, b, sig.args[0], args[0], b.mul(args[1], _int(2 * GROUP * 4)))
            row, _ = row_address(context, b, sig.args[2], args[2], args[3])
            sums16 = _load(b, b.add(row, b.shl(args[4], _int(2))), _vec(_I32, GROUP))
            step16, least16 = _broadcast(b, args[5], GROUP), _broadcast(b, args[8], GROUP)
            shift16 = _broadcast(b, b.fneg(b.fmul(args[5], args[6])), GROUP)
            offset = b.fmul(_load(b, b.add(scale_at, _int(GROUP * 4)), floats), _broadcast(b, args[7], GROUP))
            fused = f"llvm.fmuladd.v{GROUP}f32"
            product = _call(b, fused, floats, [b.sitofp(sums16, floats), step16, shift16])
            score = _call(b, fused, floats, [_load(b, scale_at, floats), product, offset])
            return _lanes_mask(b, b.fcmp_ordered(">=", score, least16))

        number = types.float32
        signature = types.int64(factors, types.int64, sums, types.int64, types.int64, number, number, number, number)
        return signature, codegen

    return group_passes


group_passes = _make_group_passes()


# ---- float32 -----------------------------------------------------------------------------------------------------


LANES = {"avx512": 16, "avx2": 8, "portable": 4}[FAMILY]
"""Partial sums of one float32 product: the lanes of a register."""

TILE_QUERIES = 3 if FAMILY == "avx2" else 6
TILE_ROWS = 4
"""A tile of products: as many sums as leave registers for the rows and queries."""


def _fold(b: Any, sums: list[Any]) -> list[Any]:
    """Add up the lanes of 1 or 4 registers; gives scalars.

    Lane i always meets lane i + half, whether two registers are folded into one or one into itself, so that each sum
    is added up in the same order.
    """
    rows, lanes, length = len(sums), sums[0].type.count, sums[0].type.count
    while length > 1:
        half = length // 2
        if len(sums) == 1:
            turned = _shuffle(b, sums[0], _undefined(sums[0].type), [i ^ half for i in range(lanes)])
            sums = [b.fadd(sums[0], turned)]
        else:
            length_apart = lanes // (rows // len(sums))
            low = [start + i for start in range(0, 2 * lanes, length_apart) for i in range(half)]
            pairs = zip(sums[::2], sums[1::2], strict=True)
            sums = [b.fadd(_shuffle(b, x, y, low), _shuffle(b, x, y, [i + half for i in low])) for x, y in pairs]
        length = half
    return [b.extract_element(sums[0], _I32(row * lanes // rows)) for row in range(rows)]


def _load_part(b: Any, address: Any, count: Any) -> Any:
    """The first ``count`` lanes of a register of float32, and zeros; never reads past them."""
    vector = _vec(_F32, LANES)
    number = _vec(_I32, LANES)
    mask = b.icmp_unsigned("<", ir.Constant(number, list(range(LANES))), _broadcast(b, b.trunc(count, _I32), LANES))
    pointer = b.inttoptr(address, vector.as_pointer())
    name = f"llvm.masked.load.v{LANES}f32.p0"
    return _call(b, name, vector, [pointer, _I32(1), mask, ir.Constant(vector, [0.0] * LANES)])


def _make_tile(n_queries: int, n_rows: int, *, squares: bool) -> Any:
    """``products[q, column + r]`` = inner product of ``queries[first + q]`` and ``vectors[row + r]``, float32.

    With ``squares`` it is minus the squared distance. The loop keeps ``n_queries * n_rows`` registers of partial sums.
    """
    if JIT_DISABLED:

        def plain(queries: Any, first: Any, vectors: Any, row: Any, products: Any, column: Any) -> None:
            with np.errstate(all="ignore"):  # compiled code does not warn either
                for q in range(n_queries):
                    for r in range(n_rows):
                        x, y = vectors[row + r], queries[first + q]
                        products[q, column + r] = -np.square(x - y).sum() if squares else (x * y).sum()

        return plain

    vector = _vec(_F32, LANES)
    fused = f"llvm.fmuladd.v{LANES}f32"

    @intrinsic
    def tile(typingctx: Any, queries: Any, first: Any, vectors: Any, row: Any, products: Any, column: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            def starts(i: int, count: int) -> list[Any]:
                row_numbers = [b.add(args[i + 1], _int(j)) for j in range(count)]
                return [row_address(context, b, sig.args[i], args[i], number)[0] for number in row_numbers]

            query_starts, row_starts = starts(0, n_queries), starts(2, n_rows)
            dim = b.extract_value(context.make_array(sig.args[0])(context, b, args[0]).shape, 1)
            zero = ir.Constant(vector, [0.0] * LANES)
            sums = [[cgutils.alloca_once_value(b, zero) for _ in row_starts] for _ in query_starts]

            def add(offset: Any, load: Any) -> None:
                x = [load(b.add(start, offset)) for start in row_starts]
                for q, start in enumerate(query_starts):
                    y = load(b.add(start, offset))
                    for r in range(n_rows):
                        pair = [b.fsub(x[r], y)] * 2 if squares else [x[r], y]
                        b.store(_call(b, fused, vector, [*pair, b.load(sums[q][r])]), sums[q][r])

            whole = b.udiv(dim, _int(LANES))
            with cgutils.for_range(b, whole) as loop:
                add(b.mul(loop.index, _int(4 * LANES)), lambda at: _load(b, at, vector))
            rest = b.sub(dim, b.mul(whole, _int(LANES)))
            with b.if_then(b.icmp_unsigned("!=", rest, _int(0))):
                add(b.mul(whole, _int(4 * LANES)), lambda at: _load_part(b, at, rest))
            for q in range(n_queries):
                start, _ = row_address(context, b, sig.args[4], args[4], _int(q))
                for r, total in enumerate(_fold(b, [b.load(acc) for acc in sums[q]])):
                    at = b.add(start, b.shl(b.add(args[5], _int(r)), _int(2)))
                    b.store(b.fneg(total) if squares else total, b.inttoptr(at, _F32.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(queries, types.int64, vectors, types.int64, products, types.int64), codegen

    return tile


dots_tile = _make_tile(TILE_QUERIES, TILE_ROWS, squares=False)
dots_strip = _make_tile(1, TILE_ROWS, squares=False)
dots_pair = _make_tile(1, 1, squares=False)
distances_tile = _make_tile(TILE_QUERIES, TILE_ROWS, squares=True)
distances_strip = _make_tile(1, TILE_ROWS, squares=True)
distances_pair = _make_tile(1, 1, squares=True)


def _make_products_pass() -> Any:
    """Bits l where ``products[q, column + l] >= least * norms[column + l]``, for 16 columns; all float32."""
    if JIT_DISABLED:

        def plain(products: Any, q: Any, column: Any, norms: Any, least: Any) -> Any:
            mask = 0
            for lane in range(GROUP):
                mask |= int(products[q, column + lane] >= least * norms[column + lane]) << lane
            return mask

        return plain

    @intrinsic
    def products_pass(typingctx: Any, products: Any, q: Any, column: Any, norms: Any, least: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            floats = _vec(_F32, GROUP)
            offset = b.shl(args[2], _int(2))
            row, _ = row_address(context, b, sig.args[0], args[0], args[1])
            found = _load(b, b.add(row, offset), floats)
            scale = _load(b, _address(context, b, sig.args[3], args[3], offset), floats)
            return _lanes_mask(b, b.fcmp_ordered(">=", found, b.fmul(scale, _broadcast(b, args[4], GROUP))))

        return types.int64(products, types.int64, types.int64, norms, types.float32), codegen

    return products_pass


products_pass = _make_products_pass()
