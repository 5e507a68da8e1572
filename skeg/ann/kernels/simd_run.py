"""Integer dot products of a run of consecutive code rows with one query, four rows at a time.

What a row costs beside its products is the adding up of its lanes. Four rows share that: their sums are folded into one
register step by step. Families and code layout as in `skeg.ann.kernels.simd`; sums are bit-identical.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from skeg.ann.kernels import simd
from skeg.jit import FAMILY, kernel

_I32, _I64 = ir.IntType(32), ir.IntType(64)

GROUP = 4
"""Rows that are added up together."""


def _fold(b: Any, left: Any, right: Any, group: int, n_groups: int) -> Any:
    """The lanes of two vectors form groups; the upper half of each is added to its lower half, which stay in order."""
    low = [g * group + lane for g in range(n_groups) for lane in range(group // 2)]

    def chosen(lanes: list[int]) -> Any:
        return b.shuffle_vector(left, right, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    return b.add(chosen(low), chosen([lane + group // 2 for lane in low]))


def _totals(b: Any, sums: list[Any]) -> Any:
    """Four totals, as one vector, of four vectors."""
    group = sums[0].type.count
    pairs = [_fold(b, sums[i], sums[i + 1], group, 2) for i in (0, 2)]
    group //= 2
    total = _fold(b, pairs[0], pairs[1], group, GROUP)
    group //= 2
    while group > 1:
        total = _fold(b, total, ir.Constant(total.type, ir.Undefined), group, GROUP)
        group //= 2
    return total


def _make_dots_run(bits: int) -> Any:
    """``products[i] = sum_j codes[first + i, j] * query[j]`` for i < 4 * n_groups; products int32."""
    if FAMILY == "portable":
        dot = getattr(simd, f"dot_packed_{bits}")

        @kernel()
        def portable(codes: Any, first: Any, n_groups: Any, query: Any, products: Any) -> None:
            for i in range(4 * n_groups):
                products[i] = np.int32(dot(codes, np.int64(first + i), query))

        return portable

    @intrinsic
    def dots(typingctx: Any, codes: Any, first: Any, n_groups: Any, query: Any, products: Any) -> Any:
        def codegen(context: Any, b: Any, sig: Any, args: list[Any]) -> Any:
            start, stride = simd.row_address(context, b, sig.args[0], args[0], args[1])
            digits = simd.first_address(context, b, sig.args[3], args[3])
            out = simd.first_address(context, b, sig.args[4], args[4])
            with cgutils.for_range(b, args[2]) as loop:
                row = b.add(start, b.mul(b.mul(loop.index, stride), ir.Constant(_I64, GROUP)))
                rows = [b.add(row, b.mul(stride, ir.Constant(_I64, i))) for i in range(GROUP)]
                total = _totals(b, simd.packed_sums(b, bits, rows, stride, digits))
                target = b.add(out, b.mul(loop.index, ir.Constant(_I64, 4 * GROUP)))
                b.store(total, b.inttoptr(target, total.type.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(codes, types.int64, types.int64, query, products), codegen

    return dots


dots_run_1 = _make_dots_run(1)
dots_run_2 = _make_dots_run(2)
dots_run_4 = _make_dots_run(4)
dots_run_8 = _make_dots_run(8)
