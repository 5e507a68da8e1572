"""Data of the original skeg, the program in Rust, read into a store.

A data folder has a folder ``shard-<i>`` for each shard, and that has segments, ``<id>.seg`` with the id in decimal. A
segment is records back to back, each starting at a multiple of 128 bytes. All integers are little-endian.

    ====== ==== ============================================================================
    offset size record
    ====== ==== ============================================================================
    0      4    CRC-32C of bytes 4 to 20 + klen + vlen
    4      8    timestamp: a counter of the shard
    12     4    klen
    16     4    vlen
    20     1    kind: 0 value, 1 tombstone, 5 batch
    21     klen key, then vlen bytes of value, then what is not looked at up to a multiple of 128
    ====== ==== ============================================================================

For each key the record of the highest timestamp counts, wherever it stands: compaction copies old records behind newer
ones. A batch has no key, and as its value the number (4 bytes) of the records after it that make it up.

The other files are not needed. ``index.snapshot`` says less than the segments, and may be older than they are; vector
indexes (``vindex-*``) are not read, but what the original keeps with vectors under keys is, as every other key.

What may be wrong, and what is done:

- The newest segment of a shard ends in a record that is not whole: a write that a crash has cut short. It is left out.
- A batch has fewer records than it says. At the end of the newest segment it is left out, as the original does. Where
  more follows, the original has gone on after the crash as if nothing was, and what it has written then can't be told
  from the rest of the batch: all is kept.
- Any other record does not check out: damage, and nothing is imported, since what it hides can't be known.
- A key is in two shards, because their number was changed: nothing is imported, since timestamps of two shards say
  nothing about which of them is newer.
"""

from __future__ import annotations

import re
import secrets
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from skeg.binary import align_up
from skeg.errors import CorruptError, FormatError
from skeg.files import AnyPath, disk_errors
from skeg.kv.format import KEY_BYTES_MAX, VALUE_BYTES_MAX
from skeg.kv.store import Store

VALUE, TOMBSTONE, BATCH = 0, 1, 5
ALIGNMENT = 128

# Bytes of segments from which it pays to load Numba.
KERNEL_BYTES = 4 << 20

_HEAD = struct.Struct("<IQIIB")
_MEMBERS = struct.Struct("<I")
_BATCH_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_SHARD = re.compile(r"shard-(0|[1-9][0-9]*)")
_SEGMENT = re.compile(r"([0-9]+)\.seg")
_SEGMENT_SHIFT = 32

# Of bytes, from where, to where.
Crc = Callable[[bytes, int, int], int]


@attrs.frozen
class Imported:
    """What was read.

    Parameters
    ----------
    pairs : int
        Keys set.
    unfinished : list of CorruptError
        Writes that a crash has cut short, each with its ``path`` and ``offset``; the message says what was done.
    """

    pairs: int
    unfinished: list[CorruptError]


def import_original(store: Store, source: AnyPath) -> Imported:
    """Set every key that a data folder of the original has a value for, in batches of about a MiB.

    Everything is checked before the first is set. That takes 33 bytes of memory for each record, replaced and deleted
    ones too, and about as much again for a moment; keys are told apart by a random 128-bit hash. Values are read when
    they are set. The original must not be running meanwhile.

    Parameters
    ----------
    store : Store
        Open for writing. What it holds under other keys stays.
    source : path
        The data folder, or the folder of one shard.

    Raises
    ------
    CorruptError
        Names the place of the damage, or of a key that two shards have, or the folder that lacks a shard. Nothing was
        set, unless a file has changed since it was checked.
    FormatError
        No such folder, a record of an unknown kind, or a key or value that is larger than a store takes. Nothing was
        set.
    StorageError
        The source can't be read, or the store can't be written.
    """
    segments = _segments(Path(source))
    crc = _crc_for(sum(segment.nbytes for segment in segments))
    rows = _Rows()
    unfinished = [note for number, segment in enumerate(segments) for note in _scan(segment, number, rows, crc)]
    places = _places(rows, segments)
    del rows
    for batch in _batches(segments, places, crc):
        store.set_many(batch)
    return Imported(len(places), unfinished)


def crc32c_plain(data: bytes, start: int, stop: int) -> int:
    """CRC-32C of ``data[start:stop]`` without Numba, about 100 times slower than `skeg.kv.kernels.crc32c`."""
    crc = 0xFFFFFFFF
    for byte in memoryview(data)[start:stop]:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class _Segment(NamedTuple):
    """A file; whether it is the newest of its shard."""

    path: Path
    shard: int
    newest: bool
    nbytes: int


class _Record(NamedTuple):
    """A record that checks out, with its padding."""

    kind: int
    timestamp: int
    klen: int
    vlen: int
    data: bytes

    @property
    def key(self) -> bytes:
        return self.data[_HEAD.size : _HEAD.size + self.klen]

    @property
    def value(self) -> bytes:
        start = _HEAD.size + self.klen
        return self.data[start : start + self.vlen]


class _Batch(NamedTuple):
    """A batch whose records are being read."""

    offset: int
    members: int
    first_row: int


class _Rows:
    """One row for each value and tombstone; places are segment number << 32 | offset / 128."""

    def __init__(self) -> None:
        self.names = bytearray()
        self.timestamps = array("Q")
        self.places = array("Q")
        self.live = bytearray()
        # By place, of what a store does not take; it is an error only if it counts.
        self.too_large: dict[int, FormatError] = {}
        self._seed = secrets.randbits(64)

    def __len__(self) -> int:
        return len(self.live)

    def add(self, record: _Record, place: int) -> None:
        self.names += xxh3_128_digest(record.key, self._seed)
        self.timestamps.append(record.timestamp)
        self.places.append(place)
        self.live.append(record.kind == VALUE)

    def cut(self, row: int) -> None:
        """Forget a row and all later ones."""
        del self.names[16 * row :], self.timestamps[row:], self.places[row:], self.live[row:]


def _segments(source: Path) -> list[_Segment]:
    """All segments of a data folder or of one shard, those of a shard in the order of their ids."""
    if source.is_file():
        raise FormatError(source, "not a folder")
    shards = {int(match[1]): source / name for name in _names(source) if (match := _SHARD.fullmatch(name))}
    missing = set(range(max(shards, default=0))) - shards.keys()
    if missing:
        raise CorruptError(
            source, "shards are missing", expected=f"shard-0 to shard-{max(shards)}", found=f"no shard-{min(missing)}"
        )
    if shards:
        return [segment for number in sorted(shards) for segment in _segments_of(shards[number], number)]
    segments = _segments_of(source, 0)
    if not segments:
        raise FormatError(
            source, "not data of the original", expected="folders shard-<number>, or files <id>.seg", found="none"
        )
    return segments


def _segments_of(folder: Path, shard: int) -> list[_Segment]:
    by_id = sorted((int(match[1]), name) for name in _names(folder) if (match := _SEGMENT.fullmatch(name)))
    paths = [folder / name for _, name in by_id]
    with disk_errors(folder, "read"):
        return [_Segment(path, shard, path == paths[-1], path.stat().st_size) for path in paths]


def _names(folder: Path) -> list[str]:
    with disk_errors(folder, "read"):
        return [path.name for path in folder.iterdir()]


def _read_record(file: BinaryIO, offset: int, nbytes: int, crc: Crc) -> _Record | None:
    """The record at an offset of a file of `nbytes` bytes; None if it is not whole or does not check out."""
    file.seek(offset)
    data = file.read(ALIGNMENT)
    if len(data) < ALIGNMENT:
        return None
    total, timestamp, klen, vlen, kind = _HEAD.unpack_from(data)
    end = _HEAD.size + klen + vlen
    rest = align_up(end, ALIGNMENT) - ALIGNMENT
    if offset + ALIGNMENT + rest > nbytes:
        return None
    if rest:
        data += file.read(rest)
    if len(data) < end or crc(data, 4, end) != total:
        return None
    return _Record(kind, timestamp, klen, vlen, data)


def _scan(segment: _Segment, number: int, rows: _Rows, crc: Crc) -> list[CorruptError]:
    """Add the rows of a segment; return what a crash has cut short."""
    unfinished = []
    batch = None
    offset = 0
    with disk_errors(segment.path, "read"), open(segment.path, "rb", _READ_BYTES) as file:
        while record := _read_record(file, offset, segment.nbytes, crc):
            if record.kind == BATCH:
                if batch:
                    unfinished.append(_cut_short(segment, batch, rows))
                batch = _batch(segment, record, offset, rows)
            else:
                _add(segment, record, offset, number, rows)
            if batch and len(rows) == batch.first_row + batch.members:
                batch = None
            offset += len(record.data)
        if offset < segment.nbytes:
            unfinished.append(_tail(segment, file, offset, crc))
    if batch:
        unfinished.append(_cut_short(segment, batch, rows, left_out=segment.newest))
        if segment.newest:
            rows.cut(batch.first_row)
    return unfinished


def _add(segment: _Segment, record: _Record, offset: int, number: int, rows: _Rows) -> None:
    if record.kind not in (VALUE, TOMBSTONE):
        raise FormatError(
            segment.path, "record of an unknown kind", offset=offset, expected="0, 1 or 5", found=str(record.kind)
        )
    place = number << _SEGMENT_SHIFT | offset // ALIGNMENT
    rows.add(record, place)
    for what, found, limit in (("key", record.klen, KEY_BYTES_MAX), ("value", record.vlen, VALUE_BYTES_MAX)):
        if found > limit:
            rows.too_large[place] = FormatError(
                segment.path,
                f"{what} too large for a store",
                offset=offset,
                expected=f"at most {limit} bytes",
                found=f"{found} bytes",
            )


def _batch(segment: _Segment, record: _Record, offset: int, rows: _Rows) -> _Batch:
    if (record.klen, record.vlen) != (0, _MEMBERS.size):
        raise CorruptError(
            segment.path,
            "batch contradicts itself",
            offset=offset,
            expected=f"a key of 0 and a value of {_MEMBERS.size} bytes",
            found=f"{record.klen} and {record.vlen} bytes",
        )
    return _Batch(offset, _MEMBERS.unpack(record.value)[0], len(rows))


def _cut_short(segment: _Segment, batch: _Batch, rows: _Rows, *, left_out: bool = False) -> CorruptError:
    outcome = "at the end of the log, left out" if left_out else "before other writes, kept"
    found = len(rows) - batch.first_row
    problem = f"batch cut short after {found} of {batch.members} records {outcome}"
    return CorruptError(segment.path, problem, offset=batch.offset)


def _tail(segment: _Segment, file: BinaryIO, offset: int, crc: Crc) -> CorruptError:
    """What to say of bytes that are no record: a write that was cut short. Raises what it is if it is damage."""
    if not segment.newest:
        raise CorruptError(segment.path, "damaged record, and newer segments follow", offset=offset)
    for later in range(offset + ALIGNMENT, segment.nbytes, ALIGNMENT):
        if _may_be_record(file, later) and _read_record(file, later, segment.nbytes, crc):
            raise CorruptError(segment.path, f"damaged record, and a whole one follows at {later}", offset=offset)
    return CorruptError(segment.path, "record cut short at the end of the log, left out", offset=offset)


def _may_be_record(file: BinaryIO, offset: int) -> bool:
    """Whether it is worth it to look closer: bytes of a large value seem to be heads of large records now and then."""
    file.seek(offset)
    data = file.read(_HEAD.size)
    if len(data) < _HEAD.size:
        return False
    _, _, klen, _, kind = _HEAD.unpack(data)
    return kind in (VALUE, TOMBSTONE, BATCH) and klen <= KEY_BYTES_MAX


def _places(rows: _Rows, segments: list[_Segment]) -> NDArray[np.uint64]:
    """Where the values that count are, in the order of the log."""
    first, second = np.frombuffer(rows.names, np.uint64).reshape(-1, 2).T
    timestamps = np.frombuffer(rows.timestamps, np.uint64)
    places = np.frombuffer(rows.places, np.uint64)
    shards = np.array([segment.shard for segment in segments], np.uint32)[places >> np.uint64(_SEGMENT_SHIFT)]
    # Equal timestamps are copies of each other, or else what was written after a batch was cut short: later is right.
    order = np.lexsort((places, timestamps, shards, second, first))
    same_key = (first[order[1:]] == first[order[:-1]]) & (second[order[1:]] == second[order[:-1]])
    newest = np.ones(len(order), bool)
    newest[:-1] = ~same_key | (shards[order[1:]] != shards[order[:-1]])
    order = order[newest]
    live = np.frombuffer(rows.live, bool)[order]
    # Of a key that is left twice, each time is another shard's.
    twice = (first[order[1:]] == first[order[:-1]]) & (second[order[1:]] == second[order[:-1]])
    conflicts = np.flatnonzero(twice & (live[1:] | live[:-1]))
    if len(conflicts):
        raise _in_two_shards(segments, *places[order[conflicts[0] : conflicts[0] + 2]].tolist())
    found = np.sort(places[order[live]])
    for place in np.intersect1d(found, np.array(list(rows.too_large), np.uint64)).tolist():
        raise rows.too_large[place]
    return found


def _in_two_shards(segments: list[_Segment], one: int, other: int) -> CorruptError:
    path, other_path = (segments[place >> _SEGMENT_SHIFT].path for place in (one, other))
    return CorruptError(
        path,
        "key of two shards, as when their number was changed",
        offset=_offset(one),
        expected="it in no other",
        found=f"it in {other_path}, offset {_offset(other)}",
    )


def _offset(place: int) -> int:
    return place % (1 << _SEGMENT_SHIFT) * ALIGNMENT


def _batches(segments: list[_Segment], places: NDArray[np.uint64], crc: Crc) -> Iterator[list[tuple[bytes, bytes]]]:
    """The pairs at `places`, in lists of about `_BATCH_BYTES` or of one pair."""
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    edges = np.searchsorted(places, np.arange(len(segments) + 1, dtype=np.uint64) << np.uint64(_SEGMENT_SHIFT))
    for segment, first, last in zip(segments, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if first == last:
            continue
        with disk_errors(segment.path, "read"), open(segment.path, "rb", _READ_BYTES) as file:
            for place in map(int, places[first:last]):
                offset = _offset(place)
                record = _read_record(file, offset, segment.nbytes, crc)
                if record is None:
                    raise CorruptError(segment.path, "record changed while it was being imported", offset=offset)
                if batch and size + len(record.data) > _BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
                batch.append((record.key, record.value))
                size += len(record.data)
    if batch:
        yield batch


def _crc_for(nbytes: int) -> Crc:
    """The form of CRC-32C for so many bytes."""
    if nbytes < KERNEL_BYTES and "skeg.kv.kernels.crc32c" not in sys.modules:
        return crc32c_plain
    from skeg.jit import JIT_DISABLED, resolve

    if JIT_DISABLED:
        return crc32c_plain
    from skeg.kv.kernels.crc32c import crc32c, slices

    tables = slices(np.array(_TABLE, np.uint32))
    compiled = resolve(crc32c, (np.frombuffer(b"\0", np.uint8), 0, 0, tables))
    return lambda data, start, stop: int(compiled(np.frombuffer(data, np.uint8), start, stop, tables))


def _make_table() -> list[int]:
    """What each byte becomes in the CRC, whose polynomial is 0x1EDC6F41, from the low bit up."""
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (crc & 1) * 0x82F63B78 for crc in table]
    return table


_TABLE = _make_table()
