"""Batches of values on their way into a log: their bytes, the hashes of their keys, and where each record will be.

What a batch is, `skeg.kv.format` says. A store that is being filled spends most of its time here and in
`skeg.kv.index`, so many records are made by few calls: of NumPy, and by a kernel once that is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat
from typing import Any, NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from skeg.kv import format as fmt
from skeg.kv.entries import KeyHash

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

# From so many members on a call of the kernel pays.
KERNEL_MEMBERS = 8

_BLANK = bytes(fmt.RECORD_BYTES)
_PADDING = [bytes(-n % fmt.ALIGNMENT) for n in range(fmt.ALIGNMENT)]


@attrs.frozen(eq=False)
class Batch:
    """Pairs to be written as one record.

    Parameters
    ----------
    items : dict
        Keys and values, within the limits of the format.
    klens, vlens : ndarray (n,) int64
        Bytes of each key and value.
    sizes : ndarray (n,) int64
        Bytes of each record with its padding.
    nbytes : int
        Bytes of the whole batch.
    """

    items: dict[bytes, bytes]
    klens: I64
    vlens: I64
    sizes: I64
    nbytes: int

    @classmethod
    def of(cls, items: dict[bytes, bytes]) -> Batch:
        """Count the bytes of some pairs."""
        n = len(items)
        klens = np.fromiter(map(len, items), np.int64, n)
        vlens = np.fromiter(map(len, items.values()), np.int64, n)
        sizes = (klens + vlens + (fmt.RECORD_BYTES + fmt.ALIGNMENT - 1)) & -fmt.ALIGNMENT
        return cls(items, klens, vlens, sizes, fmt.RECORD_BYTES + int(sizes.sum()))

    def __len__(self) -> int:
        return len(self.items)

    def offsets(self, offset: int) -> I64:
        """Where in the segment each member stands, if the batch stands at `offset`."""
        starts: I64 = np.cumsum(self.sizes)
        starts += offset + fmt.RECORD_BYTES
        starts -= self.sizes
        return starts


class Packed(NamedTuple):
    """The bytes of a batch, and the hashes of its keys."""

    data: bytes
    hashes: U64


class Packer:
    """Turns batches into bytes.

    Parameters
    ----------
    keys : KeyHash
        The store's hashes.
    """

    def __init__(self, keys: KeyHash) -> None:
        self._keys = keys
        self._kernel: Callable[..., Any] | None = None

    def use_kernels(self) -> None:
        """From now on use Numba, which this loads, or compiles the kernel: a second, or some."""
        from skeg.kv.kernels.pack import pack_values
        from skeg.kv.kernels.xxh3 import secret_words

        secrets = np.stack([secret_words(seed) for seed in (0, self._keys.seed)])
        mask = np.uint64(self._keys.mask)

        def kernel(batch: Batch, place: int, offset: int, seq: int, durable: int) -> Packed:
            keys, values = (np.frombuffer(b"".join(part), np.uint8) for part in (batch.items, batch.items.values()))
            data, hashes = np.empty(batch.nbytes, np.uint8), np.empty(len(batch), np.uint64)
            numbers = np.uint64(place), offset, np.uint64(seq), np.uint64(durable), mask
            pack_values(keys, values, batch.klens, batch.vlens, *numbers, secrets, data, hashes)
            return Packed(data.tobytes(), hashes)

        kernel(Batch.of({b"": b""}), 0, 0, 0, 0)
        self._kernel = kernel

    def pack(self, batch: Batch, place: int, offset: int, seq: int, durable: int) -> Packed:
        """Return the bytes of a batch, and the hashes of its keys.

        Parameters
        ----------
        batch : Batch
            Of one member or more.
        place : int
            `skeg.kv.format.place_of` the segment.
        offset : int
            Where in the segment it will stand.
        seq : int
            Sequence number of its first member; the others' follow.
        durable : int
            Offset up to which the segment is durable.
        """
        if self._kernel is not None and len(batch) >= KERNEL_MEMBERS:
            packed: Packed = self._kernel(batch, place, offset, seq, durable)
            return packed
        members = pack_members(batch, place, offset, seq)
        hashes = np.array(self._keys.hashes(batch.items), np.uint64)
        return Packed(fmt.pack_batch(place, offset, seq, members, durable), hashes)


def pack_members(batch: Batch, place: int, offset: int, seq: int) -> bytearray:
    """Return the bytes of a batch behind its head: `skeg.kv.format.pack_record` of each pair. Parameters as above."""
    n = len(batch)
    bodies = fmt.RECORD_BYTES + batch.klens + batch.vlens
    padding = map(_PADDING.__getitem__, (bodies & 7).tolist())
    parts = zip(repeat(_BLANK, n), batch.items, batch.items.values(), padding, strict=True)
    members = bytearray().join(chain.from_iterable(parts))
    words = np.frombuffer(members, "<u8")
    starts = batch.offsets(-fmt.RECORD_BYTES)
    at = starts >> 3
    words[at + 1] = (batch.vlens | fmt.VALUE << 30) << 32 | fmt.MEMBER
    words[at + 2] = (np.arange(seq, seq + n) << 16) | batch.klens
    view, digest = memoryview(members), xxh3_64_intdigest
    spans = zip((starts + 8).tolist(), (starts + bodies).tolist(), strict=True)
    sums = np.fromiter([digest(view[begin:end]) for begin, end in spans], np.uint64, n)
    words[at] = sums ^ np.uint64(place) ^ ((starts + (offset + fmt.RECORD_BYTES)) >> 3).astype(np.uint64)
    return members
