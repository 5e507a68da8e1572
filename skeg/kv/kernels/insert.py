"""Many entries of the tables of `skeg.kv.index` at a time: its loops `insert_new` and `replace_many`, by far quicker.

Tables are objects of Python, each with memory of its own, so these kernels are given addresses and follow them. Unlike
the other kernels these have no form without the JIT, which has no addresses; there the index uses its own loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.jit import kernel
from skeg.kv.kernels.intrinsics import load8, load64, store8, store64

# What a table is, as eight numbers of 64 bits: `skeg.kv.index` writes them.
PAIRS, TAGS, HOMES, MASK, SHIFT, LIMIT, LAST, USED, FROZEN = range(9)
ROW_WORDS = 9

_TOP_SHIFT = np.uint64(34)
_ONE = np.uint64(1)


@kernel(inline=True)
def _word(row: Any, i: Any) -> Any:
    return load64(row + np.uint64(8 * i))


@kernel()
def insert_new(
    hashes: Any, locations: Any, start: Any, directory: Any, directory_shift: Any, present: Any, there: Any, count: Any
) -> Any:
    """Add the entries whose hash has none yet, from `start` on, until a table needs attention.

    Parameters
    ----------
    hashes, locations : array (n,) uint64
        The entries.
    start : int
        Position of the first.
    directory : array uint64
        Address of the row of each table, by the first bits of the hash.
    directory_shift : uint64
        How far the first 30 bits of a hash are shifted to give its number in `directory`.
    present : array (n,) int64
        Filled with the positions of hashes that were there.
    there : array (n,) uint64
        Filled with the location of each of them, 0 if it has several.
    count : int
        How many `present` has already.

    Returns
    -------
    next : int
        Position to go on from, n when all are done.
    count : int
        How many `present` has now.
    attention : int
        Position of an entry whose table is frozen (then it is not in yet) or has become full; -1 if none.
    """
    for at in range(start, hashes.shape[0]):
        key_hash = hashes[at]
        top = key_hash >> _TOP_SHIFT
        row = directory[np.int64(top >> directory_shift)]
        if _word(row, FROZEN) != 0:
            return at, count, at
        tags, pairs = _word(row, TAGS), _word(row, PAIRS)
        tag = max(key_hash & np.uint64(255), _ONE)
        slot = ((top & _word(row, MASK)) * _word(row, HOMES)) >> _word(row, SHIFT)
        found = load8(tags + slot)
        known, location = 0, np.uint64(0)
        while found != 0:
            if found == tag and load64(pairs + slot * np.uint64(16)) == key_hash:
                known += 1
                location = load64(pairs + slot * np.uint64(16) + np.uint64(8))
            slot += _ONE
            found = load8(tags + slot)
        if known:
            present[count] = at
            there[count] = location if known == 1 else np.uint64(0)
            count += 1
            continue
        store64(pairs + slot * np.uint64(16), key_hash)
        store64(pairs + slot * np.uint64(16) + np.uint64(8), locations[at])
        store8(tags + slot, tag)
        used = _word(row, USED) + _ONE
        store64(row + np.uint64(8 * USED), used)
        if used >= _word(row, LIMIT) or slot >= _word(row, LAST):
            return at + 1, count, at
    return hashes.shape[0], count, -1


@kernel()
def replace_many(hashes: Any, olds: Any, news: Any, directory: Any, directory_shift: Any) -> None:
    """Set the location of the entries ``(hashes[i], olds[i])`` to ``news[i]``; those that are not there stay away.

    hashes, olds, news uint64 (n,); directory and directory_shift as above, of tables none of which is frozen.
    """
    for i in range(hashes.shape[0]):
        key_hash = hashes[i]
        top = key_hash >> _TOP_SHIFT
        row = directory[np.int64(top >> directory_shift)]
        tags, pairs = _word(row, TAGS), _word(row, PAIRS)
        slot = ((top & _word(row, MASK)) * _word(row, HOMES)) >> _word(row, SHIFT)
        while load8(tags + slot) != 0:
            pair = pairs + slot * np.uint64(16)
            if load64(pair) == key_hash and load64(pair + np.uint64(8)) == olds[i]:
                store64(pair + np.uint64(8), news[i])
                break
            slot += _ONE
