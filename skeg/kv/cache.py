"""Values in memory, up to a number of bytes: S3-FIFO.

Yang, Zhang, Qiu, Yue and Vinayak, "FIFO queues are all you need for cache eviction" (SOSP 2023), section 4. There are
three first-in-first-out queues. A new key enters the *small* one, which has a tenth of the bytes. Its oldest entry
moves on to the *main* queue if it was read twice meanwhile; else it goes, and the *ghost* queue remembers a hash of its
key for a while. A key that returns while it is remembered enters the main queue at once. The oldest entry there goes
round once more for each time it was read, up to three, and then it goes too. So keys that are read once, as a scan
reads them, pass through without pushing out those that are read often.

Three rules keep the cache within its bytes and every call short:

- An entry is in one queue, once, and what it takes is computed from the key and the value it holds. A queue is a
  mapping: an entry that is discarded leaves no node behind.
- A value that would fill more than the small queue is not kept. So while the cache is over its bytes and the small
  queue is within its own, the main queue has entries: there is always one to evict.
- A call gives a limited number of second chances. Else one call might have to pass by every entry, if all were read,
  and reads by other threads could go on raising the numbers that it lowers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

# What an entry takes, at worst, beside the bytes of its key and value: the objects that hold them, its place in the
# tables of a queue, and a ghost. tests/kv/test_cache.py compares it with what CPython allocates.
ENTRY_BYTES = 512

# Numbers of the paper.
_SMALL_SHARE = 10
_READS_TO_MOVE_ON = 2
_READS_MAX = 3

# Second chances that a call may give; that many take a millisecond or two. Few calls need more than a handful.
_CHANCES = 4096


class Entry:
    """A value, how often it was read since it was last looked at, and how many writes of its key are under way."""

    __slots__ = ("reads", "value", "writes")

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.reads = 0
        self.writes = 0


Written = dict[bytes, tuple[Entry, bytes]]
"""Entries of keys that are being written, and their new values."""


class Cache:
    """The most useful of the values that were put in, as far as they fit.

    Any thread may call `get` at any time; while another call is under way it may miss what is there. The other calls
    change the queues: whoever makes them holds a lock.

    Parameters
    ----------
    budget_bytes : int
        Most bytes that keys, values and the objects around them take after each call; 0 keeps nothing.

    Attributes
    ----------
    budget : int
        Those bytes.
    hits, misses : int
        Calls of `get` that found a value, and that did not.
    evictions : int
        Entries that had to make room for others.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget = budget_bytes
        self._small_budget = budget_bytes // _SMALL_SHARE
        self._small: OrderedDict[bytes, Entry] = OrderedDict()
        self._main: OrderedDict[bytes, Entry] = OrderedDict()
        # Hashes of keys, each with True; never more than there are entries.
        self._ghosts: OrderedDict[int, bool] = OrderedDict()
        self._small_bytes = 0
        self._main_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __contains__(self, key: bytes) -> bool:
        return key in self._main or key in self._small

    @property
    def nbytes(self) -> int:
        """Bytes that the entries take, `ENTRY_BYTES` for each included."""
        return self._small_bytes + self._main_bytes

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None when it is not here."""
        entry = self._main.get(key)
        if entry is None:
            entry = self._small.get(key)
        if entry is None or entry.writes:
            self.misses += 1
            return None
        self.hits += 1
        if entry.reads < _READS_MAX:
            entry.reads += 1
        return entry.value

    def get_each(self, keys: Collection[bytes]) -> list[bytes | None]:
        """Return the value of each key, as `get` does."""
        main, small = self._main, self._small
        values: list[bytes | None] = []
        misses = 0
        for key in keys:
            entry = main.get(key) or small.get(key)
            if entry is None or entry.writes:
                misses += 1
                values.append(None)
                continue
            if entry.reads < _READS_MAX:
                entry.reads += 1
            values.append(entry.value)
        self.hits += len(values) - misses
        self.misses += misses
        return values

    def put(self, key: bytes, value: bytes) -> None:
        """Keep the value of a key, in place of the one it had; not if it would fill more than the small queue."""
        nbytes = len(key) + len(value) + ENTRY_BYTES
        if nbytes > self._small_budget:
            self.discard(key)
        elif (entry := self._main.get(key)) is not None:
            self._main_bytes += len(value) - len(entry.value)
            entry.value = value
        elif (entry := self._small.get(key)) is not None:
            self._small_bytes += len(value) - len(entry.value)
            entry.value = value
        elif self._ghosts.pop(hash(key), False):
            self._main[key] = Entry(value)
            self._main_bytes += nbytes
        else:
            self._small[key] = Entry(value)
            self._small_bytes += nbytes
        if self._small_bytes + self._main_bytes > self.budget:
            self._evict()

    def discard(self, key: bytes) -> None:
        """Forget the value of a key, if it is here."""
        if (entry := self._main.pop(key, None)) is not None:
            self._main_bytes -= len(key) + len(entry.value) + ENTRY_BYTES
        elif (entry := self._small.pop(key, None)) is not None:
            self._small_bytes -= len(key) + len(entry.value) + ENTRY_BYTES
        else:
            return
        self._trim_ghosts()

    def withdraw(self, items: Mapping[bytes, bytes]) -> Written:
        """Hide the values of those of the keys that are here, which are being written; give the result to `renew`."""
        main, small = self._main, self._small
        written: Written = {}
        for key, value in items.items() if main or small else ():
            entry = main.get(key) or small.get(key)
            if entry is not None:
                entry.writes += 1
                written[key] = (entry, value)
        return written

    def renew(self, written: Written) -> None:
        """Show the values that were written, but for keys that are being written again.

        Entries may have been evicted meanwhile: then this is all the same to everybody.
        """
        for key, (entry, value) in written.items():
            entry.writes -= 1
            if entry.writes:
                continue
            if len(value) == len(entry.value):
                entry.value = value
            elif self._main.get(key) is entry or self._small.get(key) is entry:
                self.put(key, value)

    def clear(self) -> None:
        """Forget everything but the counts."""
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self._small_bytes = 0
        self._main_bytes = 0

    def _evict(self) -> None:
        """Come back to the budget, from the small queue if that is over its share, else from the main one."""
        chances = _CHANCES
        while self._small_bytes + self._main_bytes > self.budget:
            if self._small_bytes > self._small_budget:
                key, entry = self._small.popitem(last=False)
                nbytes = len(key) + len(entry.value) + ENTRY_BYTES
                self._small_bytes -= nbytes
                stays, reads = entry.reads >= _READS_TO_MOVE_ON, 0
                if not stays:
                    self._ghosts[hash(key)] = True
            else:
                key, entry = self._main.popitem(last=False)
                nbytes = len(key) + len(entry.value) + ENTRY_BYTES
                self._main_bytes -= nbytes
                stays, reads = entry.reads > 0, entry.reads - 1
            if stays and chances:
                chances -= 1
                entry.reads = reads
                self._main[key] = entry
                self._main_bytes += nbytes
            else:
                self.evictions += 1
        self._trim_ghosts()

    def _trim_ghosts(self) -> None:
        for _ in range(len(self._ghosts) - len(self._small) - len(self._main)):
            self._ghosts.popitem(last=False)
