"""One table of the index in memory (`skeg.kv.index`): slots of hash, location and tag.

Linear probing (Knuth, TAOCP 6.4, algorithm L): a hash is at its *home*, which the bits after the table's own
choose, or behind it with no empty slot between. There is no wrapping around: some slots stand behind the last
home, and the very last one stays empty. What is compared while probing is the tags, in a bytearray of their own: 0
for an empty slot, else taken from the hash's last byte. So `bytearray.find`, which is `memchr`, does all probing at
once, however long the run of slots is, and the interpreter looks at about one slot a call. A removed slot keeps its
tag, to hold its run together, and has hash and location 0, until its table is laid out anew.
"""

from __future__ import annotations

from copy import copy

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

# Directory and homes are chosen by the first 30 bits, with which Python computes fastest. Cursors that others hold are
# made of them (`skeg.kv.cursor`).
TOP_BITS = 30
TOP_SHIFT = 64 - TOP_BITS

# Places in a table's row of what changes; the kernel knows the others.
USED, _FROZEN = 7, 8

_NO_ROW = np.empty(0, np.uint64).data

# Hash and location as one item.
_PAIR = np.dtype("V16")

# A table is laid out with 71 % of its homes' slots in use, and anew at 92 %.
FILL, _FULL = 0.71, 0.92
_HOMES_MIN, HOMES_MAX = 48, 1 << 14


class Table:
    """The slots of all hashes that start with the same `depth` bits, laid out from an array of its entries.

    Attributes
    ----------
    depth : int
        How many bits the hashes share.
    homes, mask, shift : int
        ``(top & mask) * homes >> shift`` is the home of a hash whose first 30 bits are `top`.
    pairs : array of uint64, shape (slots, 2)
        Hash and location of each slot.
    slots : memoryview
        The same memory, flat: what scalar code reads and writes.
    tags : bytearray
        One byte a slot, 0 where it is empty.
    used, dead, limit : int
        Slots that aren't empty; those of them that were removed; how many may be used.
    last : int
        The last slot that may be used; then the table has to be laid out anew.
    frozen : bool
        A snapshot has this table: it must not change any more.
    address, row : int, memoryview
        What `skeg.kv.kernels.insert` has to know, and where that is; 0 and nothing until `tell` was called.
    """

    __slots__ = (
        "address",
        "dead",
        "depth",
        "frozen",
        "homes",
        "last",
        "limit",
        "mask",
        "pairs",
        "row",
        "shift",
        "slots",
        "tags",
        "used",
    )

    def __init__(self, entries: U64, depth: int) -> None:
        count = len(entries)
        self.depth = depth
        self.homes = homes = min(max(int(count / FILL), _HOMES_MIN), HOMES_MAX)
        self.shift = TOP_BITS - depth
        self.mask = (1 << self.shift) - 1
        # Sorted by home, each entry stands at its home or right behind its predecessor. Homes fit 16 bits, for which
        # NumPy's stable sort is a radix sort.
        unsorted = (((entries[:, 0] >> TOP_SHIFT) & self.mask) * homes >> self.shift).astype(np.uint16)
        order = slice(None) if (unsorted[1:] >= unsorted[:-1]).all() else unsorted.argsort(kind="stable")
        steps = np.arange(count)
        places = np.maximum.accumulate(unsorted[order] - steps) + steps
        # Slots behind the last home: what is needed now and as much again, however unevenly hashes are spread.
        overhang = max(0, int(places[-1]) + 1 - homes) if count else 0
        length = homes + 2 * overhang + 16 + homes // 128
        self.pairs = np.zeros((length, 2), np.uint64)
        # Items of 16 bytes are moved faster than rows of two.
        self.pairs.view(_PAIR)[places] = entries.view(_PAIR)[order]
        self.slots = self.pairs.reshape(-1).data
        self.tags = bytearray(length)
        np.frombuffer(self.tags, np.uint8)[places] = np.maximum(self.pairs[places, 0] & 255, 1)
        self.used, self.dead, self.frozen = count, 0, False
        self.limit = int(max(homes, count / FILL) * _FULL)
        self.last = length - 2
        self.address, self.row = 0, _NO_ROW

    def copy(self) -> Table:
        """Return a table of its own memory that may be changed."""
        twin = copy(self)
        twin.pairs = self.pairs.copy()
        twin.slots = twin.pairs.reshape(-1).data
        twin.tags = bytearray(self.tags)
        twin.frozen = False
        twin.address, twin.row = 0, _NO_ROW
        return twin

    def tell(self) -> int:
        """Write down for the kernel what it has to know; where that is."""
        if self.address == 0:
            tags = np.frombuffer(self.tags, np.uint8)
            where = [array.__array_interface__["data"][0] for array in (self.pairs, tags)]
            numbers = [*where, self.homes, self.mask, self.shift, self.limit, self.last, 0, 0]
            row = np.array(numbers, np.uint64)
            self.address, self.row = row.__array_interface__["data"][0], row.data
        self.row[USED], self.row[_FROZEN] = self.used, self.frozen
        return self.address

    def entries(self, wanted: npt.NDArray[np.bool_] | None = None) -> U64:
        """Return hash and location of each entry, or of the slots that a mask says: shape (n, 2), in no order."""
        return self.pairs.take(np.flatnonzero(self.pairs[:, 1] if wanted is None else wanted), 0)

    def home(self, key_hash: int) -> int:
        """Return the slot where probing for a hash starts."""
        return ((key_hash >> TOP_SHIFT) & self.mask) * self.homes >> self.shift

    def places(self, key_hash: int) -> list[int]:
        """Return where in `slots` the entries of a hash are; each location is one further."""
        tags, slots = self.tags, self.slots
        tag = key_hash & 255 or 1
        found = []
        slot = self.home(key_hash)
        end = tags.find(0, slot)
        while (slot := tags.find(tag, slot, end)) >= 0:
            if slots[slot + slot] == key_hash:
                found.append(slot + slot)
            slot += 1
        return found

    def place(self, key_hash: int, location: int) -> int:
        """Return where in `slots` an entry is, -1 if nowhere."""
        slots = self.slots
        # Nearly always the first slot with the tag. Where there is none, -1 leads to the very last slot, an empty one.
        slot = self.tags.find(key_hash & 255 or 1, self.home(key_hash))
        if slots[slot + slot] == key_hash and slots[slot + slot + 1] == location:
            return slot + slot
        for place in self.places(key_hash):
            if slots[place + 1] == location:
                return place
        return -1

    def hashed_from(self, start: int, homes: int) -> tuple[U64, int]:
        """Return the entries of a range of hashes from `start` on, at home at so many homes, and the hash behind it."""
        end = end_of(self, start)
        first = self.home(start)
        last = min(first + homes, self.homes)
        if last < self.homes:
            # The lowest hash at home at `last`.
            end += (-(-(last << self.shift) // self.homes) - (1 << self.shift)) << TOP_SHIFT
        pairs = self.pairs[first : self.tags.find(0, last - 1)]
        hashes = pairs[:, 0]
        # The hash of a slot that is empty, or was removed, is 0, and no key's is.
        return pairs[(hashes >= np.uint64(max(start, 1))) & (hashes <= np.uint64(end - 1))], end

    def nbytes(self) -> int:
        """Bytes of the slots, and of the objects around them."""
        return 17 * len(self.tags) + 600


def end_of(table: Table, key_hash: int) -> int:
    """Return the first hash behind those of a table that has `key_hash`."""
    shift = 64 - table.depth
    return ((key_hash >> shift) + 1) << shift
