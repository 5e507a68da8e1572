"""Giving back the space of records that no longer count, while the shard goes on working.

One run replaces some closed segments, its *sources*, by one *output*, or by nothing:

1. Collect the records of the sources that count, from the index, table by table.
2. Wait until whatever superseded the others is on stable storage.
3. Copy those records to a new file, in order, each checked on the way, with the tombstones that are still needed; sync
   it; write its hint; give it its name. From here on the output stands for its sources, as its lineage says, so a crash
   leaves one or the other whatever files are found.
4. Let the index point to the copies, table by table. A key that was written meanwhile is left alone.
5. Remove the sources, hints first, when no snapshot reads them any more.

A tombstone is needed as long as another segment holds an older value of its key.

The lock is held for a table or a few records at a time; bytes are read, checked and written without it, a slice at a
time, with a pause after each (`Pace`). Copies keep their sequence numbers.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skeg.errors import CorruptError, StorageError
from skeg.fileops import write_all
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.entries import Entries, Rows
from skeg.kv.hints import Hint
from skeg.kv.index import HASH_END
from skeg.kv.log import PASSING
from skeg.kv.retirement import purge
from skeg.kv.rounds import Round
from skeg.kv.scan import Pause, Scan, Walk, engine_for, entries_of, whole_records_after
from skeg.kv.segments import CLOSED, SYNC_BYTES, Segment
from skeg.kv.shard import Shard

# Bytes read, checked and written at a time.
_SLICE_BYTES = 32 << 10

# Records handled in one call that lets no other thread run, or with the lock held.
_AT_A_TIME = 2048

# Segments with less than this part of live bytes are compacted in the background: at most twice the space is used.
LIVE_PART_MAX = 0.5

U64 = NDArray[np.uint64]


def choose(shard: Shard, limit: int) -> list[Segment]:
    """Closed segments worth compacting together in the background, best first; call with the lock.

    Segments compete by the space they give back for each byte to be copied, times their age: what has not changed for
    long will not become emptier by waiting (Rosenblum and Ousterhout, SOSP '91, section 3.5).
    """
    newest = shard.log.next_segment
    worth = []
    for segment in closed(shard):
        size = segment.end - fmt.HEADER_BYTES
        if segment.dead and not segment.damaged and (segment.live + segment.tombstones) / size < LIVE_PART_MAX:
            worth.append((segment.dead * (newest - segment.id) / (size + segment.live), segment))
    chosen: list[Segment] = []
    kept = 0
    for _, segment in sorted(worth, key=lambda item: (-item[0], item[1].id)):
        kept += segment.live + segment.tombstones
        if chosen and kept > limit:
            break
        chosen.append(segment)
    return chosen


def closed(shard: Shard) -> list[Segment]:
    """Segments whose records are all committed and that can be compacted; call with the lock."""
    going = shard.retired | shard.spent
    present = {segment.id for segment in (*shard.folder, *shard.retired)}
    # An output may not be replaced, and its lineage forgotten, before its own sources are gone from the disk.
    return [
        segment
        for segment in shard.folder
        if segment.committed == CLOSED and segment not in going and not segment.sources & present
    ]


def read_entries(shard: Shard, segment: Segment, end: int, pause: Pause) -> Entries:
    """The newest row of each key in a segment up to `end`, ordered by hash, from its hint or else from its records.

    Raises
    ------
    CorruptError
        A record of the segment does not check out, and it is not known to be damaged.
    """
    if segment.damaged:
        data = shard.read(segment, fmt.HEADER_BYTES, end - fmt.HEADER_BYTES)
        walk = Walk(segment.place, segment.compacted, 0)
        return entries_of(
            data, fmt.HEADER_BYTES, list(whole_records_after(data, fmt.HEADER_BYTES, 0, walk)), shard.keys
        ).newest()
    hint = shard.folder.read_hint(segment)
    if hint is not None and hint.end == end:
        return hint.entries
    return scan_segment(shard, segment, end, pause).entries.newest()


def scan_segment(shard: Shard, segment: Segment, end: int, pause: Pause) -> Scan:
    """All rows of a segment up to `end`.

    Raises
    ------
    CorruptError
        A record does not check out.
    """
    first, last_seq = fmt.HEADER_BYTES, segment.header.first_seq - 1
    data = shard.read(segment, first, end - first)
    scan = engine_for(len(data))(data, first, Walk(segment.place, segment.compacted, last_seq), shard.keys, pause)
    if scan.end != end:
        segment.damaged = True  # not to be read again and again
        raise CorruptError(segment.path, "record does not match its checksum", offset=scan.end)
    return scan


def write_hints(shard: Shard, pause: Pause, *, active: bool = False) -> None:
    """Write the hints that closed segments lack, and on request that of the segment that is written to.

    Raises
    ------
    StorageError
        The disk refused, or a segment is damaged.
    """
    with shard.lock:
        wanted = [(s, s.end) for s in closed(shard)]
        if active and shard.log.segment is not None:
            wanted.append((shard.log.segment, shard.log.segment.end))
    for segment, end in wanted:
        if segment.hinted != end and end > fmt.HEADER_BYTES and not segment.damaged:
            scan = scan_segment(shard, segment, end, pause)
            # A hint without its segment is damage, so what may go as a whole has none.
            if len(scan.entries):
                hint = Hint(segment.id, end, scan.last_seq, scan.overhead, scan.entries.newest())
                shard.folder.write_hint(hint, pause)
            segment.hinted = end
            pause()


def compact_shard(shard: Shard, limit: int) -> int:
    """Give back all that can be given back, in runs of about `limit` bytes; return how many bytes."""
    with shard.compacting:
        purge(shard)
        with shard.lock:
            shard.check_writable()  # refuse at once what can't be done
        shard.log.sync()
        with shard.lock:
            segment = shard.log.segment
            ends = segment is not None and (segment.dead or segment.tombstones)
        if ends:
            shard.log.close_segment()
        reclaimed = 0
        wasted = None
        while wasted is None or 0 < _wasted(shard) < wasted:
            wasted = _wasted(shard)
            for sources in _groups(shard, limit):
                reclaimed += Compaction(shard, sources, rest).run()
        write_hints(shard, rest)
        purge(shard)
        return max(0, reclaimed)


def _wasted(shard: Shard) -> int:
    with shard.lock:
        return sum(segment.dead + segment.tombstones for segment in closed(shard))


def _groups(shard: Shard, limit: int) -> list[list[Segment]]:
    """Segments with something to give back, in groups that make an output of about `limit` bytes."""
    groups: list[list[Segment]] = []
    kept = 0
    with shard.lock:
        for segment in sorted(closed(shard), key=lambda segment: segment.id):
            if segment.dead or segment.tombstones or segment.damaged:
                size = segment.live + segment.tombstones
                if not groups or kept + size > limit:
                    groups.append([])
                    kept = 0
                groups[-1].append(segment)
                kept += size
    return groups


def rest() -> None:
    """What to call between slices of work that somebody waits for: lets other threads have the interpreter."""
    time.sleep(0)


class Compaction:
    """One run. Use `run`.

    Parameters
    ----------
    shard : Shard
        Where to work; nobody else may compact it at the same time.
    sources : list of Segment
        Closed segments to replace.
    pause : callable
        Called after each slice of work.
    """

    def __init__(self, shard: Shard, sources: list[Segment], pause: Pause) -> None:
        self.shard = shard
        self.sources = sorted(sources, key=lambda segment: segment.id)
        self.pause = pause
        with shard.lock:
            number = shard.log.take_number()
        self.number = number
        self.path = shard.folder.log_path(number)
        self.place = fmt.place_of(shard.folder.salt, number)

    def run(self) -> int:
        """Do it; return how many bytes fewer the log takes.

        Raises
        ------
        CorruptError
            A record that counts does not check out; the sources stay.
        StorageError
            The disk refused; the sources stay, unless the output has its name already.
        """
        log = self.shard.log
        while True:
            # A round that failed meanwhile has brought back records that did not count when they were collected.
            failures = log.failures
            hashes, old = self._collect()
            log.sync()
            if log.failures == failures:
                break
        output = _Output(self.shard, self.path, self.number, [segment.id for segment in self.sources])
        try:
            new = self._copy(output, old)
            self._copy_tombstones(output)
            entries = output.finish()
        finally:
            output.discard()
        segment = self._publish(output)
        self._switch(hashes, old, new)
        before = sum(source.end for source in self.sources)
        with self.shard.lock:
            self.shard.retired |= set(self.sources)
            if not len(entries):
                self.shard.spent.add(segment)
        if len(entries):
            hint = Hint(self.number, segment.end, output.last_seq, output.overhead, entries)
            self.shard.folder.write_hint(hint, self.pause)
            segment.hinted = segment.end
        purge(self.shard)
        return before - (segment.end if len(entries) else 0)

    def _collect(self) -> tuple[U64, U64]:
        """Hashes and locations of the records of the sources that count, in the order of the log."""
        hashes, locations = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        start = 0
        while start != HASH_END:
            following = start
            with self.shard.lock:
                for source in self.sources:
                    hash_, location, following = self.shard.index.in_segment(start, source.id)
                    hashes.append(hash_)
                    locations.append(location)
            start = following
            self.pause()
        joined = np.concatenate(locations)
        order = np.argsort(joined)
        return np.concatenate(hashes)[order], joined[order]

    def _copy(self, output: _Output, locations: U64) -> U64:
        """Copy the records at `locations`; their new locations."""
        parts = [np.empty(0, np.uint64)]
        for start in range(0, len(locations), _AT_A_TIME):
            new = self._copy_some(output, locations[start : start + _AT_A_TIME].tolist())
            parts.append(np.array(new, np.uint64))
        return np.concatenate(parts)

    def _copy_some(self, output: _Output, locations: list[int]) -> list[int]:
        new = []
        window, base, segment = b"", 0, self.sources[0]
        for location in locations:
            number, offset, nbytes = fmt.unpack_location(location)
            nbytes = nbytes or self.shard.records.large[location]
            if number != segment.id or offset + nbytes > base + len(window):
                if output.ready():
                    output.flush()
                    self.pause()
                segment = self.shard.folder[number]
                base = offset
                window = self.shard.read(segment, offset, max(_SLICE_BYTES, nbytes))
            start = offset - base
            new.append(output.copy(window[start : start + nbytes], segment, offset))
        return new

    def _copy_tombstones(self, output: _Output) -> None:
        """Copy the tombstones of keys of which another segment holds an older value."""
        found = []
        for source in self.sources:
            if source.tombstones:
                entries = read_entries(self.shard, source, source.end, self.pause)
                found.append(entries[entries.size == 0])
        rows = Entries.join(found).newest()
        if not len(rows):
            return
        needed = np.zeros(len(rows), bool)
        with self.shard.lock:
            replaced = self.shard.retired | self.shard.spent | set(self.sources)
            # The one that is written to as well: after a reopening it may be older than others.
            others = [(s, min(s.committed, s.end)) for s in self.shard.folder if s not in replaced]
        for other, end in others:
            if other.damaged:
                needed[:] = True  # who knows what it holds
            elif other.header.first_seq <= int(rows.seq.max()) and end > fmt.HEADER_BYTES:
                needed |= _has_older_values(read_entries(self.shard, other, end, self.pause), rows)
                self.pause()
        for row in np.flatnonzero(needed).tolist():
            output.add_tombstone(int(rows.seq[row]), int(rows.hash[row]), int(rows.check[row]))

    def _publish(self, output: _Output) -> Segment:
        """Give the output its name. If that fails nobody knows which files will be found: writing ends."""
        shard = self.shard
        try:
            output.rename()
            shard.folder.sync()
            with shard.lock:
                segment = shard.folder.add(output.header())
                segment.end = segment.reserved = output.end
                segment.tombstones = output.tombstones
                segment.overhead = output.overhead
                segment.sources = frozenset(source.id for source in self.sources)
        except DiskFullError:  # the name was not given: nothing has changed
            raise
        except BaseException as error:  # Ctrl-C too
            with shard.lock:
                shard.log.interrupted = not isinstance(error, Exception)
                shard.log.stopped = StorageError(self.path, f"publishing a compacted segment failed ({error!r})")
            raise
        return segment

    def _switch(self, hashes: U64, old: U64, new: U64) -> None:
        """Let the index point to the copies."""
        shard = self.shard
        for row in np.flatnonzero((old & np.uint64(fmt.SIZE_MASK)) == fmt.SIZE_MASK).tolist():
            shard.records.large[int(new[row])] = shard.records.large[int(old[row])]
        sources = {source.id for source in self.sources}
        seen: dict[Round, int] = {}
        order = np.argsort(hashes)
        done = 0
        try:
            while done < len(order):
                rows = order[done : done + _AT_A_TIME]
                with shard.lock:
                    moved = shard.index.move(hashes[rows], old[rows], new[rows])
                    shard.log.relocate(sources, old, new, seen)
                    done += len(rows)
                    shard.records.count_dead_many(new[rows[~moved]])
                self.pause()
        finally:
            with shard.lock:
                shard.records.count_dead_many(new[order[done:]])  # interrupted: the sources are still in use


class DiskFullError(StorageError):
    """There was no room; nothing has changed."""


class _Output:
    """The file that a run writes, under a temporary name."""

    def __init__(self, shard: Shard, path: Path, number: int, sources: list[int]) -> None:
        self.shard = shard
        self.path = path
        self.number = number
        self.temporary = path.with_name(path.name + ".tmp")
        self.place = fmt.place_of(shard.folder.salt, number)
        lineage = fmt.pack_lineage(self.place, sources)
        self.tombstones = 0
        self.overhead = len(lineage)
        self.last_seq = 0
        self._first_seq = 0
        self._rows = Rows()
        self._pending = [lineage]
        self._written = fmt.HEADER_BYTES
        self._synced = 0
        self.end = fmt.HEADER_BYTES + len(lineage)
        with disk_errors(path, "write"):
            shard.folder.remove([self.temporary])
            self._file = shard.folder.files.open(self.temporary, create=True)
        self._finished = False

    def copy(self, data: bytes, source: Segment, offset: int) -> int:
        """Add a record that stood elsewhere; its new location."""
        record = fmt.move_record(data, source.place, offset, self.place, self.end)
        if record is None:
            source.damaged = True
            raise CorruptError(source.path, "record does not match its checksum", offset=offset)
        head = fmt.unpack_head(data)
        key = data[fmt.RECORD_BYTES : fmt.RECORD_BYTES + head.klen]
        keys = self.shard.keys
        location = fmt.pack_location(self.number, self.end, len(record))
        self._add(record, head.seq, keys.hash(key), keys.check(key), len(record) >> 3)
        return location

    def add_tombstone(self, seq: int, hashed: int, check: int) -> None:
        """Add a tombstone."""
        key = fmt.TOMBSTONE_KEY.pack(hashed, check)
        record = fmt.pack_record(self.place, self.end, fmt.TOMBSTONE, seq, key, b"", 0)
        self._add(record, seq, hashed, check, 0)
        self.tombstones += len(record)

    def _add(self, record: bytes, seq: int, hashed: int, check: int, size: int) -> None:
        self._rows.add((hashed, seq, check, self.end >> 3, size))
        self._pending.append(record)
        self.end += len(record)
        self.last_seq = max(self.last_seq, seq)
        self._first_seq = min(self._first_seq or seq, seq)

    def ready(self) -> bool:
        """Whether a slice is waiting to be written."""
        return self.end - self._written >= _SLICE_BYTES

    def flush(self) -> None:
        """Write what was added."""
        with disk_errors(self.path, "write"):
            write_all(self._file, b"".join(self._pending), self._written)
            self._pending = []
            self._written = self.end
            if self.end - self._synced >= SYNC_BYTES:
                self._file.sync()
                self._synced = self.end

    def finish(self) -> Entries:
        """Write the rest, durably; the newest rows of the file."""
        self.flush()
        with disk_errors(self.path, "write"):
            write_all(self._file, fmt.pack_header(self.header()), 0)
            self._file.sync()
        self._finished = True
        return self._rows.entries().newest()

    def rename(self) -> None:
        """Give the finished file its name.

        Raises
        ------
        DiskFullError
            There was no room for the name. The file is removed.
        StorageError
            Anything else: whether it has its name is not known.
        """
        try:
            self.shard.folder.files.rename(self.temporary, self.path)
        except OSError as error:
            if error.errno in PASSING:
                self._finished = False
                self.discard()
                raise DiskFullError(self.path, f"can't publish: {error.strerror or error}") from error
            raise StorageError(self.path, f"can't publish: {error.strerror or error}") from error

    def header(self) -> fmt.SegmentHeader:
        """Header of the file."""
        return fmt.SegmentHeader(
            self.number, self.shard.folder.shard_id, self._first_seq or 1, 0, fmt.COMPACTED, self.end
        )

    def discard(self) -> None:
        """Remove the file unless it is finished."""
        with disk_errors(self.path, "write"):
            self._file.close()
            if not self._finished:
                self.shard.folder.remove([self.temporary])


def _has_older_values(entries: Entries, tombstones: Entries) -> NDArray[np.bool_]:
    """For each tombstone whether `entries`, ordered by hash, hold a value of its key with a lower number."""
    first = np.searchsorted(entries.hash, tombstones.hash, "left")
    last = np.searchsorted(entries.hash, tombstones.hash, "right")
    older = np.zeros(len(tombstones), bool)
    for row in np.flatnonzero(last > first).tolist():
        found = entries[first[row] : last[row]]
        same = (found.check == tombstones.check[row]) & (found.size != 0)
        older[row] = bool((same & (found.seq < tombstones.seq[row])).any())
    return older
