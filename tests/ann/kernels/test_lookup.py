"""Rows by id."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.lookup import find_rows
from tests import reference

pytestmark = pytest.mark.kernels


def found(ids, order, wanted):
    rows = np.full(len(wanted), 77, np.int64)
    return find_rows(ids, order, np.array(wanted, np.uint64), rows), rows.tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 17, 40])
def test_rows_are_found_by_id(rng, n):
    ids = np.unique(rng.integers(0, 2**64 - 1, n, dtype=np.uint64))
    ids = rng.permutation(ids)
    wanted = [0, 2**64 - 1, *ids.tolist(), *(ids + np.uint64(1)).tolist(), *ids[:1].tolist()]
    expected = reference.find_rows(ids, wanted)
    assert (sum(row >= 0 for row in expected), expected) == found(ids, np.argsort(ids).astype(np.uint32), wanted)


def test_no_ids_wanted():
    assert (0, []) == found(np.array([5], np.uint64), np.zeros(1, np.uint32), [])


def test_a_damaged_order_gives_rows_that_exist_and_hold_the_id_or_none(rng):
    ids = (np.arange(20) * 3).astype(np.uint64)
    for _ in range(50):
        order = np.arange(20, dtype=np.uint32)
        order[rng.integers(20, size=4)] = rng.choice([0, 19, 20, 2**31, 2**32 - 1], 4)
        _, rows = found(ids, order, range(60))
        for wanted, row in enumerate(rows):
            assert row == -1 or ids[row] == wanted
