"""The bytes of a container before its first section: pack them, and read them with every check.

`skeg.container` specifies them. Reading looks at the header, the table and meta only, so its cost does not depend
on the size of the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import attrs
import numpy as np

from skeg.binary import Record, align_up, checksum
from skeg.checks import as_int
from skeg.errors import CorruptError, FormatError, ParameterError, VersionTooNewError
from skeg.mapped import MappedFile

MAGIC = b"SKEGFILE"
MAJOR, MINOR = 1, 0
ALIGNMENT = 64
DTYPES = {code: np.dtype(f"<{code}") for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")}

META_BYTES_MAX = 1 << 24
SECTIONS_MAX = 1024
_HEADER_BYTES_MAX = 4096
_NAME_BYTES_MAX = 24
_DIMENSIONS_MAX = 3
_SECTION_BYTES_MAX = 1 << 48


class _Header(NamedTuple):
    magic: bytes
    major: int
    minor: int
    header_length: int
    file_length: int
    meta_length: int
    section_count: int
    checksum: int


class Entry(NamedTuple):
    """One entry of the section table."""

    name: bytes
    dtype: bytes
    ndim: int
    shape0: int
    shape1: int
    shape2: int
    offset: int
    length: int
    checksum: int


_HEADER = Record(_Header, "<8sHHIQIIQ24x", 64)
_ENTRY = Record(Entry, "<24s2sB5xQQQQQQ", 80)
_CHECKSUM_AT = 32


def _as_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError as error:
        raise ParameterError("dtype", value, f"one of {', '.join(DTYPES)}") from error
    if dtype not in DTYPES.values():
        raise ParameterError("dtype", value, f"one of {', '.join(DTYPES)}")
    return dtype


def _as_shape(value: Iterable[Any]) -> tuple[int, ...]:
    shape = tuple(as_int("shape", size, 0) for size in value)
    if len(shape) > _DIMENSIONS_MAX:
        raise ParameterError("shape", shape, f"at most {_DIMENSIONS_MAX} dimensions")
    return shape


@attrs.frozen
class Section:
    """One array of a container: its name, dtype and shape (ParameterError if the format has no place for it)."""

    name: str = attrs.field()  # 1 to 24 bytes of UTF-8
    dtype: np.dtype[Any] = attrs.field(converter=_as_dtype)  # one of `DTYPES`
    shape: tuple[int, ...] = attrs.field(converter=_as_shape)  # 0 to 3 dimensions

    @name.validator
    def _check_name(self, _: attrs.Attribute[str], name: str) -> None:
        try:
            encoded = name.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            encoded = b""
        if not 1 <= len(encoded) <= _NAME_BYTES_MAX or b"\0" in encoded:
            raise ParameterError("name", name, f"1 to {_NAME_BYTES_MAX} bytes of UTF-8 without a zero")

    @shape.validator
    def _check_size(self, _: attrs.Attribute[tuple[int, ...]], shape: tuple[int, ...]) -> None:
        # Zeros don't count: NumPy refuses a shape like (2**62, 0) for what its other sizes come to.
        if math.prod(size or 1 for size in shape) * self.dtype.itemsize > _SECTION_BYTES_MAX:
            raise ParameterError("shape", shape, f"at most {_SECTION_BYTES_MAX} bytes")

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class Start(NamedTuple):
    """What a file says before its first section."""

    sections: tuple[Section, ...]
    entries: tuple[Entry, ...]
    meta: dict[str, Any]
    end: int  # first byte after meta


def place(sections: Iterable[Section], start: int) -> tuple[list[int], int]:
    """Return the offset of each section and the length of a file whose meta ends at `start`."""
    offsets = []
    for section in sections:
        offsets.append(align_up(start, ALIGNMENT))
        start = offsets[-1] + section.nbytes
    return offsets, align_up(start, ALIGNMENT)


def pack_start(meta: bytes, sections: Sequence[Section], checksums: Sequence[int]) -> bytes:
    """Return header, table and meta, and the padding up to the first section."""
    end = start_bytes(len(sections), len(meta))
    offsets, file_length = place(sections, end)
    table = b"".join(map(_pack_entry, sections, offsets, checksums))
    header = _Header(MAGIC, MAJOR, MINOR, _HEADER.size, file_length, len(meta), len(sections), checksum=0)
    header = header._replace(checksum=checksum(_HEADER.pack(header), table, meta))
    return (_HEADER.pack(header) + table + meta).ljust(align_up(end, ALIGNMENT), b"\0")


def start_bytes(section_count: int, meta_length: int) -> int:
    """Return the length of header, table and meta, without padding."""
    return _HEADER.size + section_count * _ENTRY.size + meta_length


def _pack_entry(section: Section, offset: int, digest: int) -> bytes:
    code = f"{section.dtype.kind}{section.dtype.itemsize}".encode()
    shape0, shape1, shape2 = (*section.shape, 0, 0, 0)[:_DIMENSIONS_MAX]
    entry = Entry(
        section.name.encode(), code, len(section.shape), shape0, shape1, shape2, offset, section.nbytes, digest
    )
    return _ENTRY.pack(entry)


def read_start(file: MappedFile) -> Start:
    """Read and check everything before the first section, and the size of the file."""
    header = _read_header(file)
    table_length = header.section_count * _ENTRY.size
    meta_start = header.header_length + table_length
    end = meta_start + header.meta_length
    data = file.read(0, end)
    found = checksum(data[:_CHECKSUM_AT], bytes(8), data[_CHECKSUM_AT + 8 :])
    if found != header.checksum:
        raise CorruptError(
            file.path,
            "header does not match its checksum",
            offset=0,
            expected=f"{header.checksum:016x}",
            found=f"{found:016x}",
        )
    if header.file_length != file.nbytes:
        raise CorruptError(
            file.path,
            "file cut short or extended",
            offset=min(header.file_length, file.nbytes),
            expected=f"{header.file_length} bytes",
            found=f"{file.nbytes} bytes",
        )
    entries = tuple(_ENTRY.unpack(data, header.header_length + i * _ENTRY.size) for i in range(header.section_count))
    sections = tuple(
        _read_section(file, entry, header.header_length + i * _ENTRY.size) for i, entry in enumerate(entries)
    )
    _check_places(file, sections, entries, end)
    return Start(sections, entries, _read_meta(file, data[meta_start:], meta_start), end)


def _read_header(file: MappedFile) -> _Header:
    magic = file.read(0, min(len(MAGIC), file.nbytes))
    if magic != MAGIC:
        raise FormatError(
            file.path, "not a skeg container, or not finished", offset=0, expected=repr(MAGIC), found=repr(magic)
        )
    header = _HEADER.unpack(file.read(0, _HEADER.size))
    if header.major != MAJOR:
        kind = VersionTooNewError if header.major > MAJOR else FormatError
        raise kind(
            file.path, "version can't be read", offset=8, expected=f"{MAJOR}.x", found=f"{header.major}.{header.minor}"
        )
    for offset, name, value, low, high in (
        (12, "header length", header.header_length, _HEADER.size, _HEADER_BYTES_MAX),
        (24, "meta length", header.meta_length, 0, META_BYTES_MAX),
        (28, "section count", header.section_count, 0, SECTIONS_MAX),
    ):
        if not low <= value <= high:
            raise CorruptError(
                file.path, f"{name} out of range", offset=offset, expected=f"{low} to {high}", found=str(value)
            )
    return header


def _read_section(file: MappedFile, entry: Entry, offset: int) -> Section:
    sizes = (entry.shape0, entry.shape1, entry.shape2)
    shape, beyond = sizes[: entry.ndim], sizes[entry.ndim :]
    if len(shape) != entry.ndim or any(beyond):
        raise CorruptError(
            file.path, "section of wrong shape", offset=offset, expected=f"{entry.ndim} sizes", found=str(sizes)
        )
    dtype = DTYPES.get(entry.dtype.decode("latin-1"))
    if dtype is None:
        raise FormatError(
            file.path, "dtype can't be read", offset=offset + 24, expected=" ".join(DTYPES), found=repr(entry.dtype)
        )
    try:
        return Section(entry.name.rstrip(b"\0").decode(), dtype, shape)
    except (ParameterError, UnicodeDecodeError) as error:
        raise CorruptError(file.path, f"section table entry is wrong ({error})", offset=offset) from error


def _check_places(file: MappedFile, sections: Sequence[Section], entries: Sequence[Entry], start: int) -> None:
    offsets, file_length = place(sections, start)
    for section, entry, offset in zip(sections, entries, offsets, strict=True):
        if (entry.offset, entry.length) != (offset, section.nbytes):
            raise CorruptError(
                file.path,
                f"section {section.name!r} is in the wrong place",
                expected=f"{section.nbytes} bytes at {offset}",
                found=f"{entry.length} bytes at {entry.offset}",
            )
    if len({section.name for section in sections}) < len(sections):
        raise CorruptError(file.path, "two sections of one name")
    if file_length != file.nbytes:
        raise CorruptError(
            file.path, "sections do not fill the file", expected=f"{file_length} bytes", found=f"{file.nbytes} bytes"
        )


def _read_meta(file: MappedFile, data: bytes, offset: int) -> dict[str, Any]:
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(file.path, f"meta is no JSON ({error})", offset=offset) from error
    if not isinstance(meta, dict):
        raise CorruptError(file.path, "meta is no JSON object", offset=offset)
    return meta
