"""Which shard of a database a vector belongs to: XXH3-64 of its id, as 8 little-endian bytes, modulo their number.

The hash has no seed: clients of a server may compute it too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

# Of XXH3-64 for inputs of 8 bytes (xxHash 0.8, `XXH3_len_4to8_64b`): what 16 bytes of the default secret come to, and
# the multiplier of the mixing at the end.
_SECRET = np.uint64(0xC73AB174C5ECD5A2)
_MULTIPLIER = np.uint64(0x9FB21C651E98DF25)
_NBYTES = np.uint64(8)


def shard_of(vector_id: int, shards: int) -> int:
    """The shard of one id."""
    return 0 if shards == 1 else xxh3_64_intdigest(vector_id.to_bytes(8, "little")) % shards


def shards_of(ids: npt.NDArray[np.uint64], shards: int) -> npt.NDArray[np.int64]:
    """The shard of each id (n,)."""
    if shards == 1:
        return np.zeros(len(ids), np.int64)
    numbers: npt.NDArray[np.int64] = (_hashes(ids) % np.uint64(shards)).astype(np.int64)
    return numbers


def _hashes(ids: npt.NDArray[np.uint64]) -> Any:
    """XXH3-64 of each id, without a call for each."""
    x = _rotated(ids, 32) ^ _SECRET
    x = x ^ _rotated(x, 49) ^ _rotated(x, 24)
    x = x * _MULTIPLIER
    x = x ^ ((x >> np.uint64(35)) + _NBYTES)
    x = x * _MULTIPLIER
    return x ^ (x >> np.uint64(28))


def _rotated(x: Any, bits: int) -> Any:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))
