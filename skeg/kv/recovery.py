"""Opening a shard: from the files in its folder to an index and the end of the log.

Each segment says what it holds through its hint or, where there is none, by being read. For each key the record of
the highest sequence number counts. Nothing depends on the order of files, so recovery can be interrupted and repeated.

What may be wrong, and what is done:

- The last records of the newest segment are not whole, and nothing shows that they ever were: a torn tail, as a power
  cut leaves it. It ends the log, and is cut off when the store is opened for writing.
- Any other record does not check out: damage. The store is not opened, unless to salvage what is whole.
- Segments that a compaction has replaced, and files that were not finished, are removed; a reader passes over them.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from skeg.errors import CorruptError, FormatError, StorageError, VersionTooNewError
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.entries import Entries, KeyHash, newest_rows
from skeg.kv.index import Index
from skeg.kv.scan import Walk, engine_for, entries_of, whole_records_after
from skeg.kv.segments import Folder, Segment

# Keys are resolved in groups of about so many rows, by the first bits of their hashes, so that what is being sorted
# stays in the CPU's cache.
_GROUP_ROWS = 1 << 16
_GROUP_BITS_MAX = 16
_THREADS = 2


@attrs.define
class Dropped:
    """Damage that salvage passed over."""

    path: str
    offset: int
    nbytes: int
    problem: str


@attrs.define(eq=False)
class Recovered:
    """What a folder holds."""

    index: Index
    large: dict[int, int]
    active: Segment | None
    next_segment: int
    next_seq: int
    dropped: list[Dropped]
    scanned_bytes: int


@attrs.define(eq=False)
class _Part:
    """What one segment holds: pieces of rows, each in the order of `Entries.grouped` at least."""

    segment: Segment
    pieces: list[Entries]
    last_seq: int


class Recovery:
    """Reads one folder. Use `run`.

    Parameters
    ----------
    folder : Folder
        Of the shard; filled with its segments.
    keys : KeyHash
        The store's hashes.
    writable : bool
        Put the folder in order: cut off a torn tail, remove what is not needed. Otherwise nothing is changed.
    salvage : bool
        Pass over damage.
    """

    def __init__(self, folder: Folder, keys: KeyHash, *, writable: bool, salvage: bool) -> None:
        self.folder = folder
        self.keys = keys
        self.writable = writable
        self.salvage = salvage
        self.dropped: list[Dropped] = []
        self.scanned_bytes = 0
        self._unfinished: list[Path] = []
        # Segments whose damage shows before their records are read.
        self._damaged: set[int] = set()
        self._hints: set[int] = set()

    def run(self) -> Recovered:
        """Read the folder.

        Raises
        ------
        CorruptError
            Damage; names file and offset.
        FormatError
            A file of another store, or of a newer version.
        StorageError
            The disk refused.
        """
        logs, hints, self._unfinished = self.folder.listing()
        self._hints = set(hints)
        headers = self._headers(logs)
        gone = self._replaced(headers)
        for number in sorted(self._hints - set(logs) - gone):
            self._damage(self.folder.log_path(number), 0, 0, "the segment is missing, though its hint is there")
        segments = [self.folder.add(header) for number, header in sorted(headers.items()) if number not in gone]
        written = [segment for segment in segments if not segment.compacted]
        active = written[-1] if written else None
        ends = {s.header.previous: s.header.previous_bytes for s in written}
        total = sum(self.folder.size(segment) for segment in segments if segment.id not in self._hints)
        parts = [self._read(segment, ends, total, active=segment is active) for segment in segments]
        index, large = self._resolve(parts)
        if not self.writable:
            self._check_unchanged(logs)
        else:
            leftovers = [*self._unfinished, *map(self.folder.hint_path, sorted(self._hints - set(headers)))]
            for number in sorted(gone & set(logs)):
                leftovers += [self.folder.log_path(number), self.folder.hint_path(number)]
            self._tidy(active, leftovers)
        seqs = [part.last_seq for part in parts]
        return Recovered(
            index=index,
            large=large,
            active=active if active is not None and not active.damaged else None,
            next_segment=max([*logs, *gone], default=0) + 1,
            next_seq=max(seqs, default=0) + 1,
            dropped=self.dropped,
            scanned_bytes=self.scanned_bytes,
        )

    def _check_unchanged(self, logs: list[int]) -> None:
        """Raise StorageError if a compaction has replaced files since the folder was listed, or while it was."""
        now = set(self.folder.listing()[0])
        added = [self.folder.read_header(number) for number in sorted(now - set(logs))]
        if set(logs) - now or any(header.flags & fmt.COMPACTED for header in added):
            raise StorageError(self.folder.path, "changed while it was read")

    def _headers(self, logs: list[int]) -> dict[int, fmt.SegmentHeader]:
        headers: dict[int, fmt.SegmentHeader] = {}
        unreadable: dict[int, CorruptError | FormatError] = {}
        for number in logs:
            try:
                headers[number] = self.folder.read_header(number)
            except VersionTooNewError:
                raise
            except (CorruptError, FormatError) as error:
                unreadable[number] = error
        newest = max((n for n, header in headers.items() if not header.flags & fmt.COMPACTED), default=0)
        for number, reason in unreadable.items():
            path = self.folder.log_path(number)
            with disk_errors(path, "look at"):
                size = self.folder.files.open(path).size()
            if size <= fmt.HEADER_BYTES and number > newest and number not in self._hints:
                # The making of this file was never finished: records, and other files, are only made after that.
                self._unfinished.append(path)
                continue
            self._damage(path, reason.offset or 0, fmt.HEADER_BYTES, reason.problem, reason)
            self._damaged.add(number)
            # Its records prove themselves. All else that the header said is in its name and in the manifest.
            flags = 0 if self._lineage(number) is None else fmt.COMPACTED
            headers[number] = fmt.SegmentHeader(number, self.folder.shard_id, 1, 0, flags, 0)
        return headers

    def _replaced(self, headers: dict[int, fmt.SegmentHeader]) -> set[int]:
        """Ids that compacted segments stand for, whether they are still there or not."""
        gone: set[int] = set()
        for number, header in headers.items():
            if header.flags & fmt.COMPACTED:
                lineage = self._lineage(number)
                if lineage is None:
                    if not self.salvage:  # else it is reported when its records are read
                        path = self.folder.log_path(number)
                        raise CorruptError(path, "lineage of a compacted segment is damaged", offset=fmt.HEADER_BYTES)
                    self._damaged.add(number)
                gone |= lineage or set()
        return gone

    def _lineage(self, number: int) -> set[int] | None:
        """Ids that a segment says it stands for; None if it does not say."""
        path = self.folder.log_path(number)
        place = fmt.place_of(self.folder.salt, number)
        with disk_errors(path, "read"):
            file = self.folder.files.open(path)
            data = file.pread(fmt.RECORD_BYTES, fmt.HEADER_BYTES)
            vlen = fmt.unpack_head(data).vlen if len(data) == fmt.RECORD_BYTES else 0
            data += file.pread(fmt.record_bytes(0, vlen) - fmt.RECORD_BYTES, fmt.HEADER_BYTES + fmt.RECORD_BYTES)
        head = fmt.read_record(memoryview(data), 0, place, fmt.HEADER_BYTES)
        if head is None or head.kind != fmt.LINEAGE:
            return None
        return set(fmt.unpack_lineage(data[fmt.RECORD_BYTES : fmt.RECORD_BYTES + vlen]))

    def _read(self, segment: Segment, ends: dict[int, int], total: int, *, active: bool) -> _Part:
        """Rows of one segment, from its hint as far as that goes, else from its records."""
        segment.damaged = segment.id in self._damaged
        size = self.folder.size(segment)
        hint = self.folder.read_hint(segment)
        # How far the records go, as far as that is written down elsewhere.
        known = segment.header.previous_bytes if segment.compacted else ends.get(segment.id, 0)
        limit = known or size
        expected = max(limit, hint.end if hint else 0)
        if size < expected:
            segment.damaged = True
            self._damage(segment.path, size, expected - size, "the file is cut short")
            limit, hint = size, None
        start, last_seq = fmt.HEADER_BYTES, segment.header.first_seq - 1
        pieces = []
        if hint is None and segment.id in self._hints:
            self._unfinished.append(self.folder.hint_path(segment.id))  # not synced when the power went
        if hint is not None and not self.salvage:  # which trusts nothing but the records themselves
            pieces = [hint.entries]
            start, last_seq = hint.end, hint.last_seq
            segment.hinted, segment.overhead = hint.end, hint.overhead
        segment.end = start
        if start < limit:
            data = self.folder.read(segment, start, limit - start)
            walk = Walk(segment.place, segment.compacted, last_seq)
            scan = engine_for(total)(data, start, walk, self.keys)
            self.scanned_bytes += scan.end - start
            pieces.append(scan.entries.grouped())
            segment.end, last_seq = scan.end, scan.last_seq
            segment.overhead += scan.overhead
            rest = data[scan.end - start :]
            if rest.count(0) != len(rest) or (known and rest):
                pieces += self._leftover(segment, rest, walk, last_seq, active=active)
        segment.reserved = size
        segment.tombstones = sum(piece.tombstone_bytes for piece in pieces)
        return _Part(segment, pieces, max([last_seq, *(int(p.seq.max()) for p in pieces if len(p))]))

    def _leftover(self, segment: Segment, rest: bytes, walk: Walk, last_seq: int, *, active: bool) -> list[Entries]:
        """What to make of bytes behind the last whole record: a torn tail, or damage."""
        end = segment.end
        later = list(whole_records_after(rest, end, 0, walk))
        if active and not any(_is_witness(head, end, last_seq) for _, head in later):
            segment.torn = True
            return []
        salvaged = entries_of(rest, end, later, self.keys)
        lost = len(rest) - 8 * int(salvaged.size.sum())
        self._damage(segment.path, end, lost, "record does not match its checksum")
        segment.damaged = True
        segment.end = end + len(rest)
        return [salvaged.grouped()]

    def _damage(
        self, path: Path, offset: int, nbytes: int, problem: str, error: CorruptError | FormatError | None = None
    ) -> None:
        if not self.salvage:
            raise error or CorruptError(path, problem, offset=offset)
        self.dropped.append(Dropped(str(path), offset, nbytes, problem))

    def _tidy(self, active: Segment | None, leftovers: list[Path]) -> None:
        """Make the folder durable as it was found, then remove what is not needed.

        A process that was killed may have left names and bytes that no power cut would have spared. From now on
        others will rely on them.
        """
        clean = not leftovers
        if active is not None and not active.damaged:
            clean = clean and active.hinted == active.end
            active.committed = active.end
            active.file = None  # opened for reading only
            if active.torn or not clean:
                with disk_errors(active.path, "cut off what is not whole"):
                    file = self.folder.open(active)
                    if active.torn:
                        file.truncate(active.end)
                        active.reserved = active.end
                    file.sync()
            active.durable = active.end
        if not clean:
            self.folder.sync()
        if leftovers:
            with disk_errors(self.folder.path, "remove what is not needed"):
                self.folder.remove(leftovers)
            self.folder.sync()

    def _resolve(self, parts: list[_Part]) -> tuple[Index, dict[int, int]]:
        """The newest record of every key, and the sizes of those whose location does not tell it."""
        columns = [(p.hash, p.check, p.seq, p.locations(part.segment.id)) for part in parts for p in part.pieces]
        large: dict[int, int] = {}
        for part in parts:
            for piece in part.pieces:
                rows = piece[piece.size >= fmt.SIZE_MASK]
                large |= zip(rows.locations(part.segment.id).tolist(), (rows.size * 8).tolist(), strict=True)
        groups = _newest(columns)
        index = Index()
        index.load(groups)
        live = _bytes_by_segment(groups, large, [part.segment.id for part in parts])
        for part in parts:
            segment = part.segment
            segment.dead = segment.live - live.get(segment.id, 0)
        return index, large


def _is_witness(head: fmt.RecordHead, end: int, last_seq: int) -> bool:
    """Whether a later record says that the bytes at `end` were durable once."""
    return head.durable != fmt.MEMBER and head.durable * 8 > end and head.seq > last_seq


_Columns = tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]


_Group = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def _newest(columns: list[_Columns]) -> list[_Group]:
    """Hashes and locations of the newest rows that are no tombstones, as `Index.load` takes them."""
    total = sum(len(piece[0]) for piece in columns)
    bits = min((total // _GROUP_ROWS).bit_length(), _GROUP_BITS_MAX)
    edges = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits) if bits else np.empty(0, np.uint64)
    cuts = [[0, *np.searchsorted(piece[0], edges).tolist(), len(piece[0])] for piece in columns]

    def resolve(group: int) -> _Group:
        parts = [
            [column[cut[group] : cut[group + 1]] for column in piece] for piece, cut in zip(columns, cuts, strict=True)
        ]
        hash_, check, seq, location = (np.concatenate(column) for column in zip(*parts, strict=True))
        newest = newest_rows(hash_, check, seq)
        newest = newest[location[newest] != 0]
        return hash_[newest], location[newest]

    if not columns:
        return []
    # NumPy lets go of the interpreter while it sorts; for small stores a thread costs more than it saves.
    with ThreadPoolExecutor(_THREADS) if bits > _THREADS else contextlib.nullcontext() as pool:
        return list((pool.map if pool else map)(resolve, range(1 << bits)))


def _bytes_by_segment(groups: list[_Group], large: dict[int, int], segments: list[int]) -> dict[int, int]:
    """Bytes of the records at the locations of `groups`, by segment."""
    first, last = min(segments, default=0), max(segments, default=0)
    sums = np.zeros(last - first + 1)
    for _, locations in groups:
        sizes = (locations & np.uint64(fmt.SIZE_MASK)).astype(np.int64) << 3
        for row in np.flatnonzero(sizes == fmt.LARGE_BYTES).tolist():
            sizes[row] = large[int(locations[row])]
        which = (locations >> np.uint64(fmt.SEGMENT_SHIFT)).astype(np.int64) - first
        sums += np.bincount(which, sizes, len(sums))
    return {number: int(sums[number - first]) for number in segments}
