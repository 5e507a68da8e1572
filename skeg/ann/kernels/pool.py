"""Sorted bounded pools of (distance, row) packed in one int64 each, nearest first.

A key is ``order(distance) << 32 | row << 1 | flag``: `order` maps float32 to int32 and keeps its order, so one integer
comparison ranks by distance and then by row. The flag marks an expanded row in a walk. Rows fit 31 bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skeg.ann.kernels.simd import insert_sorted
from skeg.jit import kernel

PAST_EVERY_KEY = np.int64(0x7FFFFFFFFFFFFFFF)
"""Larger than every key: 'the pool is not full yet'."""


@kernel(inline=True)
def pack(distance: Any, row: Any) -> Any:
    """Key of a row that is not expanded; ``distance`` is float32 and not NaN."""
    bits = np.int64(np.float32(distance).view(np.int32))
    bits ^= (bits >> np.int64(31)) & np.int64(0x7FFFFFFF)
    return (bits << np.int64(32)) | (np.int64(row) << np.int64(1))


@kernel(inline=True)
def row_of(key: Any) -> Any:
    """The row packed in a key."""
    return (key >> np.int64(1)) & np.int64(0x7FFFFFFF)


@kernel(inline=True)
def distance_of(key: Any) -> Any:
    """The float32 distance packed in a key."""
    bits = key >> np.int64(32)
    bits ^= (bits >> np.int64(31)) & np.int64(0x7FFFFFFF)
    return np.int32(bits).view(np.float32)


@kernel(inline=True)
def insert(pool: Any, size: Any, capacity: Any, key: Any) -> Any:
    """Insert a key and drop the last one of a full pool; gives the key's place.

    Requires ``pool.size >= capacity`` and, for a full pool, ``key < pool[capacity - 1]``.
    """
    return insert_sorted(pool, size if size < capacity else capacity - 1, key)


class Bounds(NamedTuple):
    """How much a walk keeps and does, beside what the query itself decides.

    capacity: keys that the pool keeps; n_expand: keys at its head that are expanded; margin float32: how far, in
    distance, behind the k-th key of the pool one is still expanded; slack float32: how far behind it one still joins
    the pool, if that is farther. Infinite ones bound nothing.
    """

    capacity: Any
    n_expand: Any
    k: Any
    margin: Any
    slack: Any


@kernel(inline=True)
def key_within(pool: Any, size: Any, k: Any, reach: Any) -> Any:
    """The largest key of the distance ``reach`` behind the k-th in the pool; `PAST_EVERY_KEY` if fewer than k are."""
    if size < k or reach == np.float32(np.inf):
        return PAST_EVERY_KEY
    return pack(distance_of(pool[k - 1]) + reach, 0) | np.int64(0xFFFFFFFF)


@kernel(inline=True)
def bar_of(pool: Any, size: Any, bounds: Any) -> Any:
    """Only smaller keys join the pool."""
    reach = key_within(pool, size, bounds[2], max(bounds[3], bounds[4]))
    return min(reach, pool[size - 1]) if size == bounds[0] else reach


@kernel(inline=True)
def join(pool: Any, size: Any, bounds: Any, key: Any) -> Any:
    """Insert a key smaller than the bar; gives the pool's size, the new bar and the key's place.

    Keys that have come to lie beyond the reach of the k-th leave: nobody will look at them, a short pool is quicker.
    """
    place = insert(pool, size, bounds[0], key)
    size = min(size + 1, bounds[0])
    last = key_within(pool, size, bounds[2], max(bounds[3], bounds[4]))
    while pool[size - 1] > last:
        size -= 1
    return size, min(last, pool[size - 1]) if size == bounds[0] else last, place
