"""Vectors read from flat files: `.npy`, the big-ann `.fbin` family and the TEXMEX `.fvecs` family.

What belongs here: `VectorSource`, the one shape in which every input of vectors reaches the rest of skeg, and the
readers of files whose rows all have the same number of bytes, so that a memory map gives random access.

Layouts, little-endian:

- `.npy`: numpy's own, versions 1 to 3. Only plain 2-D arrays of real numbers; nothing is ever unpickled.
- `.fbin`, `.u8bin`, `.i8bin`, `.ibin` (float32, uint8, int8, int32): u32 rows, u32 dimension, then the rows.
- `.fvecs`, `.bvecs`, `.ivecs` (float32, uint8, int32): each row is an i32 dimension followed by its values. The file
  has no header: the first row's dimension is everybody's and each row is checked when it is read.

Sizes are checked against the file's when it is opened, in time that does not depend on them. Rows are handed out in
the file's own dtype, native byte order, C order; making them float32 is the caller's business.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from skeg.checks import as_real_array
from skeg.errors import ClosedError, CorruptError, FormatError, ParameterError, VectorError
from skeg.mapped import MappedFile

Dtype = np.dtype[Any]

NPY_MAGIC = b"\x93NUMPY"
NPY_HEADER_BYTES_MAX = 10_000  # numpy's own limit; a plain array needs about 120
_NPY_REAL = re.compile(r"[<>|=]?[fiu][0-9]+")
_NPY_FIELDS = {"descr", "fortran_order", "shape"}

_BIN_HEADER = struct.Struct("<II")
_VECS_HEADER = struct.Struct("<i")


class VectorSource(ABC):
    """Rows of vectors from anywhere: one pass in blocks of constant memory, or by number where that is possible.

    Attributes
    ----------
    name
        How messages call it: the path of a file, else the name of the argument.
    dim
        Values in a row. 0 only if there is no row to tell it.
    dtype
        Native dtype of the rows handed out.
    n
        Number of rows, None where only reading can tell.
    random_access
        Whether `take` works and `blocks` may be called any number of times at the cost of the rows read.
    """

    random_access = False

    def __init__(self, name: str, *, n: int | None, dim: int, dtype: Dtype) -> None:
        as_real_array(np.empty(0, dtype), name)
        self.name = name
        self.n = n
        self.dim = dim
        self.dtype = dtype.newbyteorder("=")
        self._closed = False

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All rows in order, in blocks (rows, dim) of which only the last may be shorter.

        A block may be a read-only view, and is only good until the next one is asked for.

        Raises
        ------
        ParameterError
            `rows` is less than 1.
        ClosedError
            The source was closed.
        """
        if rows < 1:
            raise ParameterError("rows", rows, "at least 1")
        self._check_open()
        return self._blocks(rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with the numbers `rows` (m,) int64, each in 0..n-1, in that order: (m, dim) in C order.

        Raises
        ------
        VectorError
            The source has no random access.
        """
        expected = "vectors with random access (an array, or a .npy, .*bin or .*vecs file)"
        raise VectorError(self.name, expected=expected, found=f"{type(self).__name__}, {len(rows)} rows asked for")

    def close(self) -> None:
        """Let go of files and arrays. Closing twice is allowed."""
        self._closed = True

    @abstractmethod
    def _blocks(self, rows: int) -> Iterator[np.ndarray]:
        """`blocks` with its argument checked."""

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.name} was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        rows = "?" if self.n is None else f"{self.n:,}"
        return f"<{type(self).__name__} {self.name} {rows} x {self.dim} {self.dtype}>"


class RowsSource(VectorSource):
    """The rows of a 2-D array, in memory or over `file`, which it then owns."""

    random_access = True

    def __init__(self, rows: np.ndarray, name: str, file: MappedFile | None = None) -> None:
        if rows.ndim != 2 or rows.shape[1] == 0:
            expected = "a 2-D array (n, dim) with dim of at least 1"
            raise VectorError(name, expected=expected, found=f"shape {rows.shape}")
        super().__init__(name, n=rows.shape[0], dim=rows.shape[1], dtype=rows.dtype)
        self._rows = rows
        self._file = file

    def take(self, rows: np.ndarray) -> np.ndarray:
        """See `VectorSource.take`."""
        return self._read(rows)

    def close(self) -> None:
        """See `VectorSource.close`. A file is unmapped when the last block over it is gone."""
        super().close()
        self._rows = self._rows[:0].copy()
        if self._file is not None:
            self._file.close()

    def _blocks(self, rows: int) -> Iterator[np.ndarray]:
        for start in range(0, self.n or 0, rows):
            yield self._read(slice(start, start + rows))

    def _read(self, which: slice | np.ndarray) -> np.ndarray:
        self._check_open()
        return np.require(self._rows[which], dtype=self.dtype, requirements=["C", "A"])


class VecsSource(RowsSource):
    """The rows of an `.fvecs`-like file, as bytes (n, 4 + dim * itemsize): the first four repeat the dimension."""

    def __init__(self, raw: np.ndarray, file: MappedFile, *, dim: int, dtype: Dtype) -> None:
        super().__init__(raw, str(file.path), file)
        self.dim = dim
        self.dtype = dtype.newbyteorder("=")

    def _read(self, which: slice | np.ndarray) -> np.ndarray:
        self._check_open()
        raw = self._rows[which]
        dims = raw[:, : _VECS_HEADER.size].view("<i4")[:, 0]
        wrong = np.flatnonzero(dims != self.dim)
        if len(wrong):
            at = int(wrong[0])
            row = at + which.start if isinstance(which, slice) else int(which[at])
            raise CorruptError(
                self.name,
                f"row {row} has another dimension than row 0",
                offset=row * raw.shape[1],
                expected=str(self.dim),
                found=str(dims[at]),
            )
        values = raw[:, _VECS_HEADER.size :].view(self.dtype.newbyteorder("<"))
        return np.require(values, dtype=self.dtype, requirements=["C", "A"])


def open_npy(path: str) -> VectorSource:
    """The rows of a 2-D `.npy` file.

    Raises
    ------
    FormatError
        Not a `.npy` file, or one whose array is not 2-D, has no columns or does not hold real numbers.
    CorruptError
        The file is shorter or longer than its header says.
    StorageError
        The file can't be opened.
    """
    file = MappedFile(path)
    array = npy_array(file)
    if array.ndim != 2 or array.shape[1] == 0:
        expected = "2 dimensions (n, dim), dim at least 1"
        raise FormatError(path, "holds an array of another shape", expected=expected, found=f"shape {array.shape}")
    return RowsSource(array, path, file)


def open_bin(path: str, dtype: Dtype) -> VectorSource:
    """The rows of a file in the layout of `.fbin`, whose values have `dtype`; raises as `open_npy`."""
    file = MappedFile(path)
    n, dim = _BIN_HEADER.unpack(file.read(0, _BIN_HEADER.size))
    if dim == 0:
        raise FormatError(path, "has rows without values", offset=4, expected="a dimension of at least 1", found="0")
    return RowsSource(_values(file, dtype, (n, dim), _BIN_HEADER.size), path, file)


def open_vecs(path: str, dtype: Dtype) -> VectorSource:
    """The rows of a file in the layout of `.fvecs`, whose values have `dtype`; raises as `open_npy`.

    A file of no bytes is a file of no rows, with dimension 0. Reading a row of another dimension raises CorruptError.
    """
    file = MappedFile(path)
    dim = 0
    if file.nbytes:
        (dim,) = _VECS_HEADER.unpack(file.read(0, _VECS_HEADER.size))
        if dim < 1:
            expected = "a dimension of at least 1"
            raise FormatError(path, "row 0 has no values", offset=0, expected=expected, found=str(dim))
    row_bytes = _VECS_HEADER.size + dim * dtype.itemsize
    n, rest = divmod(file.nbytes, row_bytes)
    if rest:
        expected = f"{row_bytes} bytes for dimension {dim}"
        raise CorruptError(path, f"ends inside row {n}", offset=n * row_bytes, expected=expected, found=f"{rest} bytes")
    return VecsSource(file.view(np.uint8, (n, row_bytes), 0), file, dim=dim, dtype=dtype)


def rebatch(blocks: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows in blocks of exactly `rows`, the last one excepted.

    What waits for the next block is copied, because whoever makes the blocks may use one buffer again and again.
    """
    held: list[np.ndarray] = []
    n_held = 0
    for block in blocks:
        start = 0
        while start < len(block):
            part = block[start : start + rows - n_held]
            start += len(part)
            if n_held + len(part) == rows:
                yield np.concatenate([*held, part]) if held else part
                held, n_held = [], 0
            else:
                held.append(part.copy())
                n_held += len(part)
    if held:
        yield np.concatenate(held)


def npy_array(file: MappedFile) -> np.ndarray:
    """The array in a `.npy` file, of any shape, over the map; raises as `open_npy`.

    The header is parsed here rather than by numpy, which would read a damaged length whole and lets through
    whatever error a damaged header causes.
    """
    magic = file.read(0, min(8, file.nbytes))
    if magic[:6] != NPY_MAGIC:
        raise FormatError(file.path, "is not a .npy file", offset=0, expected=repr(NPY_MAGIC), found=repr(magic[:6]))
    if len(magic) < 8 or magic[6] not in (1, 2, 3):
        found = repr(magic[6:])
        raise FormatError(file.path, "is of an unknown .npy version", offset=6, expected="1, 2 or 3", found=found)
    start = 10 if magic[6] == 1 else 12
    length = int.from_bytes(file.read(8, start - 8), "little")
    if length > NPY_HEADER_BYTES_MAX:
        expected = f"at most {NPY_HEADER_BYTES_MAX} bytes"
        raise FormatError(file.path, "has too long a header", offset=8, expected=expected, found=f"{length} bytes")
    text = file.read(start, length)
    try:
        fields = ast.literal_eval(text.decode("utf-8"))
        dtype, shape, order = _npy_fields(fields)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        expected = "a plain array of real numbers: {'descr': '<f4', 'fortran_order': False, 'shape': (n, dim)}"
        raise FormatError(file.path, "can't be used", offset=start, expected=expected, found=repr(text)) from error
    return _values(file, dtype, shape, start + length, order)


def _npy_fields(fields: Any) -> tuple[Dtype, tuple[int, ...], Literal["C", "F"]]:
    """Dtype, shape and order from the dict in a `.npy` header; ValueError or TypeError if it is not one for us."""
    if not isinstance(fields, dict) or set(fields) != _NPY_FIELDS:
        raise ValueError("other fields")
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(descr, str) or not _NPY_REAL.fullmatch(descr):
        raise ValueError("objects, records, text or the like")
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("no shape")
    if not isinstance(fortran, bool):
        raise TypeError("no order")
    return np.dtype(descr), shape, "F" if fortran else "C"


def _values(
    file: MappedFile, dtype: Dtype, shape: tuple[int, ...], offset: int, order: Literal["C", "F"] = "C"
) -> np.ndarray:
    """The array that fills a file from `offset` to its end; CorruptError if the file has another size."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if file.nbytes != offset + n_bytes:
        problem = "ends too early" if file.nbytes < offset + n_bytes else "goes on after its last row"
        raise CorruptError(
            file.path,
            problem,
            offset=min(file.nbytes, offset + n_bytes),
            expected=f"{offset + n_bytes} bytes",
            found=f"{file.nbytes} bytes",
        )
    # By way of bytes, since nothing makes the values of foreign files aligned.
    return file.view(np.uint8, (n_bytes,), offset).view(dtype).reshape(shape, order=order)
