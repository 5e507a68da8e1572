"""Memory maps: the one owner of a mapped file, and large temporaries that live in a file instead of in memory.

A map may be unmapped only after the last array over it is gone, and NumPy arrays can't be told to let go. So
`MappedFile` owns the map, gives out read-only arrays, and on `close` unmaps at once if no array is left; if one
is, the map goes with the last of them. A closed file gives out nothing more either way.

Shortening a file that is mapped kills the processes that read it (SIGBUS). Nothing in skeg does: files appear by a
rename and are never changed in place.
"""

from __future__ import annotations

import math
import mmap
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skeg.errors import ClosedError, CorruptError, StorageError
from skeg.files import AnyPath, disk_errors, preallocate

Advice = Literal["normal", "random", "sequential", "willneed", "dontneed", "hugepage"]


class MappedFile:
    """A whole file, mapped for reading. Use it in a ``with`` block, or call `close`.

    Raises
    ------
    StorageError
        The file is missing, can't be read or is no regular file.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        with disk_errors(path, "open"):
            # Ask before opening: opening a pipe would wait for its other end.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise StorageError(path, "not a regular file")
            with open(path, "rb", buffering=0) as file:
                self.nbytes = file.seek(0, 2)
                # An empty file can't be mapped.
                self._map = mmap.mmap(file.fileno(), self.nbytes, access=mmap.ACCESS_READ) if self.nbytes else None
        self._closed = False

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of `length` bytes at `offset`; CorruptError if the file is shorter."""
        self._check_range(offset, length)
        return self._map[offset : offset + length] if self._map is not None else b""

    def view(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """Return a part of the file as a read-only C-contiguous array of the given dtype and shape, without a copy.

        Parameters
        ----------
        dtype : dtype
            Fixed size, no objects.
        shape : tuple of int
            No negative sizes.
        offset : int
            Bytes from the start of the file; a multiple of the dtype's alignment.

        Raises
        ------
        CorruptError
            The range leaves the file or is not aligned.
        ClosedError
            The file was closed.
        """
        kind = np.dtype(dtype)
        count = math.prod(shape)
        self._check_range(offset, count * kind.itemsize)
        if offset % kind.alignment:
            raise CorruptError(
                self.path,
                "array not aligned",
                offset=offset,
                expected=f"a multiple of {kind.alignment}",
                found=str(offset),
            )
        array: NDArray[Any]
        if self._map is None or count == 0:
            array = np.empty(shape, kind)
            array.flags.writeable = False
        else:
            array = np.frombuffer(self._map, kind, count, offset).reshape(shape)
        return array

    def advise(self, advice: Advice, offset: int = 0, length: int | None = None) -> None:
        """Tell the system how a range will be used (`madvise`); a hint that it does not know or take is no error.

        Parameters
        ----------
        advice : str
            "normal", "random", "sequential", "willneed", "dontneed" or "hugepage".
        offset, length : int
            Range in bytes, the whole file by default; it starts at the page that holds `offset`.
        """
        length = self.nbytes - offset if length is None else length
        self._check_range(offset, length)
        option = getattr(mmap, f"MADV_{advice.upper()}", None)
        if option is None or self._map is None or length == 0:
            return
        start = offset - offset % mmap.PAGESIZE
        try:
            self._map.madvise(option, start, offset + length - start)
        except OSError:
            return  # this kernel or file system does not take it

    def close(self) -> None:
        """Stop giving out arrays and unmap, now or when the last array dies; closing twice is allowed."""
        self._closed = True
        mapped, self._map = self._map, None
        if mapped is None:
            return
        try:
            mapped.close()
        except BufferError:
            return  # arrays are alive: they hold the map, and it goes with the last of them

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_range(self, offset: int, length: int) -> None:
        if self._closed:
            raise ClosedError(f"{self.path} was closed")
        if offset < 0 or length < 0 or offset + length > self.nbytes:
            raise CorruptError(
                self.path,
                "the file ends too early",
                offset=offset,
                expected=f"{length} bytes",
                found=f"{max(0, self.nbytes - offset)} bytes",
            )


def scratch_array(folder: AnyPath, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a zeroed, writable array that lives in a nameless temporary file, so that it can exceed the memory.

    Parameters
    ----------
    folder : path
        Where the file takes its space; a folder on a real disk, not one in memory.
    shape : tuple of int
        Shape of the array.
    dtype : dtype
        Fixed size, no objects.

    Returns
    -------
    ndarray
        C-contiguous and page-aligned. The space is given back when the last array over it is gone, or the process.

    Raises
    ------
    StorageError
        The folder is missing or can't be written, or the disk has not enough space. All of it is reserved here,
        since running out later would end the process.
    """
    kind = np.dtype(dtype)
    assert not kind.hasobject
    nbytes = math.prod(shape) * kind.itemsize
    if nbytes == 0:
        return np.zeros(shape, kind)
    reserving = disk_errors(folder, f"reserve {nbytes} bytes of scratch space")
    with reserving, tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        preallocate(file.fileno(), nbytes)
        mapped = mmap.mmap(file.fileno(), nbytes)
    return np.frombuffer(mapped, kind).reshape(shape)
