"""Records that no longer count, one by one and many at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from skeg.kv import format as fmt
from skeg.kv.records import _COUNTED_ALONE, Records


def records_of(numbers):
    folder = {number: SimpleNamespace(dead=0) for number in numbers}
    return folder, Records(folder, None, None, {})


@pytest.mark.parametrize("count", [0, 1, _COUNTED_ALONE - 1, _COUNTED_ALONE, 1000])
@pytest.mark.parametrize("large_every", [0, 3, 400])
def test_many_are_counted_as_one_after_the_other(count, large_every):
    rng = np.random.default_rng(count)
    numbers = [1, 2, 70_000, fmt.SEGMENT_MAX]
    folder, records = records_of(numbers)
    expected = dict.fromkeys(numbers, 0)
    locations, sizes = [], []
    for i in range(count):
        number = int(rng.choice(numbers))
        is_large = large_every and i % large_every == 0
        nbytes = fmt.LARGE_BYTES + 8 * i if is_large else int(rng.integers(3, fmt.SIZE_MASK)) << 3
        locations.append(fmt.pack_location(number, fmt.HEADER_BYTES + 8 * i, nbytes))
        sizes.append(nbytes)
        expected[number] += nbytes
    array = np.array(locations, np.uint64)
    if count:
        records.note_large(array, np.array(sizes, np.int64))
    records.count_dead_many(array)
    assert expected == {number: segment.dead for number, segment in folder.items()}
    for location in locations:
        records.count_dead(location, -1)
    assert {0} == {segment.dead for segment in folder.values()}


def test_no_record_counts_nothing():
    folder, records = records_of([1])
    records.count_dead(0)
    assert folder[1].dead == 0
