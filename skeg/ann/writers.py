"""Vectors written to `.npy` and `.fbin` files in one pass of constant memory, whatever they come from.

The number of rows is known only at the end and is then written into the header. The file appears under its name
when it is whole and on stable storage; an error leaves what was there before.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from skeg.ann.sources import VectorSource, open_source
from skeg.errors import ParameterError, VectorError
from skeg.files import AnyPath, atomic_output

_BLOCK_ROWS = 4096
_FBIN_ROWS_MAX = 2**32 - 1


def write_npy(path: AnyPath, blocks: Any, *, dim: int | None = None, dtype: DTypeLike = np.float32) -> int:
    """Write vectors as a 2-D `.npy` file, the same bytes that `numpy.save` would write.

    Parameters
    ----------
    path : path
        File to make or to replace.
    blocks : array_like (n, dim), iterator of such, path or VectorSource
        Anything that `open_source` takes.
    dim : int, optional
        Dimension that the rows must have; needed only if there may be no rows at all.
    dtype : dtype
        float16, float32 or float64.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    VectorError
        Rows of another dimension, a finite value beyond `dtype`, no rows and no `dim`; see also `open_source`.
    ParameterError
        `dtype` is not one of the three.
    StorageError
        The file can't be written.
    """
    kind = np.dtype(dtype)
    if kind.kind != "f" or kind.itemsize > 8:
        raise ParameterError("dtype", str(kind), "float16, float32 or float64")

    def header(n: int, width: int) -> bytes:
        # numpy leaves room for more digits of n, so the header's length does not depend on it.
        text = io.BytesIO()
        fields = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (n, width)}
        np.lib.format.write_array_header_1_0(text, fields)
        return text.getvalue()

    with open_source(blocks, what="blocks") as source:
        return _write(path, source, _checked_dim(source, dim), kind, header)


def write_fbin(path: AnyPath, blocks: Any, *, dim: int | None = None) -> int:
    """Write vectors as a big-ann `.fbin` file: u32 rows, u32 dimension, float32 rows, little-endian.

    Parameters
    ----------
    path : path
        File to make or to replace.
    blocks : array_like (n, dim), iterator of such, path or VectorSource
        Anything that `open_source` takes.
    dim : int, optional
        Dimension that the rows must have; needed only if there may be no rows at all.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    VectorError, StorageError
        As `write_npy`; VectorError also for more than 2^32 - 1 rows.
    """

    def header(n: int, width: int) -> bytes:
        if n > _FBIN_ROWS_MAX:
            raise VectorError("blocks", expected=f"at most {_FBIN_ROWS_MAX} rows in a .fbin file", found=str(n))
        return struct.pack("<II", n, width)

    with open_source(blocks, what="blocks") as source:
        return _write(path, source, _checked_dim(source, dim), np.dtype("<f4"), header)


def _write(
    path: AnyPath, source: VectorSource, dim: int, dtype: np.dtype[Any], header: Callable[[int, int], bytes]
) -> int:
    """Write the header for no rows, the rows, and then the header again; return the number of rows."""
    n = 0
    with atomic_output(path) as file:
        placeholder = header(source.n or 0, dim)
        file.write(placeholder)
        for block in source.blocks(_BLOCK_ROWS):
            file.write(_cast(block, dtype, source.name, n).ravel().view(np.uint8).data)
            n += len(block)
        final = header(n, dim)
        assert len(final) == len(placeholder)
        file.seek(0)
        file.write(final)
    return n


def _checked_dim(source: VectorSource, dim: int | None) -> int:
    """The dimension to write."""
    if dim is not None and source.dim not in (0, dim):
        raise VectorError(source.name, expected=f"dimension {dim}", found=f"dimension {source.dim}")
    width = dim or source.dim
    if width == 0:
        raise VectorError(source.name, expected="rows, or their dimension given as dim", found="no rows")
    return width


def _cast(block: np.ndarray, dtype: np.dtype[Any], name: str, first_row: int) -> np.ndarray:
    """`block` in the dtype of the file; VectorError if that makes a finite value infinite."""
    with np.errstate(over="ignore"):  # looked for below, to name the row
        cast = block.astype(dtype, order="C", copy=False)
    if np.can_cast(block.dtype, dtype):
        return cast
    lost = np.isinf(cast) & np.isfinite(block)
    if lost.any():
        row, column = (int(at[0]) for at in np.nonzero(lost))
        expected = f"values within the range of {dtype}"
        raise VectorError(name, expected=expected, found=str(block[row, column]), row=first_row + row)
    return cast
