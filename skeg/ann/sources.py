"""Any input of vectors or ids, by whatever name it is given.

`open_source` turns arrays, files and iterators into a `VectorSource`; `read_ids` reads ids. Unusable dtypes and
shapes are refused here, with the name of the source. NaN, infinity and zero vectors are not looked for: that is
done once, where the rows are made float32.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from os import PathLike
from typing import Any

import numpy as np

from skeg.ann.readers import (
    RowsSource,
    VectorSource,
    npy_array,
    open_bin,
    open_npy,
    open_vecs,
    rebatch,
)
from skeg.ann.tables import open_hdf5, open_parquet
from skeg.checks import as_ids, as_real_array
from skeg.errors import FormatError, ParameterError, VectorError
from skeg.files import disk_errors
from skeg.mapped import MappedFile

__all__ = ["VectorSource", "open_source", "read_ids"]

ID_LINE_BYTES_MAX = 64

_FLAT: dict[str, Callable[[str], VectorSource]] = {
    ".npy": open_npy,
    ".fbin": partial(open_bin, dtype=np.dtype("<f4")),
    ".u8bin": partial(open_bin, dtype=np.dtype("u1")),
    ".i8bin": partial(open_bin, dtype=np.dtype("i1")),
    ".ibin": partial(open_bin, dtype=np.dtype("<i4")),
    ".fvecs": partial(open_vecs, dtype=np.dtype("<f4")),
    ".bvecs": partial(open_vecs, dtype=np.dtype("u1")),
    ".ivecs": partial(open_vecs, dtype=np.dtype("<i4")),
}
_WITH_MEMBERS: dict[str, Callable[[str, str | None], VectorSource]] = {
    ".hdf5": open_hdf5,
    ".h5": open_hdf5,
    ".parquet": open_parquet,
}
_ID_FILES = (".npy", ".ibin", ".ivecs")
_ID_TEXTS = (".txt", ".ids")


class BlockSource(VectorSource):
    """Rows from an iterator of 2-D arrays, which can be read once.

    The first array is fetched at once, because it tells dimension and dtype; all others have to agree with it.
    """

    def __init__(self, blocks: Iterator[Any], what: str) -> None:
        self._arrays = enumerate(blocks)
        first = next(self._arrays, None)
        if first is None:
            super().__init__(what, n=0, dim=0, dtype=np.dtype(np.float32))
        else:
            block = RowsSource(as_real_array(first[1], f"{what}, block 0"), f"{what}, block 0")
            super().__init__(what, n=None, dim=block.dim, dtype=block.dtype)
            self._arrays = chain([first], self._arrays)  # type: ignore[assignment]
        self._started = False

    def _blocks(self, rows: int) -> Iterator[np.ndarray]:
        if self._started:
            raise VectorError(self.name, expected="vectors that can be read again", found="an iterator, already read")
        self._started = True
        return rebatch(self._checked(), rows)

    def _checked(self) -> Iterator[np.ndarray]:
        for number, item in self._arrays:
            self._check_open()
            name = f"{self.name}, block {number}"
            block = RowsSource(as_real_array(item, name), name)
            if (block.dim, block.dtype) != (self.dim, self.dtype):
                expected = f"(n, {self.dim}) {self.dtype} as in block 0"
                raise VectorError(name, expected=expected, found=f"(n, {block.dim}) {block.dtype}")
            yield from block.blocks(max(1, block.n or 0))


def open_source(source: Any, *, what: str = "source") -> VectorSource:
    """Vectors as a `VectorSource`, whatever they come from.

    Parameters
    ----------
    source
        An array-like (n, dim) of real numbers (numpy, nested lists, anything with `__array__` or DLPack); an iterator
        of such arrays, all of one dimension and dtype, whose number of rows only reading will tell; the path of a
        `.npy`, `.fbin`, `.u8bin`, `.i8bin`, `.ibin`, `.fvecs`, `.bvecs`, `.ivecs`, `.hdf5`, `.h5` or `.parquet` file,
        for the last three optionally `PATH::MEMBER` to name the dataset or column; or a `VectorSource`, returned as it
        is. Shortening a file while it is open ends the process, as with every memory map.
    what
        How messages call a source that has no path: the caller's name of the argument.

    Raises
    ------
    VectorError
        An array that is not 2-D, has no columns or does not hold real numbers.
    ParameterError
        A path whose extension is not among the supported ones, or a member that the file does not have.
    MissingExtraError
        HDF5 or Parquet without h5py or pyarrow.
    StorageError
        A file that can't be opened; FormatError and CorruptError (both are StorageErrors) if its header, size and
        extension do not agree.
    """
    if isinstance(source, VectorSource):
        return source
    if isinstance(source, str | PathLike):
        return _open_path(source, what)
    if isinstance(source, Iterator):
        return BlockSource(source, what)
    return RowsSource(as_real_array(source, what), what)


def read_ids(source: Any, *, what: str = "ids") -> np.ndarray:
    """Ids as uint64 (n,), from an array of integers (n,) or (n, 1) or from a file.

    Parameters
    ----------
    source
        An array-like of any integer dtype; the path of a `.npy` file of integers, of an `.ibin` or `.ivecs` file of one
        column, or of a `.txt` or `.ids` text with one decimal number a line.
    what
        How messages call a source that has no path.

    Raises
    ------
    VectorError
        Not integers, another shape, or a negative id (names the row).
    ParameterError
        A path with another extension.
    StorageError
        As `open_source`; FormatError for a line of text that is not an id (names its number and offset).
    """
    if not isinstance(source, str | PathLike):
        if not hasattr(source, "__len__"):
            raise VectorError(what, expected="an array of integers", found=type(source).__name__)
        return as_ids(source, len(source), what=what)
    path = os.fspath(source)
    suffix = _suffix(path)
    if suffix in _ID_TEXTS:
        ids = _text_ids(path)
    elif suffix == ".npy":
        with MappedFile(path) as file:
            ids = npy_array(file)
    elif suffix in _ID_FILES:
        with _FLAT[suffix](path) as vectors:
            ids = vectors.take(np.arange(vectors.n or 0))
    else:
        raise ParameterError(what, path, f"an array of integers or a file with one of {[*_ID_FILES, *_ID_TEXTS]}")
    if ids.ndim == 2 and (ids.shape[1] == 1 or ids.size == 0):
        ids = ids.ravel()
    return as_ids(ids, len(ids), what=path)


def _open_path(source: str | PathLike[str], what: str) -> VectorSource:
    text = os.fspath(source)
    path, mark, member = text.rpartition("::")
    if not mark or os.path.exists(text):  # a file may well have "::" in its name
        path, member = text, ""
    suffix = _suffix(path)
    if suffix in _WITH_MEMBERS:
        return _WITH_MEMBERS[suffix](path, member or None)
    if suffix not in _FLAT:
        raise ParameterError(what, text, f"an array or a file with one of {[*_FLAT, *_WITH_MEMBERS]}")
    if member:
        raise ParameterError(what, text, f"a path without '::': a {suffix} file holds one array")
    return _FLAT[suffix](path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _text_ids(path: str) -> np.ndarray:
    """Ids from a text of one decimal number a line."""
    ids = array("Q")
    offset = 0
    with disk_errors(path, "read"), open(path, "rb") as file:
        # A bounded readline: a file without line ends is not read whole.
        while line := file.readline(ID_LINE_BYTES_MAX):
            digits = line.strip()
            if not digits.isdigit() or int(digits) >= 1 << 64:
                problem = f"line {len(ids) + 1} is not an id"
                raise FormatError(path, problem, offset=offset, expected="a number in 0..2^64-1", found=repr(line))
            ids.append(int(digits))
            offset += len(line)
    return np.array(ids, dtype=np.uint64)
