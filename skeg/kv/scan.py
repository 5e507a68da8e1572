"""Walking the records of a segment: which entries it holds, how far it is whole, and what comes after that.

Two engines give the same results. The plain one reads a record in a microsecond or two; the kernel
(`skeg.kv.kernels.scan`) in well under a tenth of that, but loading Numba takes half a second, so it is used for large
segments only, or where Numba is loaded anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import attrs
import numpy as np

from skeg.kv import format as fmt
from skeg.kv.entries import COLUMNS, Entries, KeyHash, Row, Rows

# Bytes from which it pays to load Numba: the plain engine takes about as long for them as loading does.
KERNEL_BYTES = 32 << 20

# The plain engine works about half a millisecond on so many bytes of small records.
_PAUSE_BYTES = 24 << 10


@attrs.frozen(eq=False)
class Scan:
    """What a walk found.

    Parameters
    ----------
    entries : Entries
        All rows, in the order of the log.
    end : int
        Offset in the segment of the first byte that was not accepted.
    last_seq : int
        Highest sequence number accepted, or what the walk began with.
    overhead : int
        Bytes accepted that belong to no key: batches, lineage.
    """

    entries: Entries
    end: int
    last_seq: int
    overhead: int


@attrs.frozen
class Walk:
    """What has to be known of a segment in order to walk it.

    Parameters
    ----------
    place : int
        `skeg.kv.format.place_of` the segment.
    compacted : bool
        Made by compaction: begins with a lineage, and its sequence numbers are in no order.
    last_seq : int
        Sequence number that the first record has to exceed, unless `compacted`.
    """

    place: int
    compacted: bool
    last_seq: int


Pause = Callable[[], None]
"""Called between slices of work; sleeps for as long as the work should rest, or raises to end it."""


def _no_pause() -> None:
    """Whoever waits for a scan does not want it to rest."""


def engine_for(nbytes: int) -> Callable[..., Scan]:
    """The engine for about `nbytes` bytes of log.

    It takes the bytes of a segment from some offset to the end, that offset, a `Walk`, the store's `KeyHash`, and
    optionally what to call now and then.
    """
    if nbytes < KERNEL_BYTES and "skeg.kv.kernels.scan" not in sys.modules:
        return scan_plain
    from skeg.jit import JIT_DISABLED

    return scan_plain if JIT_DISABLED else scan_by_kernel


def scan_plain(data: bytes, base: int, walk: Walk, keys: KeyHash, pause: Pause = _no_pause) -> Scan:
    """Walk the records in `data`, which starts at offset `base` of the segment, without Numba.

    `pause` is called now and then: nobody else can run while this does.
    """
    view = memoryview(data)
    rows = Rows()
    start = rested = 0
    last_seq = walk.last_seq
    while start < len(view):
        head = fmt.read_record(view, start, walk.place, base + start)
        if head is None or not _fits(head, walk, last_seq, first=base + start == fmt.HEADER_BYTES):
            break
        nbytes = fmt.record_bytes(head.klen, head.vlen)
        if head.kind == fmt.BATCH:
            members = _members(view, start, base, walk, head)
            if members is None:
                break
        else:
            members = [(start, head)] if head.kind != fmt.LINEAGE else []
        for at, member in members:
            rows.add(_row(view, base, at, member, keys))
        last_seq = max(last_seq, members[-1][1].seq if members else 0)
        start += nbytes
        if start - rested > _PAUSE_BYTES:
            rested = start
            pause()
    entries = rows.entries()
    return Scan(entries, base + start, last_seq, start - entries.nbytes)


def scan_by_kernel(data: bytes, base: int, walk: Walk, keys: KeyHash, pause: Pause = _no_pause) -> Scan:
    """Walk the records in `data` as `scan_plain` does, with Numba; others run meanwhile, and `pause` is called once."""
    from skeg.kv.kernels.scan import scan_records
    from skeg.kv.kernels.xxh3 import secret_words

    pause()
    secrets = np.stack([secret_words(seed) for seed in (0, keys.seed, keys.check_seed)])
    rows = len(data) // fmt.RECORD_BYTES  # more than there can be; memory that is not written to costs nothing
    columns = tuple(np.empty(rows, kind) for kind in COLUMNS.values())
    place, last_seq, mask = map(np.uint64, (walk.place, walk.last_seq, keys.mask))
    found = scan_records(
        np.frombuffer(data, np.uint8), base, base, place, walk.compacted, last_seq, mask, secrets, columns
    )
    count, end, _, seq = map(int, found)
    entries = Entries(*(column[:count] for column in columns))
    return Scan(entries, end, max(seq, walk.last_seq), end - base - entries.nbytes)


def _fits(head: fmt.RecordHead, walk: Walk, last_seq: int, *, first: bool) -> bool:
    """Whether a record that matches its checksum may stand where it does, by its own fields."""
    if head.kind == fmt.LINEAGE:
        return walk.compacted and first and head.klen == 0 and head.vlen % 4 == 0
    if first and walk.compacted:
        return False
    if not walk.compacted and (head.seq <= last_seq or head.durable == fmt.MEMBER):
        return False
    if head.kind == fmt.BATCH:
        return not walk.compacted and head.klen == 0 and head.vlen > 0
    return _is_entry(head)


def _is_entry(head: fmt.RecordHead) -> bool:
    if head.kind == fmt.TOMBSTONE:
        return head.klen == fmt.TOMBSTONE_KEY.size and head.vlen == 0
    return head.kind == fmt.VALUE and head.vlen <= fmt.VALUE_BYTES_MAX


def _members(
    view: memoryview, start: int, base: int, walk: Walk, batch: fmt.RecordHead
) -> list[tuple[int, fmt.RecordHead]] | None:
    """Where the members of a batch start in `view`, and their heads; None if they are not what they should be."""
    members: list[tuple[int, fmt.RecordHead]] = []
    at = start + fmt.RECORD_BYTES
    end = at + batch.vlen
    seq = batch.seq - 1
    while at < end:
        head = fmt.read_record(view[:end], at, walk.place, base + at)
        if head is None or head.durable != fmt.MEMBER or head.seq <= seq or not _is_entry(head):
            return None
        if not members and head.seq != batch.seq:
            return None
        members.append((at, head))
        seq = head.seq
        at += fmt.record_bytes(head.klen, head.vlen)
    return members if at == end else None


def _row(view: memoryview, base: int, at: int, head: fmt.RecordHead, keys: KeyHash) -> Row:
    """hash, seq, check, offset and size of one record."""
    key = bytes(view[at + fmt.RECORD_BYTES : at + fmt.RECORD_BYTES + head.klen])
    if head.kind == fmt.TOMBSTONE:
        hashed, check = fmt.TOMBSTONE_KEY.unpack(key)
        return hashed, head.seq, check, (base + at) >> 3, 0
    size = fmt.record_bytes(head.klen, head.vlen) >> 3
    return keys.hash(key), head.seq, keys.check(key), (base + at) >> 3, size


def whole_records_after(data: bytes, base: int, start: int, walk: Walk) -> Iterator[tuple[int, fmt.RecordHead]]:
    """Records that check out on their own from ``data[start:]`` on: their offset in the segment, and their head.

    `data` starts at offset `base` of the segment. Records inside others are found too; a caller skips what it takes.
    """
    view = memoryview(data)
    words = len(view) // 8
    if words * 8 - start < fmt.RECORD_BYTES:
        return
    # Only a few of the places where 24 bytes could be the fixed fields of a record deserve to be hashed.
    table = np.frombuffer(view[: words * 8], "<u4").reshape(words, 2)
    first = -(-start // 8)
    kind_vlen = table[first + 1 : words - 1, 1]
    klen = table[first + 2 :, 0] & np.uint32(0xFFFF)
    room = (words - first - 2 - np.arange(len(klen))) * 8
    vlen = kind_vlen & np.uint32(fmt.VLEN_MASK)
    likely = (vlen.astype(np.int64) + klen + 8 <= room) & (kind_vlen >> np.uint32(30) != fmt.LINEAGE)
    for word in np.flatnonzero(likely).tolist():
        at = (first + word) * 8
        head = fmt.read_record(view, at, walk.place, base + at)
        if head is not None:
            yield base + at, head


def entries_of(data: bytes, base: int, records: list[tuple[int, fmt.RecordHead]], keys: KeyHash) -> Entries:
    """Rows of those records that set or delete a key; `records` as `whole_records_after` gives them."""
    view = memoryview(data)
    return Entries.of_rows([_row(view, base, at - base, head, keys) for at, head in records if _is_entry(head)])
