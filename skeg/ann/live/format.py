"""Byte layout of the log of an index: the specification of ``log-<number>.skl``. Bytes in, bytes out; no files here.

A log is a header of 64 bytes, then records, each starting at a multiple of 8 bytes; zeros may follow the last one, in
space that is reserved for more. All integers are little-endian.

Header
    ====== ==== =====================================================================
    offset size field
    ====== ==== =====================================================================
    0      8    magic: SKEGLIVE
    8      4    format version, 1
    12     4    dimension of the vectors
    16     16   id of the index (`skeg.ann.format.Manifest.uid`)
    32     8    number of this log, 1 or more
    40     8    sequence number of its first record
    48     8    zero
    56     8    XXH3-64 of bytes 0 to 55
    ====== ==== =====================================================================

Record
    ====== ==== =====================================================================
    offset size field
    ====== ==== =====================================================================
    0      8    XXH3-64 of bytes 8 to 31 and of the body, XOR the record's place
    8      4    bytes of the body
    12     4    type
    16     8    sequence number; one more than that of the record before
    24     8    offset up to which this log was known to be on stable storage
    32     ..   body, then zeros up to a multiple of 8
    ====== ==== =====================================================================

The *place* is ``first 8 bytes of the id XOR log number << 40 XOR offset``: bytes that were written for another place
or by another index never pass for a record.

Types and their bodies
    1  put: count (4), bytes of payloads (4), then count ids (8 each), count vectors (4 * dimension each, float32), and
       if there are payloads the length of each (4 each) and the payloads (`skeg.ann.filters.payload`). A row replaces
       any older one that has its id.
    2  delete: count (4), zero (4), then count ids (8 each).

A record that does not check out is torn, if nothing after it says that its bytes were durable: it was being written
when the process or the machine died, and was never acknowledged as durable. With such a witness it was damaged later.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

from skeg.binary import Bytes, Record, align_up
from skeg.errors import FormatError
from skeg.files import AnyPath
from skeg.headers import HEADER_BYTES as HEADER_BYTES  # noqa: PLC0414 - a name of this module too
from skeg.headers import check_header, sign_header

MAGIC = b"SKEGLIVE"
VERSION = 1
RECORD_BYTES = 32
ALIGNMENT = 8
BODY_BYTES_MAX = 1 << 31
"""More than 1,024 rows of the largest dimension with the largest payloads take."""

PUT = 1
DELETE = 2

_HEAD = struct.Struct("<IIQQ")
_SUM = struct.Struct("<Q")
_COUNTS = struct.Struct("<II")

Ids = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float32]


class LogHeader(NamedTuple):
    """What the first 64 bytes of a log say."""

    dim: int
    uid: bytes
    number: int
    first_seq: int


class _Header(NamedTuple):
    magic: bytes
    version: int
    dim: int
    uid: bytes
    number: int
    first_seq: int
    reserved: int


_HEADER: Record[_Header] = Record(_Header, "<8sII16sQQQ", HEADER_BYTES - 8)


def pack_header(header: LogHeader) -> bytes:
    """The 64 bytes of a header."""
    data = _HEADER.pack(_Header(MAGIC, VERSION, *header, 0))
    return sign_header(data)


def unpack_header(data: bytes, path: AnyPath, wanted: LogHeader) -> LogHeader:
    """Header of the log ``path``, which has to be of the index, dimension and number of ``wanted``.

    Raises
    ------
    FormatError
        Not a log, or one of another index or number.
    VersionTooNewError
        Written by a newer skeg.
    CorruptError
        Too short, or the checksum does not hold.
    """
    check_header(data, path, "log of an index", magic=MAGIC, version=VERSION)
    fields = _HEADER.unpack(data)
    header = LogHeader(fields.dim, fields.uid, fields.number, fields.first_seq)
    if header[:3] != wanted[:3]:
        raise FormatError(path, "log of another index", expected=f"{wanted[:3]}", found=f"{header[:3]}")
    return header


def place_of(uid: bytes, number: int) -> int:
    """What the places of all records of a log have in common: XOR it with the offset."""
    return int(_SUM.unpack_from(uid)[0]) ^ (number << 40)


class PutRecord(NamedTuple):
    """Rows to add: ids (n,) uint64, vectors (n, dim) float32, and the encoded payload of each."""

    ids: Ids
    vectors: Vectors
    payloads: Sequence[bytes]


class DeleteRecord(NamedTuple):
    """Ids (n,) uint64 to delete."""

    ids: Ids


def pack_put(ids: Ids, vectors: Vectors, payloads: Sequence[bytes]) -> list[Bytes]:
    """Parts of the body of a put; payloads is empty or has one for each row."""
    blob = b"".join(payloads)
    parts: list[Bytes] = [_COUNTS.pack(len(ids), len(blob)), _bytes_of(ids), _bytes_of(vectors)]
    if blob:
        parts += [_bytes_of(np.array([len(p) for p in payloads], np.uint32)), blob]
    return parts


def pack_delete(ids: Ids) -> list[Bytes]:
    """Parts of the body of a delete."""
    return [_COUNTS.pack(len(ids), 0), _bytes_of(ids)]


def _bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    # Anything of no elements has no bytes, though it may not be cast.
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def pack_record(type_: int, seq: int, body: Sequence[Bytes], place: int, offset: int, durable: int) -> bytes:
    """The bytes of one record, with its padding, for ``offset`` of the log that ``place`` is of."""
    nbytes = sum(map(len, body))
    head = _HEAD.pack(nbytes, type_, seq, durable)
    state = xxh3_64(head)
    for part in body:
        state.update(part)
    total = state.intdigest() ^ place ^ offset
    return b"".join([_SUM.pack(total), head, *body, bytes(-nbytes % ALIGNMENT)])


class RecordHead(NamedTuple):
    """A record that checked out; its body is ``data[start:stop]``, the next record starts at ``end``."""

    type: int
    seq: int
    durable: int
    start: int
    stop: int
    end: int


def read_record(data: memoryview, at: int, base: int, place: int) -> RecordHead | None:
    """The record at ``data[at:]``, where data starts at offset ``base`` of its log; None unless it checks out."""
    if len(data) - at < RECORD_BYTES:
        return None
    nbytes, type_, seq, durable = _HEAD.unpack_from(data, at + 8)
    start = at + RECORD_BYTES
    stop = start + nbytes
    end = at + align_up(RECORD_BYTES + nbytes, ALIGNMENT)
    if type_ not in (PUT, DELETE) or nbytes > BODY_BYTES_MAX or end > len(data) or durable > base + at:
        return None
    total = xxh3_64(data[at + 8 : stop]).intdigest() ^ place ^ (base + at)
    if total != _SUM.unpack_from(data, at)[0] or any(data[stop:end]):
        return None
    return RecordHead(type_, seq, durable, start, stop, end)


def find_witness(data: memoryview, base: int, place: int) -> int | None:
    """Offset of a record that says that more than ``base`` bytes were durable, where data starts; None if none does."""
    words = np.frombuffer(data[: len(data) & ~7], np.uint32)
    types = words[3::2]  # at each multiple of 8, what would be the type of a record there
    for at in (8 * np.flatnonzero((types == PUT) | (types == DELETE))).tolist():
        head = read_record(data, at, base, place) if at else None
        if head is not None and head.durable > base:
            return base + int(at)
    return None


def unpack_body(data: memoryview, head: RecordHead, dim: int) -> PutRecord | DeleteRecord | None:
    """What a record that checked out says, as copies; None if it can't be: it was not written by this module."""
    body = data[head.start : head.stop]
    if len(body) < _COUNTS.size:
        return None
    count, blob_bytes = _COUNTS.unpack_from(body)
    a_row = 8 if head.type == DELETE else 8 + 4 * dim + (4 if blob_bytes else 0)
    if len(body) != _COUNTS.size + a_row * count + blob_bytes or (head.type == DELETE and blob_bytes):
        return None
    at = _COUNTS.size
    ids = np.frombuffer(body[at : at + 8 * count], np.uint64).copy()
    at += 8 * count
    if head.type == DELETE:
        return DeleteRecord(ids)
    vectors = np.frombuffer(body[at : at + 4 * dim * count], np.float32).copy()
    at += 4 * dim * count
    lengths = np.frombuffer(body[at : at + 4 * count], np.uint32) if blob_bytes else np.zeros(0, np.uint32)
    at += lengths.nbytes
    if int(lengths.sum(dtype=np.uint64)) != blob_bytes:
        return None
    stops = np.cumsum(lengths, dtype=np.int64)
    blob = bytes(body[at:])
    payloads = [blob[stop - length : stop] for stop, length in zip(stops.tolist(), lengths.tolist(), strict=True)]
    return PutRecord(ids, vectors.reshape(count, dim), payloads)
