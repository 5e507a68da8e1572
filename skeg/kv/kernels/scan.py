"""Walk the records of a log segment, whose layout `skeg.kv.format` describes, and tell where each key's record is.

Nothing that is read is trusted: each record is verified before any of its fields leads anywhere but into its own bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.jit import kernel
from skeg.kv.kernels import BAD_CHECKSUM, BAD_FIELD, END_OF_DATA, FULL, STALE
from skeg.kv.kernels.intrinsics import read32, read64, wrapping
from skeg.kv.kernels.record import (
    BATCH,
    HEADER_BYTES,
    LINEAGE,
    MEMBER,
    RECORD_BYTES,
    TOMBSTONE,
    TOMBSTONE_KEY_BYTES,
    VALUE,
    VALUE_BYTES_MAX,
)
from skeg.kv.kernels.xxh3 import xxh3_64

ACCEPTED = -1

# What may stand at a place, as bits: the kinds, then whether its field *durable* may be, or not be, that of a member.
_NO_MEMBER = 4
_ENTRIES = 1 << VALUE | 1 << TOMBSTONE
_IN_BATCH = _ENTRIES | 2 << _NO_MEMBER
_IN_LOG = _ENTRIES | 1 << BATCH | 1 << _NO_MEMBER
_IN_COPY = _ENTRIES | 3 << _NO_MEMBER
_FIRST_IN_COPY = 1 << LINEAGE | 3 << _NO_MEMBER

_CHECKSUM, _HASH, _CHECK = range(3)
"""Rows of ``secrets``."""

_LOW16, _LOW30, _LOW32 = (np.uint64(2**bits - 1) for bits in (16, 30, 32))


class Head(NamedTuple):
    """Fields of a record; `bytes` counts its padding."""

    kind: Any
    klen: Any
    seq: Any
    bytes: Any


@kernel(inline=True)
def _in_range(kind: Any, klen: Any, vlen: Any) -> Any:
    if kind == VALUE:
        return vlen <= VALUE_BYTES_MAX
    if kind == TOMBSTONE:
        return klen == TOMBSTONE_KEY_BYTES and vlen == 0
    if kind == BATCH:
        return klen == 0 and vlen >= RECORD_BYTES and vlen % 8 == 0
    return klen == 0 and vlen % 4 == 0


@kernel(inline=True)
def _examine(data: Any, at: Any, end: Any, allowed: Any, place: Any, secret: Any) -> Any:
    """Whether such a record is at ``data[at]`` and ends by ``end``: a reason or `ACCEPTED`; its head."""
    if end - at < RECORD_BYTES:
        return END_OF_DATA, Head(0, 0, np.uint64(0), 0)
    durable_kind_vlen, seq_klen = read64(data, at + 8), read64(data, at + 16)
    kind = np.int64(durable_kind_vlen >> 62)
    vlen = np.int64((durable_kind_vlen >> 32) & _LOW30)
    klen = np.int64(seq_klen & _LOW16)
    body = RECORD_BYTES + klen + vlen
    head = Head(kind, klen, seq_klen >> 16, (body + 7) & -8)
    role = _NO_MEMBER + np.int64((durable_kind_vlen & _LOW32) == MEMBER)
    if (allowed >> kind) & (allowed >> role) & 1 == 0 or not _in_range(kind, klen, vlen):
        return BAD_FIELD, head
    if head.bytes > end - at:
        return END_OF_DATA, head
    if xxh3_64(data, at + 8, body - 8, secret) ^ place != read64(data, at):
        return BAD_CHECKSUM, head
    padding = head.bytes - body
    if padding > 0 and read64(data, at + head.bytes - 8) >> np.uint64(64 - 8 * padding) != 0:
        return BAD_CHECKSUM, head
    return ACCEPTED, head


@kernel(inline=True)
def _write_entry(data: Any, at: Any, offset: Any, head: Any, mask: Any, secrets: Any, columns: Any, i: Any) -> None:
    """Write entry i, if there is room for it."""
    hashes, seqs, checks, offsets, sizes = columns
    if i >= hashes.shape[0]:
        return
    key = at + RECORD_BYTES
    if head.kind == TOMBSTONE:
        hashes[i] = read64(data, key)
        checks[i] = np.uint32(read32(data, key + 8))
        sizes[i] = np.uint32(0)
    else:
        name = xxh3_64(data, key, head.klen, secrets[_HASH]) & mask
        hashes[i] = name if name != 0 else np.uint64(1)
        checks[i] = np.uint32(xxh3_64(data, key, head.klen, secrets[_CHECK]) & _LOW32)
        sizes[i] = np.uint32(head.bytes >> 3)
    seqs[i] = head.seq
    offsets[i] = np.uint32(offset >> 3)


@kernel()
def _scan_batch(
    data: Any, base: Any, at: Any, batch: Any, place: Any, mask: Any, secrets: Any, columns: Any, count: Any
) -> Any:
    """Members of the verified batch at ``data[at]``: a reason or `ACCEPTED`, the entries so far, the last number."""
    first, end = at + RECORD_BYTES, at + batch.bytes
    seq, at = batch.seq, first
    while at < end:
        here = place ^ np.uint64((base + at) >> 3)
        verdict, head = _examine(data, at, end, _IN_BATCH, here, secrets[_CHECKSUM])
        if verdict == END_OF_DATA or (verdict == ACCEPTED and at == first and head.seq != seq):
            verdict = BAD_FIELD
        elif verdict == ACCEPTED and at > first and head.seq <= seq:
            verdict = STALE
        if verdict != ACCEPTED:
            return verdict, count, seq
        _write_entry(data, at, base + at, head, mask, secrets, columns, count)
        count, at, seq = count + 1, at + head.bytes, head.seq
    return ACCEPTED, count, seq


@wrapping
@kernel()
def scan_records(
    data: Any, base: Any, start: Any, place: Any, compacted: Any, seq: Any, mask: Any, secrets: Any, columns: Any
) -> Any:
    """Accept records from an offset on, until one is not acceptable or has no room.

    Gives (entries written, offset of the first byte not accepted, reason why not, largest sequence number of an entry).
    The offset never lies inside a batch, which is accepted as a whole or not at all. To go on after `FULL`, call again
    with that offset and number; columns of ``n // 24`` entries are never full.

    data (n,) uint8: bytes of the segment from offset base on; base + n < 2^35. start: base to base + n. Offsets are
    multiples of 8. place uint64: `place_of` the segment. compacted: the segment has to begin with a lineage, which
    makes no entry, and holds no batches; its numbers are in no order, and a copied member may still say that it is one.
    seq uint64: the largest number so far. mask uint64: bits of hashes to be used. secrets (3, 61) uint64:
    `secret_words` of the seeds 0, of the hashes, and of the checks. columns: five arrays of one length, overwritten:
    hash uint64, sequence number uint64, check uint32, offset / 8 uint32 and bytes / 8 uint32 (0 for a tombstone) of
    each value and tombstone. What they hold past the entries written is undefined.

    The reason is the first of these that holds for the record at the offset:

    1. its head does not fit into what is left (`END_OF_DATA`);
    2. a field is out of range, or such a record can't be here (`BAD_FIELD`);
    3. the rest does not fit (`END_OF_DATA`);
    4. checksum or padding are wrong (`BAD_CHECKSUM`);
    5. its number is not larger than ``seq``, in a segment that is not compacted (`STALE`);
    6. one of these holds for a member of the batch, the first such one; but a member that does not fit, and a first
       member whose number is not the batch's, count as `BAD_FIELD`;
    7. its entries do not fit (`FULL`).

    *Requires* nothing of the bytes. Twin: ``test_kernels.scan_twin``.
    """
    count, at = 0, start - base
    while True:
        allowed = _IN_LOG
        if compacted:
            allowed = _IN_COPY if base + at > HEADER_BYTES else _FIRST_IN_COPY
        here = place ^ np.uint64((base + at) >> 3)
        verdict, head = _examine(data, at, data.shape[0], allowed, here, secrets[_CHECKSUM])
        if verdict == ACCEPTED and not compacted and head.seq <= seq:
            verdict = STALE
        written, last = count, seq
        if verdict == ACCEPTED and head.kind == BATCH:
            verdict, written, last = _scan_batch(data, base, at, head, place, mask, secrets, columns, count)
        elif verdict == ACCEPTED and head.kind != LINEAGE:
            _write_entry(data, at, base + at, head, mask, secrets, columns, count)
            written, last = count + 1, head.seq
        if verdict == ACCEPTED and written > columns[0].shape[0]:
            verdict = FULL
        if verdict != ACCEPTED:
            return count, base + at, verdict, seq
        count, at, seq = written, at + head.bytes, max(seq, last)
