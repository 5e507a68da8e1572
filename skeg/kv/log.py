"""The end of a shard's log, where records are added: staging, group commit, rotation, and what happens when disks fail.

Records are *staged* in memory under the shard's lock, which gives them their place in the log at once, and *committed*
together: one write and at most one sync for all that gathered meanwhile. There is no commit thread and no timer. A
caller that wants its records committed leads if nobody does: it takes everything staged, writes it without
the lock, and wakes the others. What is staged while it does so is the next leader's.

Failures. A disk that is full fails the records of that commit and all staged since, takes them back and leaves the log
as it was; later ones may succeed. Any other failure, above all of a sync, ends writing for good: nobody knows what is
on the disk then, and asking again would only say that all is well (the "fsyncgate" of 2018).
"""

from __future__ import annotations

import contextlib
import errno
import threading
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skeg.durability import Durability
from skeg.errors import StorageError
from skeg.fileops import File, write_all
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.rounds import Extent, Round
from skeg.kv.segments import CLOSED, Folder, Segment

U64 = NDArray[np.uint64]

# What may pass: no space, no file descriptors.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}

# Space reserved ahead of the log's end: a sync then needs not record a new size of the file. Measured on ext4: 87 us
# instead of 130 for a small record. At least this much, at most half of what is there.
_RESERVE_BYTES_MIN = 64 << 10

# Records acknowledged below `OS` are written when they take this much memory.
_STAGED_BYTES_MAX = 1 << 20


# Who waits for a leader looks again after this long, in case that was interrupted before it could wake anybody.
_MISSED_WAKE_S = 0.05


class _SyncError(OSError):
    """A sync failed."""


class Log:
    """Where a shard's records are added. Methods are called with the shard's lock held, but for `commit` and `sync`.

    Parameters
    ----------
    folder : Folder
        The shard's files.
    lock : Lock
        The shard's lock.
    segment : Segment, optional
        The segment to go on with.
    next_segment, next_seq : int
        Numbers that were never used.
    segment_bytes : int
        As in `StoreOptions`.
    committed, take_back : callable
        Given a round that is committed, puts its values into the cache; given one that failed, undoes what its lists
        say. Called with the lock.
    """

    def __init__(
        self,
        folder: Folder,
        lock: threading.Lock,
        *,
        segment: Segment | None,
        next_segment: int,
        next_seq: int,
        segment_bytes: int,
        committed: Callable[[Round], None],
        take_back: Callable[[Round], None],
    ) -> None:
        self.folder = folder
        self.lock = lock
        # Held by the leader, and given back however leading ends. Those who wait are told by `_ended`; its lock is used
        # by itself: a condition's own ``with`` is Python code, in the middle of which Ctrl-C would leave it held.
        self._leader = threading.Lock()
        self._ended_lock = threading.Lock()
        self._ended = threading.Condition(self._ended_lock)
        self.segment = segment
        self.next_seq = next_seq
        self.next_segment = next_segment
        self.staging = Round()
        self.stopped: StorageError | None = None
        # Whether that is because this process was interrupted, and not because of the disk.
        self.interrupted = False
        # Sequence number up to which records are acknowledged, and up to which they are on stable storage.
        self.committed_seq = self.durable_seq = next_seq - 1
        self.commits = self.syncs = self.failures = 0
        # Called, with the lock, when a segment was closed.
        self.on_closed: Callable[[], None] | None = None
        self._segment_bytes = segment_bytes
        self._on_committed = committed
        self._take_back = take_back
        self._in_flight: Round | None = None
        self._lost: StorageError | None = None
        # The segment that was written to last, and the one to name as the predecessor of the next.
        self._written = self._before = segment

    def reserve(self, nbytes: int) -> tuple[Segment, int]:
        """Segment and offset for the next record, of `nbytes` bytes; begins a new segment when this one is full."""
        if self.stopped is not None:
            raise self._error()
        segment = self.segment
        if segment is None or (segment.end + nbytes > self._segment_bytes and segment.end > fmt.HEADER_BYTES):
            segment = self.rotate()
        return segment, segment.end

    def rotate(self) -> Segment:
        """Begin a new segment. Its file is made when the first of its records is committed."""
        before = self.segment or self._before
        number = self.take_number()
        header = fmt.SegmentHeader(
            number, self.folder.shard_id, self.next_seq, before.id if before else 0, 0, before.end if before else 0
        )
        segment = self.folder.add(header)
        segment.committed = 0
        segment.durable = 0
        self.segment = segment
        return segment

    def close_segment(self) -> None:
        """Begin a new segment, and have the old one on stable storage and closed; call without the lock."""
        with self.lock:
            before = self.segment
            if before is None or before.end == fmt.HEADER_BYTES:
                return
            self.rotate()
        self.sync()
        self._trim(before)
        with self.lock:
            if before.committed == before.end:
                before.committed = CLOSED

    def sync_file(self) -> None:
        """Put what is in the file that was written to last on stable storage; nothing that is staged."""
        if self._written is not None:
            file = self._held(self._written.id)[1]
            if file is not None:
                with disk_errors(self._written.path, "sync"):
                    file.sync()

    def trim(self) -> None:
        """Give back the space reserved behind the last record; call without the lock, with nothing staged."""
        if self.segment is not None:
            self._trim(self.segment)

    def _trim(self, segment: Segment) -> None:
        if segment.reserved > segment.end:
            with disk_errors(segment.path, "cut to its size"):
                self._open(segment).truncate(segment.end)
            segment.reserved = segment.end

    def take_number(self) -> int:
        """A segment id that was never used."""
        number = self.next_segment
        if number > fmt.SEGMENT_MAX:
            raise StorageError(self.folder.path, f"all {fmt.SEGMENT_MAX} segment ids are used")
        self.next_segment = number + 1
        return number

    def stage(
        self,
        data: bytes,
        last_seq: int,
        level: Durability,
        *,
        tombstones: int = 0,
        overhead: int = 0,
    ) -> Round:
        """Add a record at the place that `reserve` gave; return the round that will commit it.

        Parameters
        ----------
        data : bytes
            The record, or a batch with its members.
        last_seq : int
            The last sequence number in it.
        level : Durability
            What is wanted before it is acknowledged.
        tombstones, overhead : int
            How many of the bytes are tombstones, and how many belong to no key.
        """
        segment = self.segment
        assert segment is not None
        round_ = self.staging
        extents = round_.extents
        if not extents or extents[-1].segment is not segment:
            extents.append(Extent(segment, segment.end))
        extent = extents[-1]
        extent.records.append(data)
        extent.offsets.append(segment.end)
        nbytes = len(data)
        segment.end += nbytes
        extent.end = segment.end
        extent.tombstones += tombstones
        extent.overhead += overhead
        segment.tombstones += tombstones
        segment.overhead += overhead
        round_.nbytes += nbytes
        round_.last_seq = last_seq
        self.next_seq = last_seq + 1
        round_.level = max(round_.level, level)
        if level is Durability.NONE:
            round_.acknowledged = True
        return round_

    def staged(self, segment: Segment, offset: int, nbytes: int) -> tuple[bytes, Round]:
        """Bytes of a record that is not committed yet, and the round that will do so."""
        for round_ in self.pending:
            for extent in round_.extents:
                if extent.segment is segment and extent.start <= offset < extent.end:
                    which = bisect_right(extent.offsets, offset) - 1
                    start = offset - extent.offsets[which]
                    return extent.records[which][start : start + nbytes], round_
        raise AssertionError("an uncommitted record is not staged")

    @property
    def pending(self) -> list[Round]:
        """Rounds that are not committed yet, oldest first."""
        return [self.staging] if self._in_flight is None else [self._in_flight, self.staging]

    def deleting(self, hashed: int) -> Round | None:
        """The newest round that is not committed yet and deletes a key of this hash."""
        for round_ in reversed(self.pending):
            if hashed in round_.deleted:
                return round_
        return None

    def relocate(self, sources: set[int], old: U64, new: U64, seen: dict[Round, int]) -> None:
        """Records of the segments `sources` were copied from `old` (ascending) to `new`: so would be what is undone.

        `seen` says how much of each round was looked at by earlier calls for the same copies.
        """
        for round_ in self.pending:
            first = seen.get(round_, 0)
            for i, location in enumerate(round_.olds[first:], first):
                if location >> fmt.SEGMENT_SHIFT in sources:
                    round_.olds[i] = int(new[np.searchsorted(old, np.uint64(location))])
            seen[round_] = len(round_.olds)

    @property
    def unsynced(self) -> bool:
        """Whether something acknowledged or staged is not on stable storage."""
        return self.durable_seq < self.committed_seq or any(round_.extents for round_ in self.pending)

    def wants_writing(self) -> bool:
        """Whether records that nobody waits for take too much memory."""
        return self.staging.nbytes > _STAGED_BYTES_MAX

    def report_lost(self) -> None:
        """Raise StorageError, once, if records that were acknowledged before they were written have been lost since."""
        with self.lock:
            lost, self._lost = self._lost, None
        if lost is not None:
            raise StorageError(lost.path, f"writes of Durability.NONE were lost: {lost.problem}")

    def sync(self) -> None:
        """Put everything staged so far on stable storage; call without the lock. Raises StorageError."""
        with self.lock:
            if self.stopped is not None:
                raise self._error()
            if not self.unsynced:
                return
            round_ = self.staging
            round_.level = Durability.SYNC
        self.commit(round_)

    def commit(self, round_: Round) -> None:
        """Return when a round is committed at its level, leading if nobody does; call without the lock.

        Raises
        ------
        StorageError
            The round failed and was taken back.
        """
        while not round_.is_done():
            if self._leader.locked():
                with self._ended_lock:
                    if self._leader.locked() and not round_.is_done():
                        self._ended.wait(_MISSED_WAKE_S)
                continue
            with self._leader:
                if not round_.is_done():
                    self._lead()
            with self._ended_lock:
                self._ended.notify_all()
        if round_.error is not None:
            raise StorageError(round_.error.path, round_.error.problem) from round_.error

    def commit_at_once(self, round_: Round) -> bool:
        """Commit a round if that is only a write into memory of the system, and nobody else is at it.

        For callers that must not wait for the disk; call without the lock.

        Returns
        -------
        bool
            Whether the round is committed, or has failed. If not, it is as it was.
        """
        if round_.level is Durability.SYNC or any(extent.segment.reserved == 0 for extent in round_.extents):
            return False
        if not self._leader.acquire(blocking=False):
            return False
        try:
            if not round_.is_done():
                self._lead()
        finally:
            self._leader.release()
            with self._ended_lock:
                self._ended.notify_all()
        return True

    def _lead(self) -> None:
        with self.lock:
            # A leader that was interrupted left its round in flight: write it again, to the same place.
            if self._in_flight is None:
                self._in_flight, self.staging = self.staging, Round()
            work = self._in_flight
        error = None
        try:
            self._write(work)
        except OSError as caught:
            error = caught
        with self.lock:
            if error is None:
                self._committed(work)
            else:
                self._failed(error)

    def _write(self, work: Round) -> None:
        """The disk's part of a commit, without the lock."""
        for extent in work.extents:
            segment = extent.segment
            if segment.reserved == 0:
                self._create(segment)
            file = self._open(segment)
            self._written = segment
            extent.attempted = True
            if extent.end > segment.reserved:
                segment.reserved = self._reserved_for(extent.end)
                with contextlib.suppress(OSError):  # a matter of speed: whether there is space, the write will tell
                    file.allocate(extent.end, segment.reserved - extent.end)
            write_all(file, b"".join(extent.records), extent.start)
        if work.level is Durability.SYNC and self._written is not None:
            written, held = self._held(self._written.id)
            if written is self._written and held is not None:
                self._sync_file(held)

    def _reserved_for(self, end: int) -> int:
        return max(end, min(self._segment_bytes, end + max(_RESERVE_BYTES_MIN, end // 2)))

    def _open(self, segment: Segment) -> File:
        with self.lock:
            return self.folder.open(segment)

    def _held(self, number: int) -> tuple[Segment | None, File | None]:
        """A segment and its open file, unless compaction has removed it; once open it may be removed."""
        with self.lock:
            segment = self.folder.get(number)
            return segment, None if segment is None else self.folder.open(segment)

    def _sync_file(self, file: File) -> None:
        try:
            file.sync()
        except OSError as error:
            raise _SyncError from error
        self.syncs += 1

    def _create(self, segment: Segment) -> None:
        """Close the segment before, durably, then make the file of a new one."""
        before, file = self._held(segment.header.previous)
        if before is not None and file is not None:
            if before.reserved > segment.header.previous_bytes:
                file.truncate(segment.header.previous_bytes)
                before.reserved = segment.header.previous_bytes
            self._sync_file(file)
        self.folder.remove([segment.path])  # what an interrupted attempt left
        file = self.folder.files.open(segment.path, create=True)
        write_all(file, fmt.pack_header(segment.header), 0)
        self._sync_file(file)
        self._sync_folder()
        with self.lock:
            self.folder.hold(segment, file)
            segment.reserved = fmt.HEADER_BYTES

    def _sync_folder(self) -> None:
        try:
            self.folder.files.sync_dir(self.folder.path)
        except OSError as error:
            raise _SyncError from error

    def _committed(self, work: Round) -> None:
        work.done = True  # first, so that nobody waits for ever should Ctrl-C come in between
        for extent in work.extents:
            extent.segment.committed = extent.end
            before = self.folder.get(extent.segment.header.previous)
            if before is not None and before.committed != CLOSED:
                before.committed = CLOSED
                if self.on_closed is not None:
                    self.on_closed()
        self.committed_seq = max(work.last_seq, self.committed_seq)
        if work.level is Durability.SYNC:
            self.durable_seq = self.committed_seq
            if self._written is not None:
                self._written.durable = min(self._written.committed, self._written.end)
        self.commits += 1
        self._in_flight = None
        self._on_committed(work)
        work.finish()

    def _failed(self, error: OSError) -> None:
        """Take back every record that is not committed. Stop for good unless the trouble may pass."""
        assert self._in_flight is not None
        self.failures += 1
        # What the disk said, in whatever it was wrapped on the way.
        origin = error.__cause__ if isinstance(error.__cause__, OSError) else error
        broken = isinstance(error, _SyncError) or origin.errno not in PASSING
        rounds = [self.staging, self._in_flight]
        failure = StorageError(self.folder.path, f"can't write the log: {origin.strerror or origin}")
        # Final before anything is mended: should Ctrl-C come in between, the log stays stopped.
        stopped, self.stopped = self.stopped, failure
        for round_ in rounds:
            round_.error = failure
            round_.done = True
        extents = [extent for round_ in rounds for extent in reversed(round_.extents)]
        self.staging, self._in_flight = Round(), None
        if any(round_.acknowledged for round_ in rounds):
            self._lost = failure
        for round_ in rounds:
            self._take_back(round_)
            round_.finish(failure)
        with contextlib.suppress(OSError):  # then it stays stopped
            self._restore(extents, touch_disk=not broken)
            if not broken:
                self.stopped = stopped

    def _restore(self, extents: list[Extent], *, touch_disk: bool) -> None:
        """Give segments the ends that they had before the extents, the newest of which comes first.

        What failed was reported to have failed, so it is removed, durably.
        """
        cut: dict[int, Segment] = {}
        for extent in extents:
            segment = extent.segment
            segment.end = extent.start
            segment.tombstones -= extent.tombstones
            segment.overhead -= extent.overhead
            if max(extent.start, segment.committed) > fmt.HEADER_BYTES:
                if extent.attempted:
                    cut[segment.id] = segment
                continue
            # Nothing of it was ever committed. The one before may be closed by now: the next write begins a new one.
            self._before = self.folder.get(segment.header.previous)
            if segment is self.segment:
                self.segment = None
            if self.folder.get(segment.id) is segment:
                self.folder.forget(segment)
                if touch_disk:
                    self.folder.remove([segment.path])
                    self._sync_folder()
        begun = self.segment
        if begun is not None and begun.reserved == 0:
            # No file yet, and its header speaks of an end of the segment before that is no more.
            self._before = self.folder.get(begun.header.previous)
            self.folder.forget(begun)
            self.segment = None
        self._written = self.segment or self._before
        for segment in cut.values() if touch_disk else ():
            file = self.folder.open(segment)
            file.truncate(segment.end)
            segment.reserved = segment.end
            self._sync_file(file)

    def _error(self) -> StorageError:
        assert self.stopped is not None
        return StorageError(
            self.stopped.path, f"no longer written to, after a failure; open the store again ({self.stopped.problem})"
        )
