"""Listing keys a few at a time, where nobody remembers how far somebody came: the cursor says all.

A cursor is a place in the order of the hashes of keys, shard by shard. A key's hash never changes, whatever is written,
merged or opened again meanwhile, so whoever goes from 0 to 0 meets every key that was there all the time. That the
hashes are seeded makes the order one that nobody can prepare for.

Layout: ``shard << 30 | first 30 bits of the hash``, so that the largest is below 2^38. What lies beyond the last shard
is the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from skeg.durability import Durability
from skeg.errors import CorruptError, StorageError
from skeg.fileops import File, read_all
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.index import HASH_END
from skeg.kv.rounds import Round
from skeg.kv.segments import Segment
from skeg.kv.shard import Shard
from skeg.kv.table import TOP_BITS, TOP_SHIFT

# Homes of the index that are looked at together, with the lock; how often at most in a call that finds little.
_HOMES_MIN, _HOMES_MAX = 16, 512
_STEPS_MAX = 64

# Bytes of a record that are read at first: most keys are no longer than that leaves room for.
_FIRST_BYTES = 192


class _Place(NamedTuple):
    """Where a record is that has to be read."""

    file: File
    segment: Segment
    offset: int
    nbytes: int
    hashed: int


def scan_keys(shards: Sequence[Shard], cursor: int, count: int, prefix: bytes) -> tuple[int, list[bytes]]:
    """Keys behind a cursor, those of `count` or a few more that start with `prefix`, and the cursor behind them.

    Parameters
    ----------
    shards : sequence of Shard
        All shards of a store.
    cursor : int
        0 to begin with, else what an earlier call returned.
    count : int
        Keys to look at.
    prefix : bytes
        What the keys start with.

    Returns
    -------
    cursor, keys
        0 behind the last key; keys without their values.
    """
    number, top = divmod(cursor, 1 << TOP_BITS)
    keys: list[bytes] = []
    for _ in range(_STEPS_MAX):
        if number >= len(shards):
            return 0, _those(keys, prefix)
        if len(keys) >= count:
            break
        homes = min(max(count - len(keys), _HOMES_MIN), _HOMES_MAX)
        some, end = _keys_from(shards[number], top << TOP_SHIFT, homes)
        keys += some
        number, top = (number + 1, 0) if end == HASH_END else (number, end >> TOP_SHIFT)
    return (number << TOP_BITS | top if number < len(shards) else 0), _those(keys, prefix)


def _those(keys: list[bytes], prefix: bytes) -> list[bytes]:
    return [key for key in keys if key.startswith(prefix)]


def _keys_from(shard: Shard, start: int, homes: int) -> tuple[list[bytes], int]:
    """Keys of a shard with a hash from `start` up to where the returned one begins."""
    while True:
        keys, places, end, waiting = _found(shard, start, homes)
        if waiting is not None:
            try:
                shard.log.commit(waiting)
            except StorageError:  # what was seen has been taken back
                continue
        return keys + [_read_key(shard, place) for place in places], end


def _found(shard: Shard, start: int, homes: int) -> tuple[list[bytes], list[_Place], int, Round | None]:
    """Keys that are in memory, places of the others, the end, and the round that makes what was seen durable."""
    keys, places = [], []
    with shard.lock:
        shard.check_open()
        # A key that is not there any more may come back as long as its deletion is not committed.
        seen = {round_ for round_ in shard.log.pending if round_.deleted}
        hashes, locations, end = shard.index.hashed_from(start, homes)
        for hashed, location in zip(hashes.tolist(), locations.tolist(), strict=True):
            number, offset, nbytes = fmt.unpack_location(location)
            segment = shard.folder[number]
            nbytes = nbytes or shard.records.large[location]
            if offset < segment.committed:
                with disk_errors(segment.path, "read"):
                    places.append(_Place(shard.folder.open(segment), segment, offset, nbytes, hashed))
                continue
            data, round_ = shard.log.staged(segment, offset, nbytes)
            keys.append(data[fmt.RECORD_BYTES : _key_end(data)])
            seen.add(round_)
        wanted = [r for r in shard.log.pending if r in seen and r.level is not Durability.NONE]
    return keys, places, end, wanted[-1] if wanted else None


def _read_key(shard: Shard, place: _Place) -> bytes:
    """The key of a record on the disk, without its value: its hash stands in for the checksum, which covers both."""
    with disk_errors(place.segment.path, "read"):
        data = read_all(place.file, min(place.nbytes, _FIRST_BYTES), place.offset)
        end = _key_end(data) if len(data) >= fmt.RECORD_BYTES else place.nbytes
        if len(data) < end <= place.nbytes:
            data = read_all(place.file, end, place.offset)
    key = data[fmt.RECORD_BYTES : end]
    if len(data) < end or shard.keys.hash(key) != place.hashed:
        raise CorruptError(place.segment.path, "record holds another key than it did", offset=place.offset)
    return key


def _key_end(data: bytes) -> int:
    return fmt.RECORD_BYTES + fmt.unpack_head(data).klen
