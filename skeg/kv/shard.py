"""One shard: its index, its log and its cache, and what each operation does to them.

Operations are executed at once and in order, under the shard's lock; they return what they found and the `Round` whose
commit has to be awaited before anybody is told, or None. Waiting is the caller's business: `skeg.kv.store` does it in
the calling thread, `skeg.kv.aio` for many operations together.

What an operation sees may not be durable yet. It then returns the round that will make it so, as if it had written it
itself: a caller never learns of something that a crash could undo.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from skeg.durability import Durability
from skeg.errors import (
    ClosedError,
    ParameterError,
    ReadOnlyError,
    SkegError,
    StorageError,
    ValueTypeError,
)
from skeg.fileops import read_all
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.batches import U64, Batch, Packer
from skeg.kv.cache import Cache
from skeg.kv.entries import KeyHash
from skeg.kv.index import Index
from skeg.kv.log import Log
from skeg.kv.options import StoreOptions
from skeg.kv.records import Records, value_in
from skeg.kv.recovery import Recovered
from skeg.kv.rounds import Round
from skeg.kv.segments import Folder, Segment

T = TypeVar("T")

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class Found(NamedTuple):
    """A key's record: where it is (0 if there is none), its value, and the round that will commit it, if any."""

    location: int
    value: bytes | None
    waiting: Round | None


class Shard:
    """A part of the keys of a store.

    Parameters
    ----------
    folder : Folder
        Its files.
    keys : KeyHash
        The store's hashes.
    recovered : Recovered
        What the folder holds.
    options : StoreOptions
        As the store was opened.
    cache_bytes : int
        This shard's part of the cache.
    writable : bool
        False for a store opened with mode "r".
    """

    def __init__(
        self,
        folder: Folder,
        keys: KeyHash,
        recovered: Recovered,
        options: StoreOptions,
        *,
        cache_bytes: int,
        writable: bool,
    ) -> None:
        self.folder = folder
        self.keys = keys
        self.lock = threading.Lock()
        self.index: Index = recovered.index
        self._packer = Packer(keys)
        self.cache = Cache(cache_bytes)
        self.writable = writable
        self.closing = self.closed = False
        self.spoiled: StorageError | None = None
        self.log = Log(
            folder,
            self.lock,
            segment=recovered.active,
            next_segment=recovered.next_segment,
            next_seq=recovered.next_seq,
            segment_bytes=options.segment_bytes,
            committed=lambda round_: self.cache.renew(round_.written),
            take_back=self._take_back,
        )
        self.records = Records(folder, self.index, self.log, recovered.large)
        # Held by whoever moves records from segment to segment, or must not have that happen.
        self.compacting = threading.Lock()
        # Snapshots that read segments, segments to be removed when none does, and outputs that only stood for those.
        self.pins: weakref.WeakSet[object] = weakref.WeakSet()
        self.retired: set[Segment] = set()
        self.purging = threading.Lock()
        self.spent = {s for s in folder if writable and s.compacted and s.end == fmt.HEADER_BYTES + s.overhead}

    def __len__(self) -> int:
        return len(self.index)

    def use_kernels(self) -> None:
        """Load what Numba makes of the writing of batches, if it compiles, and use it from now on."""
        from skeg.jit import JIT_DISABLED

        if not JIT_DISABLED:
            self._packer.use_kernels()
            self.index.use_kernels()

    def change(self, operation: Callable[[], T]) -> T:
        """Do what changes the shard; call with the lock.

        An exception in the middle, such as Ctrl-C, may leave index and log at odds: then the shard is of no more use.
        """
        self.check_writable()
        try:
            return operation()
        except SkegError:
            raise
        except BaseException as error:
            self.spoil(error)
            raise

    def spoil(self, error: BaseException) -> None:
        """What is in memory may no longer be right; what is on the disk is."""
        self.log.interrupted = True
        self.log.stopped = self.spoiled = StorageError(
            self.folder.path, f"interrupted in the middle of a change ({error!r}); open the store again"
        )

    def settle(self, waiting: Round | None) -> None:
        """Return when a round is committed, if anybody asked for that; call without the lock. Raises StorageError."""
        if waiting is not None and (waiting.level is not Durability.NONE or self.log.wants_writing()):
            self.log.commit(waiting)

    # --- reading

    def fetch(self, key: bytes) -> tuple[bytes | None, Round | None]:
        """Value of a key that is not in the cache, or None; call without the lock, which is not held while reading."""
        hashed = self.keys.hash(key)
        with self.lock:
            self.check_open()
            location = self.index.find(hashed)
            if location == 0:
                return None, self.log.deleting(hashed)
            segment, offset, nbytes = self.records.where(location)
            if offset >= segment.committed:
                return self.find(key)[1:]
            file = self.folder.open(segment)
        try:
            data = file.pread(nbytes, offset)
        except OSError:
            data = b""
        if len(data) != nbytes:  # rarely: then with all precautions
            with disk_errors(segment.path, "read"):
                data = read_all(file, nbytes, offset)
        value = value_in(segment, offset, nbytes, data, key)
        with self.lock:
            if value is None:  # another key of the same hash
                return self.find(key)[1:]
            # What was read may be out of date by now: then it must not stay.
            if self.index.find(hashed) == location:
                self.cache.put(key, value)
        return value, None

    def find(self, key: bytes) -> Found:
        """The record of a key; call with the lock."""
        hashed = self.keys.hash(key)
        for location in self.index.find_all(hashed):
            segment, offset, nbytes = self.records.where(location)
            if offset >= segment.committed:
                data, waiting = self.log.staged(segment, offset, nbytes)
            else:
                data, waiting = self.folder.read(segment, offset, nbytes), None
            value = value_in(segment, offset, nbytes, data, key)
            if value is not None:
                return Found(location, value, waiting)
        return Found(0, None, self.log.deleting(hashed))

    def get(self, key: bytes) -> tuple[bytes | None, Round | None]:
        """Value of a key, or None; call with the lock."""
        value = self.cache.get(key)
        if value is not None:
            return value, None
        found = self.find(key)
        if found.value is not None and found.waiting is None:
            self.cache.put(key, found.value)
        return found.value, found.waiting

    def contains(self, key: bytes) -> tuple[bool, Round | None]:
        """Whether a key has a value, without reading it; call with the lock."""
        hashed = self.keys.hash(key)
        if not (location := self.records.find(hashed, key)):
            return False, self.log.deleting(hashed)
        segment, offset, _ = self.records.where(location)
        return True, self.log.staged(segment, offset, 0)[1] if offset >= segment.committed else None

    def get_at_once(self, keys: Sequence[bytes], bytes_max: int) -> list[bytes | None] | None:
        """Values of keys; None if records of more bytes would have to be read, or one is not committed yet.

        Call without the lock.
        """
        values = self.cache.get_each(keys)
        if None not in values:
            return values
        with self.lock:
            self.check_open()
            for i, value in enumerate(values):
                if value is None:
                    values[i], nbytes = self._read(keys[i], bytes_max)
                    bytes_max -= nbytes
                    if nbytes < 0:
                        return None
        return values

    def _read(self, key: bytes, bytes_max: int) -> tuple[bytes | None, int]:
        """Value of a key that is not in the cache, and how many bytes were read for it: -1 as in `get_at_once`."""
        hashed = self.keys.hash(key)
        nread = 0
        for location in self.index.find_all(hashed):
            segment, offset, nbytes = self.records.where(location)
            nread += nbytes
            if nread > bytes_max or offset >= segment.committed:
                return None, -1
            value = value_in(segment, offset, nbytes, self.folder.read(segment, offset, nbytes), key)
            if value is not None:
                self.cache.put(key, value)
                return value, nread
        return None, nread if self.log.deleting(hashed) is None else -1

    def size_bound(self, key: bytes) -> int:
        """Bytes of the largest record of the hash of a key, 0 if there is none; call without the lock."""
        hashed = self.keys.hash(key)
        with self.lock:
            self.check_open()
            return max((self.records.where(location)[2] for location in self.index.find_all(hashed)), default=0)

    # --- writing: all of these are called with the lock, by `change`

    def set(self, key: bytes, value: bytes, level: Durability) -> Round:
        """Give a key a value."""
        hashed = self.keys.hash(key)
        found = self.index.find_all(hashed) if key in self.cache else ()
        old = found[0] if len(found) == 1 else self.records.find(hashed, key)
        return self._put(hashed, old, key, value, level)

    def delete(self, key: bytes, level: Durability) -> tuple[bool, Round | None]:
        """Remove a key; whether it had a value."""
        hashed = self.keys.hash(key)
        old = self.records.find(hashed, key)
        if not old:
            return False, self.log.deleting(hashed)
        segment, offset = self.log.reserve(fmt.TOMBSTONE_BYTES)
        seq = self.log.next_seq
        record = fmt.pack_record(
            segment.place, offset, fmt.TOMBSTONE, seq, self.keys.tombstone_key(key), b"", segment.durable
        )
        self.cache.discard(key)
        round_ = self.log.stage(record, seq, level, tombstones=len(record))
        self._retire([hashed], [old], round_)
        return True, round_

    def set_many(self, items: dict[bytes, bytes], level: Durability) -> Round | None:
        """Give keys values, all or none of them."""
        if len(items) < 2:
            return next((self.set(key, value, level) for key, value in items.items()), None)
        batch = Batch.of(items)
        if batch.nbytes > fmt.BATCH_BYTES_MAX:
            raise ParameterError("pairs", f"{batch.nbytes} bytes", f"at most {fmt.BATCH_BYTES_MAX} bytes for one shard")
        segment, offset = self.log.reserve(batch.nbytes)
        seq = self.log.next_seq
        data, hashes = self._packer.pack(batch, segment.place, offset, seq, segment.durable)
        locations = fmt.pack_locations(segment.id, batch.offsets(offset) >> 3, batch.sizes >> 3)
        written = self.cache.withdraw(items)
        olds = self._enter(list(items), hashes, locations, written)
        self.records.note_large(locations, batch.sizes)
        round_ = self.log.stage(data, seq + len(items) - 1, level, overhead=fmt.RECORD_BYTES)
        round_.write(written)
        round_.add_many(hashes, olds, locations)
        return round_

    def _enter(self, keys: list[bytes], hashes: U64, news: U64, known: Collection[bytes]) -> U64:
        """Enter a batch in the index; the old location of each key, or 0. Those that are known have one."""
        present, there = self.index.insert_new(hashes, news)
        olds = np.zeros(len(keys), np.uint64)
        if not len(present):
            return olds
        if len(present) == len(known) == len(keys) and there.all():  # a matter of speed
            self._point_many(hashes, there, news)
            return there
        mine = set(news.tolist())  # other keys' records, not staged yet
        some = hashes[present]
        try:
            entries = [*zip(some.tolist(), there.tolist(), strict=True)]
            found = self.records.find_many([keys[i] for i in present.tolist()], entries, mine, known)
        except BaseException:
            for key in known:
                self.cache.discard(key)
            entered = np.delete(np.arange(len(keys)), present)
            for hashed, new in zip(hashes[entered].tolist(), news[entered].tolist(), strict=True):
                self.index.remove(hashed, new)
            raise
        olds[present] = found
        self._point_many(some, olds[present], news[present])
        return olds

    def _point_many(self, hashes: U64, olds: U64, news: U64) -> None:
        """`_point` for many."""
        if not olds.all():  # other keys have the same hashes: once in 2**64 keys, or if somebody chose them
            for entry in zip(hashes.tolist(), olds.tolist(), news.tolist(), strict=True):
                self._point(*entry)
            return
        self.index.replace_many(hashes, olds, news)
        self.records.count_dead_many(olds)

    def append(self, key: bytes, value: bytes, level: Durability) -> tuple[int, Round]:
        """Add to the end of a key's value; the new length."""
        found = self.find(key)
        joined = (found.value or b"") + value
        if len(joined) > fmt.VALUE_BYTES_MAX:
            raise ParameterError("value", f"{len(joined)} bytes in all", f"at most {fmt.VALUE_BYTES_MAX} bytes")
        return len(joined), self._put(self.keys.hash(key), found.location, key, joined, level)

    def incr(self, key: bytes, delta: int, level: Durability) -> tuple[int, Round]:
        """Add to the integer that a key's value spells; the sum."""
        found = self.find(key)
        text = b"0" if found.value is None else found.value
        if not _INTEGER.fullmatch(text) or not _INT_MIN <= int(text) <= _INT_MAX:
            raise ValueTypeError(key, text)
        total = int(text) + delta
        if not _INT_MIN <= total <= _INT_MAX:
            raise ParameterError("delta", delta, f"a sum within 64 bits; the value is {int(text)}")
        return total, self._put(self.keys.hash(key), found.location, key, b"%d" % total, level)

    def set_if(self, key: bytes, value: bytes, level: Durability, *, present: bool) -> tuple[bool, Round | None]:
        """Give a key a value if it has one, or if it has none; whether that was so."""
        found = self.find(key)
        if (found.location != 0) != present:
            return False, found.waiting
        return True, self._put(self.keys.hash(key), found.location, key, value, level)

    def get_set(self, key: bytes, value: bytes, level: Durability) -> tuple[bytes | None, Round]:
        """Give a key a value; the one that it had."""
        found = self.find(key)
        return found.value, self._put(self.keys.hash(key), found.location, key, value, level)

    def erase(self, targets: Sequence[tuple[int, int, int]], level: Durability) -> tuple[int, Round | None]:
        """Delete the keys of known records: hash, check and location of each; how many were still there."""
        there = [(h, check, old) for h, check, old in targets if old in self.index.find_all(h)]
        if not there:
            return 0, None
        nbytes = fmt.TOMBSTONE_BYTES * len(there)
        segment, offset = self.log.reserve(fmt.RECORD_BYTES + nbytes)
        seq = self.log.next_seq
        at = offset + fmt.RECORD_BYTES
        members = b"".join(
            fmt.pack_record(
                segment.place,
                at + i * fmt.TOMBSTONE_BYTES,
                fmt.TOMBSTONE,
                seq + i,
                fmt.TOMBSTONE_KEY.pack(hashed, check),
                b"",
                fmt.MEMBER * 8,
            )
            for i, (hashed, check, _) in enumerate(there)
        )
        data = fmt.pack_batch(segment.place, offset, seq, members, segment.durable)
        self.cache.clear()
        last = seq + len(there) - 1
        round_ = self.log.stage(data, last, level, tombstones=nbytes, overhead=fmt.RECORD_BYTES)
        self._retire([h for h, _, _ in there], [old for _, _, old in there], round_)
        return len(there), round_

    def _put(self, hashed: int, old: int, key: bytes, value: bytes, level: Durability) -> Round:
        """Stage a value for a key whose record is at `old`, 0 if it has none."""
        segment, offset = self.log.reserve(fmt.record_bytes(len(key), len(value)))
        seq = self.log.next_seq
        record = fmt.pack_record(segment.place, offset, fmt.VALUE, seq, key, value, segment.durable)
        new = fmt.pack_location(segment.id, offset, len(record))
        if len(record) >= fmt.LARGE_BYTES:
            self.records.large[new] = len(record)
        round_ = self.log.stage(record, seq, level)
        round_.write(self.cache.withdraw({key: value}))
        self._point(hashed, old, new)
        round_.add(hashed, old, new)
        return round_

    def _retire(self, hashes: list[int], olds: list[int], round_: Round) -> None:
        """Take deleted keys out of the index."""
        for hashed, old in zip(hashes, olds, strict=True):
            self._point(hashed, old, 0)
            round_.add(hashed, old, 0)
        round_.deleted.update(hashes)

    def _point(self, hashed: int, old: int, new: int) -> None:
        """Let the slot of `old` (0: none) say `new` (0: none), and keep count of dead bytes."""
        self._swap(hashed, old, new)
        self.records.count_dead(old)

    def _swap(self, hashed: int, old: int, new: int) -> None:
        if old and new:
            self.index.replace(hashed, old, new)
        elif new:
            self.index.insert(hashed, new)
        else:
            self.index.remove(hashed, old)

    def _take_back(self, round_: Round) -> None:
        """Undo what a failed round did to the index; the log puts its own state right."""
        for key in round_.written:
            self.cache.discard(key)
        changes = zip(reversed(round_.hashes), reversed(round_.olds), reversed(round_.news), strict=True)
        for hashed, old, new in changes:
            self._swap(hashed, new, old)
            self.records.count_dead(old, -1)

    def read(self, segment: Segment, offset: int, length: int) -> bytes:
        """Read a range of a segment, fewer bytes at its end; call without the lock."""
        with self.lock:
            self.check_open()
            file = self.folder.open(segment)
        with disk_errors(segment.path, "read"):
            return read_all(file, length, offset)

    def refuse_writers(self) -> None:
        """Let no operation begin that changes the shard: it is being closed."""
        with self.lock:
            self.closing = True

    def close(self) -> None:
        """Let go of memory and files."""
        with self.lock:
            self.closed = True
            self.cache.clear()
            self.folder.close()

    def renew(self) -> None:
        """Go on in the child of a fork, where nobody will let go of the locks; for a shard that is only read."""
        self.lock = self.log.lock = threading.Lock()
        self.compacting = threading.Lock()
        self.purging = threading.Lock()
        self.pins = weakref.WeakSet()
        # Another thread may have been changing it. All else that a reader has stays as it was opened.
        self.cache = Cache(self.cache.budget)

    def abandon(self) -> None:
        """Close without waiting for anybody: in the child of a fork, where nobody will let go of the lock."""
        self.lock = threading.Lock()
        self.compacting = threading.Lock()
        self.close()

    def check_open(self) -> None:
        """Raise ClosedError if the store was closed, and StorageError if it must not be used any more."""
        if self.closed:
            raise ClosedError(f"{self.folder.path} was closed")
        if self.spoiled is not None:
            raise StorageError(self.spoiled.path, self.spoiled.problem)

    def check_writable(self) -> None:
        """Raise the error that an operation that changes the shard would meet before it begins."""
        self.check_open()
        if self.closing:
            raise ClosedError(f"{self.folder.path} is being closed")
        if not self.writable:
            raise ReadOnlyError(self.folder.path, "opened for reading only")
