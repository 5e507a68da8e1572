"""Sorted bounded pools of (distance, row) packed in one int64 each, nearest first.

A key is ``order(distance) << 32 | row << 1 | flag``: `order` maps float32 to int32 and keeps its order, so one integer
comparison ranks by distance and then by row. The flag marks an expanded row in a walk. Rows fit 31 bits.
"""

from __future__ import annotations

from typing import Any

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
