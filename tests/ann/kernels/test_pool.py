"""Packed keys and sorted bounded pools."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.pool import PAST_EVERY_KEY, distance_of, insert, pack, row_of
from tests import reference

pytestmark = pytest.mark.kernels

DISTANCES = [-np.inf, -3e38, -2.5, -1e-30, -1e-45, 0.0, 1e-45, 1e-30, 0.5, 2.5, 3e38, np.inf]
ROWS = [0, 1, 12345, 2**31 - 1]


def test_keys_give_back_distance_and_row():
    for distance in DISTANCES:
        for row in ROWS:
            key = pack(np.float32(distance), np.int64(row))
            assert reference.pack(distance, row) == key
            assert np.float32(distance) == distance_of(key)
            assert row == row_of(key)
            assert row == row_of(key | 1), "the flag is no part of the row"
            assert key < PAST_EVERY_KEY


def test_keys_sort_by_distance_and_then_by_row():
    keys = [int(pack(np.float32(d), np.int64(r))) for d in DISTANCES for r in ROWS]
    assert sorted(keys) == keys
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("capacity", [1, 2, 3, 16, 17, 64])
def test_insertions_keep_the_smallest_keys_sorted(rng, capacity):
    pool = np.full(capacity + 1, -1, np.int64)
    offered = []
    size = 0
    for key in rng.permutation(100)[:80].tolist():
        if size < capacity or key < pool[capacity - 1]:
            place = insert(pool, np.int64(size), np.int64(capacity), np.int64(key))
            size = min(size + 1, capacity)
            assert key == pool[place]
        offered.append(key)
        assert sorted(offered)[:capacity] == pool[:size].tolist()
    assert pool[capacity] == -1, "nothing is written past the capacity"
