"""A container: one file of named, typed, aligned, checksummed arrays. This text is its specification, version 1.0.

All numbers are little-endian and unsigned. A file is

    header | section table | meta | section 0 | section 1 | ... | section s-1

where each section, and the end of the file, is at the next multiple of 64 after what comes before it. The bytes in
between are padding and zero. So the number and shapes of the sections fix every offset.

Header, 64 bytes:

    offset  size  field
         0     8  magic, "SKEGFILE"
         8     2  major version: 1. A reader refuses a newer one.
        10     2  minor version: 0. A reader takes a newer one; what it adds may be ignored.
        12     4  header length: 64. Where the table starts; a later minor version may make it longer, up to 4096.
        16     8  file length
        24     4  meta length, up to 2**24
        28     4  section count, up to 1024
        32     8  checksum of header, table and meta as one, with these 8 bytes taken as zero
        40    24  reserved, zero

Table entry, 80 bytes, one for each section in file order:

         0    24  name, UTF-8, 1 to 24 bytes, filled up with zeros; no two are equal
        24     2  dtype: u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8 (unsigned, signed, IEEE 754 float; bytes an item)
        26     1  number of dimensions, 0 to 3
        27     5  reserved, zero
        32    24  shape, three numbers, zero beyond the dimensions; without its zeros at most 2**48 bytes
        56     8  offset of the section in the file
        64     8  length in bytes: the product of the shape, times the bytes of an item
        72     8  checksum of those bytes

Meta is a JSON object in UTF-8: keys sorted, no spaces. Arrays are in C order. Checksums are XXH3, 64 bits, seed 0.

The writer fills the sections first and writes header, table and meta last, after a sync. A file whose writer died has
zeros where the magic should be and does not open.

Opening checks everything but the contents of the sections and the padding, in a time that does not depend on their
size. `Container.verify` checks those too, so that there is no bit whose change goes unnoticed.

Example: meta ``{"a":1}`` and one section "ids" of three u2 numbers, 1, 2 and 515. The table is at 64, meta at 144, the
section at 192 (its 6 bytes end the data) and the file ends at 256:

    000  53 4b 45 47 46 49 4c 45 01 00 00 00 40 00 00 00  SKEGFILE....@...
    010  00 01 00 00 00 00 00 00 07 00 00 00 01 00 00 00  ................
    020  cc ec 0e 74 d2 86 fc 1b 00 00 00 00 00 00 00 00  ...t............
    030  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    040  69 64 73 00 00 00 00 00 00 00 00 00 00 00 00 00  ids.............
    050  00 00 00 00 00 00 00 00 75 32 01 00 00 00 00 00  ........u2......
    060  03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    070  00 00 00 00 00 00 00 00 c0 00 00 00 00 00 00 00  ................
    080  06 00 00 00 00 00 00 00 8f 01 cf aa e4 9b 15 63  ...............c
    090  7b 22 61 22 3a 31 7d 00 00 00 00 00 00 00 00 00  {"a":1}.........
    0a0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    0b0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    0c0  01 00 02 00 03 02 00 00 00 00 00 00 00 00 00 00  ................
    0d0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    0e0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
    0f0  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skeg.binary import Checksum, align_up, canonical_json
from skeg.errors import ClosedError, CorruptError, FormatError, ParameterError, StorageError, VectorError
from skeg.files import AnyPath, OutputFile, fsync_dir
from skeg.layout import ALIGNMENT, META_BYTES_MAX, SECTIONS_MAX, Entry, Section, pack_start, read_start, start_bytes
from skeg.mapped import Advice, MappedFile

__all__ = ["Container", "ContainerWriter", "Section", "write_container"]

# Bytes written or checked at a time: small enough to stay in cache between checksum and write.
_BLOCK_BYTES = 1 << 20


class ContainerWriter:
    """Fills the sections of a new container in file order. Made by `write_container`; use it in a ``with`` block.

    Leaving the block by an exception, or an `append` that fails to write, ends it with a file that does not open.
    """

    def __init__(self, path: AnyPath, meta: dict[str, Any], sections: Sequence[Section]) -> None:
        self._meta = canonical_json("meta", meta)
        if len(self._meta) > META_BYTES_MAX:
            raise ParameterError("meta", f"{len(self._meta)} bytes", f"at most {META_BYTES_MAX} bytes of JSON")
        names = {section.name for section in sections}
        if len(names) < len(sections) or len(sections) > SECTIONS_MAX:
            raise ParameterError("sections", sections, f"at most {SECTIONS_MAX}, no two of one name")
        self._sections = tuple(sections)
        self._checksums = [Checksum() for _ in sections]
        self._current = 0  # the section being filled
        self._filled = 0  # bytes of it that are written
        self._file = OutputFile(path)
        self._open = True
        self._file.seek(align_up(start_bytes(len(sections), len(self._meta)), ALIGNMENT))
        self._skip_full_sections()

    def append(self, name: str, array: NDArray[Any]) -> None:
        """Write the next rows of a section.

        Parameters
        ----------
        name : str
            The first section in file order that is not full; any, if `array` is empty.
        array : ndarray
            Of the section's dtype and its shape beyond the first axis; any strides (a copy is made of a block at a
            time). A section of no dimensions takes one array of no dimensions.

        Raises
        ------
        ParameterError
            Another section comes first, or there is none of that name.
        VectorError
            Another dtype or shape, or more rows than the section has left.
        StorageError
            The disk is full or refused.
        ClosedError
            The writer was closed or has failed.
        """
        self._check_open()
        section = self._expect(name, empty=array.size == 0)
        if array.dtype != section.dtype:
            raise VectorError(f"section {name!r}", expected=f"dtype {section.dtype}", found=f"dtype {array.dtype}")
        if array.ndim != len(section.shape) or array.shape[1:] != section.shape[1:]:
            raise VectorError(f"section {name!r}", expected=f"rows of {section.shape}", found=f"shape {array.shape}")
        if array.size == 0:
            return
        left = section.nbytes - self._filled
        if array.nbytes > left:
            raise VectorError(f"section {name!r}", expected=f"at most {left} bytes more", found=f"{array.nbytes} bytes")
        try:
            for block in _blocks(array):
                self._file.write(block)
                self._checksums[self._current].update(block)
            self._filled += array.nbytes
            self._skip_full_sections()
        except BaseException:
            self.abort()
            raise

    def close(self) -> None:
        """Write the header, durably; closing twice is allowed.

        Raises
        ------
        StorageError
            A section is not full, or the disk refused; the file does not open.
        """
        if not self._open:
            return
        try:
            self._finish()
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up: close the file, which without its header does not open. Nothing happens after `close`."""
        self._open = False
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError(f"the writer of {self._file.path} was closed")

    def _expect(self, name: str, *, empty: bool) -> Section:
        """Return the section `name` if it may be appended to now."""
        for position, section in enumerate(self._sections):
            if section.name == name and (position == self._current or empty):
                return section
        left = self._sections[self._current :]
        raise ParameterError("name", name, f"section {left[0].name!r}" if left else "no more, all sections are full")

    def _skip_full_sections(self) -> None:
        while self._current < len(self._sections) and self._filled == self._sections[self._current].nbytes:
            self._file.write(bytes(-self._filled % ALIGNMENT))
            self._current += 1
            self._filled = 0

    def _finish(self) -> None:
        if self._current < len(self._sections):
            section = self._sections[self._current]
            raise StorageError(
                self._file.path,
                f"section {section.name!r} was not filled",
                expected=f"{section.nbytes} bytes",
                found=f"{self._filled} bytes",
            )
        start = pack_start(self._meta, self._sections, [state.value for state in self._checksums])
        # The sections must be on the disk before the header that vouches for them.
        self._file.sync()
        self._file.seek(0)
        self._file.write(start)
        self._file.sync()
        fsync_dir(self._file.path.parent)


def write_container(path: AnyPath, meta: dict[str, Any], sections: Sequence[Section]) -> ContainerWriter:
    """Begin a new container; fill it with `ContainerWriter.append` and finish it with `ContainerWriter.close`.

    Parameters
    ----------
    path : path
        A file that does not exist.
    meta : dict
        What JSON can express, with str keys; read back as `Container.meta`.
    sections : sequence of Section
        Everything that will be written, in file order.

    Raises
    ------
    ParameterError
        The format has no place for `meta` or `sections`.
    StorageError
        The file exists, or can't be made.
    """
    return ContainerWriter(path, meta, sections)


class Container:
    """A container opened for reading. Use it in a ``with`` block, or call `close`.

    Attributes
    ----------
    path : Path
        The file.
    nbytes : int
        Its size.
    meta : dict
        What the writer gave.
    sections : tuple of Section
        In file order.
    """

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self.path = file.path
        self.nbytes = file.nbytes
        start = read_start(file)
        self.meta = start.meta
        self.sections = start.sections
        self._entries = dict(zip((section.name for section in start.sections), start.entries, strict=True))
        self._arrays: dict[str, NDArray[Any]] = {}

    @classmethod
    def open(cls, path: AnyPath) -> Container:
        """Open the file `path`; takes no longer for a large file than for a small one.

        Raises
        ------
        StorageError
            The file is missing or can't be read.
        FormatError
            It is no container; `VersionTooNewError` if it is one of a later major version.
        CorruptError
            It is shorter or longer than it says, or its header is damaged.
        """
        file = MappedFile(path)
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def array(self, name: str) -> NDArray[Any]:
        """Return a section as a read-only array over the file, aligned to 64 bytes.

        Raises
        ------
        FormatError
            There is no such section.
        ClosedError
            The container was closed.
        """
        array = self._arrays.get(name)
        if array is None:
            entry = self._entry(name)
            section = next(section for section in self.sections if section.name == name)
            array = self._arrays[name] = self._file.view(section.dtype, section.shape, entry.offset)
        return array

    def advise(self, name: str, advice: Advice) -> None:
        """Tell the system how a section will be used, see `MappedFile.advise`."""
        entry = self._entry(name)
        self._file.advise(advice, entry.offset, entry.length)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read the whole file and check every byte of it.

        Parameters
        ----------
        progress : callable, optional
            Called with the bytes checked so far and the size of the file, about once for each MiB.

        Raises
        ------
        CorruptError
            The first damage in file order: the checksum of a section (`offset` is where the section starts) or
            padding that is not zero (`offset` is its byte).
        ClosedError
            The container was closed.
        """
        start = read_start(self._file)
        position = start.end
        for section, entry in zip(start.sections, start.entries, strict=True):
            self._verify_padding(position, entry.offset)
            state = Checksum()
            position = entry.offset
            data = self._file.view(np.uint8, (entry.length,), entry.offset)
            for block in _blocks(data):
                state.update(block)
                position += len(block)
                if progress is not None:
                    progress(position, self.nbytes)
            if state.value != entry.checksum:
                raise CorruptError(
                    self.path,
                    f"section {section.name!r} does not match its checksum",
                    offset=entry.offset,
                    expected=f"{entry.checksum:016x}",
                    found=f"{state.value:016x}",
                )
        self._verify_padding(position, self.nbytes)

    def close(self) -> None:
        """Give up the file; arrays handed out before stay valid. Closing twice is allowed."""
        self._arrays.clear()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> Entry:
        if self._file.closed:
            raise ClosedError(f"{self.path} was closed")
        entry = self._entries.get(name)
        if entry is None:
            found = ", ".join(self._entries) or "no sections"
            raise FormatError(self.path, "section missing", expected=f"a section {name!r}", found=found)
        return entry

    def _verify_padding(self, begin: int, end: int) -> None:
        for offset, byte in enumerate(self._file.read(begin, end - begin), begin):
            if byte:
                raise CorruptError(self.path, "padding is not zero", offset=offset, expected="0", found=str(byte))


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """Yield the bytes of an array that is not empty, whatever its strides, some rows at a time."""
    rows = array.reshape(1) if array.ndim == 0 else array
    step = max(1, _BLOCK_BYTES // max(1, rows.nbytes // max(1, len(rows))))
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(rows[start : start + step])
        yield block.reshape(-1).view(np.uint8).data
