"""The index in memory: where the record of each key is, without the keys.

A slot has 17 bytes: the key's hash (8), the record's location (8) and a *tag* (1). Between 71 and 92 % of the slots are
in use, hence less than 25 bytes a key. Different keys may share a hash; then there are several slots of one hash, and
the caller, who reads the keys from their records, tells them apart by location.

Tables
    Slots are in tables of at most some 16,000. A directory indexed by the hash's first bits says which table has a hash
    (extendible hashing: Fagin et al., TODS 1979, section 3): each table has all hashes that start with its own `depth`
    bits. A table that is full is laid out anew, larger, and when it is large already, as two tables with one bit more.
    So the index grows in steps of a fraction of a millisecond, and a snapshot costs a copy of only those tables that
    are changed after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.kv.format import SEGMENT_SHIFT
from skeg.kv.table import FILL, HOMES_MAX, TOP_BITS, TOP_SHIFT, USED, Table, end_of

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# One above the last hash: where walks over all tables end.
HASH_END = 1 << 64

# From so many entries on a call of a kernel pays.
_KERNEL_ENTRIES = 8

# With more entries, a table is divided.
_ENTRIES_MAX = int(HOMES_MAX * FILL)


class Frozen:
    """An index as it was at one moment. It never changes, and any thread may read it without a lock."""

    def __init__(self, tables: list[Table], count: int) -> None:
        self._tables = tables
        self._count = count

    def __len__(self) -> int:
        return self._count

    def tables(self) -> Iterator[tuple[U64, U64]]:
        """Yield hashes and locations of all entries, table by table."""
        for table in self._tables:
            entries = table.entries()
            yield entries[:, 0], entries[:, 1]

    def locations(self) -> U64:
        """Return the locations of all entries."""
        return np.concatenate([locations for _, locations in self.tables()])


class Index:
    """A multimap from key hashes (1 to 2^64 - 1) to locations (1 to 2^64 - 1), no two of which are equal.

    One thread at a time may use it: the caller holds a lock.
    """

    def __init__(self) -> None:
        self._count = 0
        self._insert_kernel: Callable[..., Any] | None = None
        self._replace_kernel: Callable[..., Any] | None = None
        self._start(0)

    def use_kernels(self) -> None:
        """From now on let Numba do what is done for many, which this loads, or compiles: a second, or some."""
        from skeg.kv.kernels.insert import insert_new, replace_many

        trial = Index()
        trial._insert_kernel, trial._replace_kernel = insert_new, replace_many
        numbers = np.arange(1, 2 * _KERNEL_ENTRIES, dtype=np.uint64)
        trial.insert_new(numbers, numbers)
        trial.replace_many(numbers, numbers, numbers)
        self._insert_kernel, self._replace_kernel = insert_new, replace_many

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index takes, without what only snapshots still have."""
        return 8 * len(self._directory) + sum(table.nbytes() for table in self._tables())

    # Scalar calls

    def find(self, key_hash: int) -> int:
        """Return a location of a hash, 0 when it has none."""
        top = key_hash >> TOP_SHIFT
        table = self._directory[top >> self._shift]
        home = (top & table.mask) * table.homes >> table.shift
        slot = table.tags.find(key_hash & 255 or 1, home)
        # Where no slot has the tag, -1 leads to the very last slot, an empty one.
        if table.slots[slot + slot] == key_hash:
            return table.slots[slot + slot + 1]
        # That was another hash, nearly always behind the run of slots where this one would be.
        if slot < table.tags.find(0, home):
            for place in table.places(key_hash):
                return table.slots[place + 1]
        return 0

    def find_all(self, key_hash: int) -> list[int]:
        """Return all locations of a hash, mostly none or one."""
        table = self._table(key_hash)
        return [table.slots[place + 1] for place in table.places(key_hash)]

    def insert(self, key_hash: int, location: int) -> None:
        """Add an entry, even if there are entries of that hash."""
        table = self._changeable(self._table(key_hash), key_hash)
        slot = table.tags.find(0, table.home(key_hash))
        table.slots[slot + slot] = key_hash
        table.slots[slot + slot + 1] = location
        table.tags[slot] = key_hash & 255 or 1
        table.used += 1
        self._count += 1
        if table.used >= table.limit or slot >= table.last:
            self._lay_out(table, key_hash)

    def replace(self, key_hash: int, old: int, new: int) -> bool:
        """Set the location of the entry ``(key_hash, old)``; return whether there was one."""
        table = self._table(key_hash)
        place = table.place(key_hash, old)
        if place < 0:
            return False
        self._changeable(table, key_hash).slots[place + 1] = new
        return True

    def remove(self, key_hash: int, old: int) -> bool:
        """Remove the entry ``(key_hash, old)``; return whether there was one."""
        table = self._table(key_hash)
        place = table.place(key_hash, old)
        if place < 0:
            return False
        table = self._changeable(table, key_hash)
        table.slots[place] = table.slots[place + 1] = 0
        table.dead += 1
        self._count -= 1
        # Memory goes back when a third of it is of no use; the constant spares small tables the trouble.
        if 3 * table.dead > table.used + 96:
            self._lay_out(table, key_hash)
        return True

    # Calls for many

    def insert_new(self, hashes: U64, locations: U64) -> tuple[I64, U64]:
        """Add the entries whose hash has none yet.

        Pair by pair in order: the second of two equal hashes is not added. This is `find` and `insert` in one loop
        without calls, as it is what writing many values costs.

        Parameters
        ----------
        hashes, locations : array of uint64, shape (n,)
            The entries.

        Returns
        -------
        present : array of int64, shape (m,)
            Positions of those that were not added.
        there : array of uint64, shape (m,)
            The location that the hash of each has already, 0 if it has several.
        """
        if self._insert_kernel is not None and len(hashes) >= _KERNEL_ENTRIES:
            return self._insert_new_by_kernel(self._insert_kernel, hashes, locations)
        directory, directory_shift, before = self._directory, self._shift, self._count
        present: list[int] = []
        there: list[int] = []
        for position, (key_hash, location) in enumerate(zip(hashes.tolist(), locations.tolist(), strict=True)):
            top = key_hash >> TOP_SHIFT
            table = directory[top >> directory_shift]
            if table.frozen:
                table = self._changeable(table, key_hash)
            tags = table.tags
            home = (top & table.mask) * table.homes >> table.shift
            slot = tags.find(0, home)
            tag = key_hash & 255 or 1
            slots = table.slots
            same = tags.find(tag, home, slot)
            if same >= 0 and (places := table.places(key_hash)):
                present.append(position)
                there.append(slots[places[0] + 1] if len(places) == 1 else 0)
                continue
            slots[slot + slot] = key_hash
            slots[slot + slot + 1] = location
            tags[slot] = tag
            table.used = used = table.used + 1
            if used >= table.limit or slot >= table.last:
                self._count = before + position + 1 - len(present)
                self._lay_out(table, key_hash)
                directory, directory_shift = self._directory, self._shift
        self._count = before + len(hashes) - len(present)
        return np.array(present, np.int64), np.array(there, np.uint64)

    def _insert_new_by_kernel(self, kernel: Callable[..., Any], hashes: U64, locations: U64) -> tuple[I64, U64]:
        present, there = np.empty(len(hashes), np.int64), np.empty(len(hashes), np.uint64)
        before, done, count = self._count, 0, 0
        while done < len(hashes):
            tables, addresses = self._addresses(hashes[done:])
            found = kernel(hashes, locations, done, addresses, np.uint64(self._shift), present, there, count)
            done, count, attention = map(int, found)
            self._count = before + done - count
            for table in tables:
                table.used = table.row[USED]
            if attention >= 0:
                key_hash = int(hashes[attention])
                table = self._table(key_hash)
                if table.frozen:
                    self._changeable(table, key_hash)
                else:
                    self._lay_out(table, key_hash)
        return present[:count], there[:count]

    def _addresses(self, hashes: U64) -> tuple[list[Table], U64]:
        """The tables that some hashes belong to, and by number the addresses that kernels know them by."""
        parts = (hashes >> np.uint64(TOP_SHIFT + self._shift)).astype(np.int64)
        numbers = np.bincount(parts).nonzero()[0].tolist()
        tables = [self._directory[number] for number in numbers]
        addresses = np.empty(len(self._directory), np.uint64)
        addresses[numbers] = [table.tell() for table in tables]
        return tables, addresses

    def replace_many(self, hashes: U64, olds: U64, news: U64) -> None:
        """Set the locations of the entries ``(hashes[i], olds[i])``, all of which are there.

        Parameters
        ----------
        hashes, olds, news : array of uint64, shape (n,)
        """
        if self._replace_kernel is None or len(hashes) < _KERNEL_ENTRIES:
            for entry in zip(hashes.tolist(), olds.tolist(), news.tolist(), strict=True):
                self.replace(*entry)
            return
        tables, addresses = self._addresses(hashes)
        if any(table.frozen for table in tables):
            for key_hash in hashes.tolist():
                self._changeable(self._table(key_hash), key_hash)
            _, addresses = self._addresses(hashes)
        self._replace_kernel(hashes, olds, news, addresses, np.uint64(self._shift))

    def load(self, groups: Sequence[tuple[U64, U64]]) -> None:
        """Fill an empty index; no entry may occur twice.

        Parameters
        ----------
        groups : sequence of (hashes, locations), arrays of uint64
            The entries, ordered by hash, divided into 1, 2, 4 ... groups by the first bits of the hash.
        """
        assert not self._count, "only an empty index can be loaded"
        self._count = sum(len(hashes) for hashes, _ in groups)
        number_of_groups = max(len(groups), 1)
        self._start(max((self._count // _ENTRIES_MAX).bit_length(), (number_of_groups - 1).bit_length()))
        width = (1 << self._depth) // number_of_groups
        for group, (hashes, locations) in enumerate(groups):
            numbers = range(group * width, (group + 1) * width)
            firsts = np.array([number << (64 - self._depth) for number in numbers], np.uint64)
            starts = np.searchsorted(hashes, firsts).tolist()
            for number, start, end in zip(numbers, starts, [*starts[1:], len(hashes)], strict=True):
                part = np.column_stack((hashes[start:end], locations[start:end]))
                self._directory[number] = Table(part, self._depth)

    def freeze(self) -> Frozen:
        """Return a snapshot: quick, as tables are shared until they change here."""
        tables = list(self._tables())
        for table in tables:
            table.frozen = True
        return Frozen(tables, self._count)

    # Compaction walks over all tables and lets go of the lock between its calls. What it holds on to is a hash where a
    # table starts: tables are divided but never joined, so that this stays true, and the walk meets every hash once.

    def in_segment(self, start: int, segment: int) -> tuple[U64, U64, int]:
        """Return hashes and locations of the entries of one table that are in a segment, and the next table's start.

        Parameters
        ----------
        start : int
            0 or what the last call returned, until that is `HASH_END`.
        segment : int
            Id of the segment.
        """
        table = self._table(start)
        found = table.entries(table.pairs[:, 1] >> SEGMENT_SHIFT == segment)
        return found[:, 0], found[:, 1], end_of(table, start)

    def hashed_from(self, start: int, homes: int) -> tuple[U64, U64, int]:
        """Return hashes and locations of all entries with a hash of a range, and the first hash behind the range.

        Parameters
        ----------
        start : int
            The first hash: 0 or what the last call returned, until that is `HASH_END`.
        homes : int
            How many homes' hashes to look at, at most: there are about as many entries.
        """
        table = self._table(start)
        found, end = table.hashed_from(start, homes)
        return found[:, 0], found[:, 1], end

    def move(self, hashes: U64, old: U64, new: U64) -> npt.NDArray[np.bool_]:
        """Set the locations of many entries; return for each whether it was still there.

        Parameters
        ----------
        hashes, old : array of uint64, shape (n,)
            The entries as they were.
        new : array of uint64, shape (n,)
            Their new locations.
        """
        moved = np.zeros(len(hashes), np.bool_)
        by_hash = hashes.argsort()
        done = 0
        while done < len(hashes):
            first = int(hashes[by_hash[done]])
            table = self._table(first)
            last = np.uint64(end_of(table, first) - 1)
            end = int(hashes.searchsorted(last, "right", by_hash))
            part = by_hash[done:end]
            part = part[old[part].argsort()]
            wanted = old[part]
            # Most slots are in other segments, and a look at both ends is cheaper than a search.
            slots = np.flatnonzero((table.pairs[:, 1] >= wanted[0]) & (table.pairs[:, 1] <= wanted[-1]))
            ranks = wanted.searchsorted(table.pairs[slots, 1])
            hits = wanted[ranks] == table.pairs[slots, 1]
            if hits.any():
                part = part[ranks[hits]]
                self._changeable(table, first).pairs[slots[hits], 1] = new[part]
                moved[part] = True
            done = end
        return moved

    # Tables and directory

    def _start(self, depth: int) -> None:
        self._depth = depth
        self._shift = TOP_BITS - depth
        self._directory = [Table(np.zeros((0, 2), np.uint64), depth)] * (1 << depth)

    def _table(self, key_hash: int) -> Table:
        return self._directory[key_hash >> TOP_SHIFT >> self._shift]

    def _tables(self) -> Iterator[Table]:
        start = 0
        while start < HASH_END:
            table = self._table(start)
            yield table
            start = end_of(table, start)

    def _put(self, table: Table, key_hash: int) -> None:
        """Enter a table in the directory; it has `key_hash`, and all hashes with which that shares ``depth`` bits."""
        width = 1 << (self._depth - table.depth)
        start = (key_hash >> TOP_SHIFT >> self._shift) & -width
        self._directory[start : start + width] = [table] * width

    def _changeable(self, table: Table, key_hash: int) -> Table:
        """Return the table of a hash, or a copy in its place when a snapshot has it."""
        if table.frozen:
            table = table.copy()
            self._put(table, key_hash)
        return table

    def _lay_out(self, table: Table, key_hash: int) -> None:
        """Lay a table anew, without what was removed, as large as it should be."""
        entries = table.entries()
        depth = table.depth
        # Hashes that are not spread evenly may share many bits. Dividing their table again and again would make the
        # directory large, and the table hardly smaller: it has to do with at most four times the average.
        if not _ENTRIES_MAX < len(entries) <= 4 * (self._count >> depth):
            self._put(Table(entries, depth), key_hash)
            return
        if depth == self._depth:
            self._directory = [table for table in self._directory for _ in range(2)]
            self._depth += 1
            self._shift -= 1
        bit = 1 << (63 - depth)
        upper = entries[:, 0] & bit != 0
        self._put(Table(entries.compress(~upper, 0), depth + 1), key_hash & ~bit)
        self._put(Table(entries.compress(upper, 0), depth + 1), key_hash | bit)
