"""What a segment holds, without the bytes: one row for each record that sets or deletes a key.

Rows are columns of NumPy arrays. A key is known by its *hash* (64 bits, seeded, never 0) and its *check* (32 more
bits of another seed). Together they are taken for the key where its bytes are not at hand: in tombstones and hints. The
seed is random for each store, so two keys of a billion agree in all 96 bits with a probability of 1 in 10^11. Where
values are read or replaced, the key's bytes decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from skeg.kv import format as fmt

# Golden ratio: the seed of the check differs from the seed of the hash in half of its bits.
_CHECK_SEED = 0x9E3779B97F4A7C15
HASH_MASK = 2**64 - 1

COLUMNS: dict[str, Any] = {
    "hash": np.uint64,
    "seq": np.uint64,
    "check": np.uint32,
    "offset": np.uint32,
    "size": np.uint32,
}


@attrs.frozen
class KeyHash:
    """The two hashes of a store.

    Parameters
    ----------
    seed : int
        From the manifest.
    mask : int
        ANDed with every hash; tests force collisions by it.
    """

    seed: int
    mask: int = HASH_MASK

    def hash(self, key: bytes) -> int:
        """Hash of a key, 1 to 2^64 - 1."""
        return xxh3_64_intdigest(key, self.seed) & self.mask or 1

    def hashes(self, keys: Sequence[bytes] | dict[bytes, bytes]) -> list[int]:
        """`hash` of each key."""
        digest, seed, mask = xxh3_64_intdigest, self.seed, self.mask
        return [digest(key, seed) & mask or 1 for key in keys]

    @property
    def check_seed(self) -> int:
        """Seed of the checks."""
        return self.seed ^ _CHECK_SEED

    def check(self, key: bytes) -> int:
        """Check of a key, 32 bits."""
        return xxh3_64_intdigest(key, self.seed ^ _CHECK_SEED) & 0xFFFFFFFF

    def tombstone_key(self, key: bytes) -> bytes:
        """What a tombstone holds in place of the key."""
        return fmt.TOMBSTONE_KEY.pack(self.hash(key), self.check(key))


Row = tuple[int, int, int, int, int]
"""Values of one row, in the order of `COLUMNS`."""

# Rows turned into arrays at a time: while that is done no other thread can run.
_ROWS_AT_A_TIME = 1024


@attrs.frozen(eq=False)
class Entries:
    """Rows of one segment, or of several.

    Parameters
    ----------
    hash, check : ndarray (n,) uint64 and uint32
        Who the key is.
    seq : ndarray (n,) uint64
        Sequence numbers.
    offset : ndarray (n,) uint32
        Where the record starts in its segment, in units of 8 bytes.
    size : ndarray (n,) uint32
        Bytes of the record in units of 8, 0 for a tombstone.
    """

    hash: NDArray[np.uint64]
    seq: NDArray[np.uint64]
    check: NDArray[np.uint32]
    offset: NDArray[np.uint32]
    size: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.hash)

    def __getitem__(self, rows: Any) -> Entries:
        return Entries(*(getattr(self, name)[rows] for name in COLUMNS))

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> Entries:
        """A few rows."""
        return cls.of_numbers(list(chain.from_iterable(rows)))

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Entries:
        """The rows whose values these are, one row after the other."""
        table = np.array(numbers, np.uint64).reshape(-1, len(COLUMNS))
        return cls(*(table[:, i].astype(kind) for i, kind in enumerate(COLUMNS.values())))

    @classmethod
    def join(cls, parts: Sequence[Entries]) -> Entries:
        """The rows of all `parts`, in order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of_rows([])
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))

    def grouped(self) -> Entries:
        """The rows ordered by the first 16 bits of their hashes, which takes a tenth of the time of ordering them."""
        return self[np.argsort((self.hash >> np.uint64(48)).astype(np.uint16), kind="stable")]

    def newest(self) -> Entries:
        """The row of the highest sequence number for each key, ordered by hash."""
        return self[newest_rows(self.hash, self.check, self.seq)]

    @property
    def nbytes(self) -> int:
        """Bytes of the records, tombstones included."""
        return 8 * int(self.size.sum(dtype=np.int64)) + self.tombstone_bytes

    @property
    def tombstone_bytes(self) -> int:
        """Bytes of the tombstones."""
        return fmt.TOMBSTONE_BYTES * int((self.size == 0).sum())

    def locations(self, segment: int) -> NDArray[np.uint64]:
        """Where each record is, as `skeg.kv.format.pack_location` says; 0 for tombstones. All are in one segment."""
        return np.where(self.size == 0, np.uint64(0), fmt.pack_locations(segment, self.offset, self.size))


class Rows:
    """Rows that are added one by one.

    They are kept as bare numbers. A tuple for each would make Python's garbage collector look at every object of the
    process again and again, and nothing else can run meanwhile (50 ms, where Numba is loaded).
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._parts: list[Entries] = []

    def add(self, row: Row) -> None:
        """Add one."""
        self._numbers += row
        if len(self._numbers) == _ROWS_AT_A_TIME * len(COLUMNS):
            self._parts.append(Entries.of_numbers(self._numbers))
            self._numbers = []

    def entries(self) -> Entries:
        """All that were added, in order."""
        return Entries.join([*self._parts, Entries.of_numbers(self._numbers)])


def newest_rows(hashes: NDArray[np.uint64], checks: NDArray[np.uint32], seqs: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Numbers of the rows that have the highest sequence number of their key, ordered by hash.

    Parameters
    ----------
    hashes, checks, seqs : ndarray (n,)
        Columns of `Entries`. Rows of one key and one number are copies of each other: one of them is taken.
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    alike = ordered[1:] == ordered[:-1]
    if not alike.any():
        return order
    # Most keys have one row. Those that share their hash with others are ordered by key and sequence number.
    shared = np.zeros(len(order), bool)
    shared[1:] = alike
    shared[:-1] |= alike
    rows = order[shared]
    rows = rows[np.lexsort((seqs[rows], checks[rows], hashes[rows]))]
    last = np.ones(len(rows), bool)
    last[:-1] = (hashes[rows[1:]] != hashes[rows[:-1]]) | (checks[rows[1:]] != checks[rows[:-1]])
    found = np.concatenate([order[~shared], rows[last]])
    return found[np.argsort(hashes[found], kind="stable")]
