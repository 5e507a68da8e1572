"""Byte layout of a hint: the specification of ``shard-<i>/<id>.hint``. Bytes in, bytes out.

A hint holds what a store needs to know of a segment in order to open, so that the segment itself need not be read: for
each key in it, where its newest record is. A hint is an index, never the truth: one that is missing or damaged
is made anew from its segment.

The file is a header of 80 bytes, then the columns of `skeg.kv.entries.COLUMNS` in that order, each of `rows` values and
followed by zeros up to a multiple of 8 bytes. Rows are ordered by hash. All integers are little-endian.

    ====== ==== =====================================================================
    offset size field
    ====== ==== =====================================================================
    0      8    magic ``SKEGHINT``
    8      4    format version, 1
    12     4    segment id
    16     16   shard id (`skeg.kv.manifest.Manifest.shard_id`)
    32     8    rows
    40     8    end: length of the part of the segment that the hint speaks of
    48     8    highest sequence number in that part
    56     8    bytes in that part that belong to no key: batches, lineage
    64     8    XXH3-64 of the columns
    72     8    XXH3-64 of bytes 0 to 71
    ====== ==== =====================================================================
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from skeg.binary import Record, align_up, checksum
from skeg.errors import CorruptError
from skeg.files import AnyPath
from skeg.kv.entries import COLUMNS, Entries

MAGIC = b"SKEGHINT"
VERSION = 1
HEADER_BYTES = 80
ROW_BYTES = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())
_SUM = struct.Struct("<Q")


class _Header(NamedTuple):
    magic: bytes
    version: int
    segment: int
    shard_id: bytes
    rows: int
    end: int
    last_seq: int
    overhead: int
    columns_sum: int


_HEADER: Record[_Header] = Record(_Header, "<8sII16sQQQQQ", HEADER_BYTES - 8)


@attrs.frozen(eq=False)
class Hint:
    """What a hint says.

    Parameters
    ----------
    segment : int
        Id of its segment.
    end : int
        Length in bytes of the part of the segment that was looked at.
    last_seq : int
        Highest sequence number in that part.
    overhead : int
        Bytes in that part that belong to no key.
    entries : Entries
        The newest row of each key in that part, ordered by hash.
    """

    segment: int
    end: int
    last_seq: int
    overhead: int
    entries: Entries


def pack_hint(hint: Hint, shard_id: bytes) -> bytes:
    """Bytes of a hint file."""
    columns = b"".join(_column(getattr(hint.entries, name), kind) for name, kind in COLUMNS.items())
    header = _HEADER.pack(
        _Header(
            MAGIC,
            VERSION,
            hint.segment,
            shard_id,
            len(hint.entries),
            hint.end,
            hint.last_seq,
            hint.overhead,
            checksum(columns),
        )
    )
    return header + _SUM.pack(checksum(header)) + columns


def unpack_hint(data: bytes, path: AnyPath, *, shard_id: bytes, segment: int) -> Hint:
    """Read the bytes of the hint file `path`, which has to belong to a segment.

    Raises
    ------
    CorruptError
        Not that hint, or damaged in any way. Nobody needs to know how: the segment is read instead.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptError(path, "hint cut short", expected=f"{HEADER_BYTES} bytes", found=f"{len(data)} bytes")
    header = _HEADER.unpack(data)
    if _SUM.unpack_from(data, HEADER_BYTES - 8)[0] != checksum(data[: HEADER_BYTES - 8]):
        raise CorruptError(path, "hint header does not match its checksum", offset=HEADER_BYTES - 8)
    claimed = (header.magic, header.version, header.segment, header.shard_id)
    if claimed != (MAGIC, VERSION, segment, shard_id):
        raise CorruptError(path, "not the hint of this segment", expected=str(segment), found=str(header.segment))
    columns = memoryview(data)[HEADER_BYTES:]
    if checksum(columns) != header.columns_sum:
        raise CorruptError(path, "hint does not match its checksum", offset=HEADER_BYTES)
    found = {}
    offset = 0
    for name, kind in COLUMNS.items():
        dtype = np.dtype(kind).newbyteorder("<")
        found[name] = np.frombuffer(columns, dtype, header.rows, offset)
        offset = align_up(offset + header.rows * dtype.itemsize, 8)
    return Hint(segment, header.end, header.last_seq, header.overhead, Entries(**found))


def _column(values: NDArray[Any], kind: DTypeLike) -> bytes:
    data = values.astype(np.dtype(kind).newbyteorder("<"), copy=False).tobytes()
    return data + bytes(-len(data) % 8)
