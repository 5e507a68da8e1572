"""Byte layout of a log segment: the specification of ``shard-<i>/<id>.log``. Bytes in, bytes out; no files here.

A segment is a header of 64 bytes, then records, each starting at a multiple of 8 bytes. All integers are
little-endian.

Segment header
    ====== ==== =====================================================================
    offset size field
    ====== ==== =====================================================================
    0      8    magic: SKEGLOG and a zero byte
    8      4    format version, 1
    12     4    segment id, 1 or more
    16     16   shard id (`skeg.kv.manifest.Manifest.shard_id`)
    32     8    sequence number that the first record has at least
    40     4    id of the segment written before this one; 0 if none, or if made by compaction
    44     4    flags: bit 0 = made by compaction
    48     8    length in bytes of the segment written before this one; of this one if made by compaction
    56     8    XXH3-64 of bytes 0 to 55
    ====== ==== =====================================================================

Record
    ====== ==== =====================================================================
    offset size field
    ====== ==== =====================================================================
    0      8    XXH3-64 of bytes 8 to 23 + klen + vlen, XOR the record's place
    8      4    durable: offset / 8 up to which this segment was known to be on stable
                storage when the record was made; 2^32 - 1 in a member of a batch
    12     4    kind << 30 | vlen
    16     8    sequence number << 16 | klen
    24     klen key, then vlen bytes of value, then zeros up to a multiple of 8
    ====== ==== =====================================================================

The *place* is ``salt XOR segment id << 32 XOR offset / 8``, with the salt of the shard (`Manifest.shard_salt`): bytes
that were written for another place, or by another shard or store, never pass for a record.

Kinds
    0  lineage: no key; the value is the ids (4 bytes each) of the segments that this one, made by compaction,
       stands for. Always the first record of such a segment, and only there.
    1  value.
    2  tombstone: the key is the key hash (8 bytes) and the key check (4 bytes) of the deleted key, the value is empty.
       The name of a deleted key is not kept.
    3  batch: no key; the value is one or more records, its *members*, of the kinds 1 and 2. The batch has the
       sequence number of its first member, its checksum covers all of them, and each has its own.

In a segment that was not made by compaction, sequence numbers grow from record to record. The numbers of writes that
failed are not used again, so that what they left behind is older than whatever precedes it, and so is seen to be stale.

The field *durable* tells a torn tail from damage. A record that does not check out, while a later one says that the
first one's bytes were durable, was damaged after it was written; without such a witness it was never whole.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from skeg.binary import Bytes, Record, align_up
from skeg.errors import FormatError
from skeg.files import AnyPath
from skeg.headers import HEADER_BYTES as HEADER_BYTES  # noqa: PLC0414 - a name of this module too
from skeg.headers import check_header, sign_header

MAGIC = b"SKEGLOG\0"
VERSION = 1
COMPACTED = 1

ALIGNMENT = 8
RECORD_BYTES = 24
MEMBER = 2**32 - 1

LINEAGE, VALUE, TOMBSTONE, BATCH = range(4)

KEY_BYTES_MAX = 65_535
VALUE_BYTES_MAX = 512 << 20
# Members start below 512 MiB, so that locations can address them.
BATCH_BYTES_MAX = (512 << 20) - HEADER_BYTES
SEGMENT_BYTES_MAX = 256 << 20
SEQ_MAX = 2**48 - 1

VLEN_MASK = 2**30 - 1
TOMBSTONE_KEY = struct.Struct("<QI")
# durable, kind << 30 | vlen, seq << 16 | klen; the checksum stands before them.
HEAD = struct.Struct("<IIQ")
_SUM = struct.Struct("<Q")
_RECORD = struct.Struct("<QIIQ")
# A tombstone with its padding.
TOMBSTONE_BYTES = 40
_PADDING = [bytes(-n % ALIGNMENT) for n in range(ALIGNMENT)]


class SegmentHeader(NamedTuple):
    """The first 64 bytes of a segment."""

    segment: int
    shard_id: bytes
    first_seq: int
    previous: int
    flags: int
    previous_bytes: int


class _Header(NamedTuple):
    magic: bytes
    version: int
    segment: int
    shard_id: bytes
    first_seq: int
    previous: int
    flags: int
    previous_bytes: int


_HEADER: Record[_Header] = Record(_Header, "<8sII16sQIIQ", HEADER_BYTES - 8)


def pack_header(header: SegmentHeader) -> bytes:
    """Return the 64 bytes of a segment header."""
    data = _HEADER.pack(_Header(MAGIC, VERSION, *header))
    return sign_header(data)


def unpack_header(data: bytes, path: AnyPath, *, shard_id: bytes, segment: int) -> SegmentHeader:
    """Read the header of the segment file `path`.

    Raises
    ------
    FormatError
        Not a segment, or one of another shard or another id.
    VersionTooNewError
        Written by a newer skeg.
    CorruptError
        Too short, or the checksum does not hold.
    """
    check_header(data, path, "log segment", magic=MAGIC, version=VERSION)
    fields = _HEADER.unpack(data)
    header = SegmentHeader(*fields[2:])
    if header.shard_id != shard_id:
        raise FormatError(
            path, "segment of another shard or store", offset=16, expected=shard_id.hex(), found=header.shard_id.hex()
        )
    if header.segment != segment:
        raise FormatError(
            path, "segment under another name", offset=12, expected=f"id {segment}", found=f"id {header.segment}"
        )
    return header


def record_bytes(klen: int, vlen: int) -> int:
    """Bytes that a record takes with its padding."""
    return align_up(RECORD_BYTES + klen + vlen, ALIGNMENT)


def place_of(salt: int, segment: int) -> int:
    """What the places of all records of a segment have in common: XOR it with offset / 8."""
    return salt ^ (segment << 32)


def pack_record(place: int, offset: int, kind: int, seq: int, key: bytes, value: bytes, durable: int) -> bytes:
    """Return the bytes of one record with its padding.

    Parameters
    ----------
    place : int
        `place_of` the segment.
    offset : int
        Where in the segment the record will stand, a multiple of 8.
    kind, seq : int
        Its kind and sequence number.
    key, value : bytes
        Within the limits of this module.
    durable : int
        Offset up to which the segment is durable, or ``MEMBER * 8`` for a member of a batch.
    """
    body = HEAD.pack(durable >> 3, kind << 30 | len(value), seq << 16 | len(key)) + key + value
    return _SUM.pack(xxh3_64_intdigest(body) ^ place ^ (offset >> 3)) + body + _PADDING[len(body) & 7]


def pack_batch(place: int, offset: int, seq: int, members: bytes | bytearray, durable: int) -> bytes:
    """Return a batch for `offset` with its members, the first of which has the number `seq`."""
    body = HEAD.pack(durable >> 3, BATCH << 30 | len(members), seq << 16) + members
    return _SUM.pack(xxh3_64_intdigest(body) ^ place ^ (offset >> 3)) + body


def pack_lineage(place: int, segments: list[int]) -> bytes:
    """Return the first record of a segment made by compaction, which stands for `segments`."""
    value = struct.pack(f"<{len(segments)}I", *segments)
    return pack_record(place, HEADER_BYTES, LINEAGE, 0, b"", value, 0)


def unpack_lineage(value: bytes) -> tuple[int, ...]:
    """Ids in the value of a lineage."""
    return struct.unpack(f"<{len(value) // 4}I", value)


class RecordHead(NamedTuple):
    """The fixed fields of a record."""

    checksum: int
    durable: int
    kind: int
    vlen: int
    seq: int
    klen: int


def unpack_head(data: Bytes, start: int = 0) -> RecordHead:
    """Read the fixed fields at ``data[start:]``, where the caller knows 24 bytes to be; checks nothing."""
    total, durable, kind_vlen, seq_klen = _RECORD.unpack_from(data, start)
    return RecordHead(total, durable, kind_vlen >> 30, kind_vlen & VLEN_MASK, seq_klen >> 16, seq_klen & 0xFFFF)


def unpack_klen(data: bytes) -> int:
    """Length of the key of the record that ``data`` begins with; checks nothing."""
    return data[16] | data[17] << 8  # as in `unpack_head`, at a fifth of the cost


def read_record(data: memoryview, start: int, place: int, offset: int) -> RecordHead | None:
    """Read and check the record at ``data[start:]``, which stands at `offset` of its segment.

    Returns None unless all of it is there, matches its checksum and is padded with zeros. What it says is not judged.
    """
    if len(data) - start < RECORD_BYTES:
        return None
    head = unpack_head(data, start)
    end = start + RECORD_BYTES + head.klen + head.vlen
    if end > len(data) or xxh3_64_intdigest(data[start + 8 : end]) ^ place ^ (offset >> 3) != head.checksum:
        return None
    padding = data[end : end + (-end + start) % ALIGNMENT]
    return None if len(padding) < (start - end) % ALIGNMENT or any(padding) else head


def value_of(data: bytes, place: int, offset: int, key: bytes) -> bytes | None:
    """The value in the record `data`, if it is one of `key`; None if it is another key's.

    Parameters
    ----------
    data : bytes
        The whole record, its padding included.
    place, offset : int
        As for `pack_record`.
    key : bytes
        The key that is looked for.

    Raises
    ------
    ValueError
        The record does not match its checksum.
    """
    total, _, kind_vlen, seq_klen = _RECORD.unpack_from(data)
    klen = seq_klen & 0xFFFF
    end = RECORD_BYTES + klen + (kind_vlen & VLEN_MASK)
    body = data[8:end]
    if len(body) != end - 8 or xxh3_64_intdigest(body) ^ place ^ (offset >> 3) != total:
        raise ValueError
    return body[RECORD_BYTES - 8 + klen :] if body[RECORD_BYTES - 8 : RECORD_BYTES - 8 + klen] == key else None


def move_record(data: bytes, place: int, offset: int, new_place: int, new_offset: int) -> bytes | None:
    """The record `data`, with its padding, for another place; None if it does not check out where it was."""
    head = read_record(memoryview(data), 0, place, offset)
    if head is None:
        return None
    return _SUM.pack(head.checksum ^ place ^ (offset >> 3) ^ new_place ^ (new_offset >> 3)) + data[8:]


# Where a record is, in 64 bits: segment id (25) | offset / 8 (26) | bytes / 8 (13, all ones = larger: see its header).
SIZE_BITS = 13
OFFSET_BITS = 26
SEGMENT_SHIFT = SIZE_BITS + OFFSET_BITS
SEGMENT_MAX = (1 << (64 - SEGMENT_SHIFT)) - 1
SIZE_MASK = (1 << SIZE_BITS) - 1
# Records of at least this size have a location that does not tell it.
LARGE_BYTES = SIZE_MASK << 3
OFFSET_MASK = (1 << OFFSET_BITS) - 1


def pack_location(segment: int, offset: int, nbytes: int) -> int:
    """Return the location of a record of `nbytes` bytes at `offset` of a segment."""
    return segment << SEGMENT_SHIFT | (offset >> 3) << SIZE_BITS | min(nbytes >> 3, SIZE_MASK)


def pack_locations(segment: int, offsets: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.uint64]:
    """`pack_location` of many records of one segment; offsets and sizes in units of 8 bytes."""
    size = np.minimum(sizes, SIZE_MASK).astype(np.uint64)
    located: NDArray[np.uint64] = size | offsets.astype(np.uint64) << np.uint64(SIZE_BITS)
    return located | np.uint64(segment << SEGMENT_SHIFT)


def unpack_location(location: int) -> tuple[int, int, int]:
    """Return segment, offset and bytes of a location; 0 bytes when the record's header has to tell."""
    size = location & SIZE_MASK
    offset = (location >> SIZE_BITS & OFFSET_MASK) << 3
    return location >> SEGMENT_SHIFT, offset, 0 if size == SIZE_MASK else size << 3
