"""Rows of segments: hashes of keys, which row is the newest, where records are."""

from __future__ import annotations

import gc
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from skeg.kv import entries as module
from skeg.kv import format as fmt
from skeg.kv.entries import COLUMNS, Entries, KeyHash, Rows, newest_rows

# Few values, so that keys collide: in the hash alone, in the check alone, in both.
FEW = st.tuples(st.integers(1, 4), st.integers(0, 30), st.integers(0, 2), st.integers(8, 2**26 - 1), st.integers(0, 9))
ANY = st.tuples(
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**48 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(8, 2**26 - 1),
    st.integers(0, 2**27),
)


def rows_of(entries: Entries) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(entries, name).tolist() for name in COLUMNS), strict=True))


# Hashes


@given(key=st.binary(max_size=50), seed=st.integers(0, 2**64 - 1))
def test_a_key_is_known_by_two_hashes_of_the_secret_seed(key, seed):
    keys = KeyHash(seed)
    assert (xxh3_64_intdigest(key, seed) or 1) == keys.hash(key)
    assert xxh3_64_intdigest(key, seed ^ 0x9E3779B97F4A7C15) % 2**32 == keys.check(key)
    assert struct.pack("<QI", keys.hash(key), keys.check(key)) == keys.tombstone_key(key)
    assert seed ^ 0x9E3779B97F4A7C15 == keys.check_seed


@pytest.mark.parametrize("mask", [0, 1, 255, 2**64 - 1])
def test_no_hash_is_zero_whatever_the_mask(mask):
    keys = KeyHash(5, mask)
    names = [b"%d" % i for i in range(1000)]
    hashes = keys.hashes(names)
    assert [keys.hash(name) for name in names] == hashes
    assert hashes == keys.hashes(dict.fromkeys(names, b""))
    assert 1 <= min(hashes) <= max(hashes) <= max(1, mask)
    assert len(set(map(keys.check, names))) == 1000


# The newest row of each key


def newest_twin(rows: list[tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """Highest sequence number of each key."""
    newest: dict[tuple[int, int], int] = {}
    for hashed, seq, check, *_ in rows:
        newest[hashed, check] = max(seq, newest.get((hashed, check), 0))
    return newest


@given(rows=st.lists(FEW, max_size=40) | st.lists(ANY, max_size=40) | st.lists(FEW | ANY, max_size=40))
def test_each_key_has_the_row_with_the_highest_number(rows):
    entries = Entries.of_rows(rows)
    taken = newest_rows(entries.hash, entries.check, entries.seq).tolist()
    assert newest_twin(rows) == {(rows[i][0], rows[i][2]): rows[i][1] for i in taken}
    assert len(newest_twin(rows)) == len(taken)
    assert sorted(rows[i][0] for i in taken) == [rows[i][0] for i in taken]
    assert [rows[i] for i in taken] == rows_of(entries.newest())


@given(rows=st.lists(FEW, max_size=20, unique_by=lambda row: row[:3]), copies=st.lists(st.integers(0, 99), max_size=20))
def test_copies_of_a_row_change_nothing(rows, copies):
    """A compaction that was cut off leaves the same record in two segments."""
    again = rows + [rows[i % len(rows)] for i in copies if rows]
    assert sorted(rows_of(Entries.of_rows(rows).newest())) == sorted(rows_of(Entries.of_rows(again).newest()))


@given(rows=st.lists(FEW, max_size=20), order=st.randoms())
def test_the_order_of_rows_does_not_matter(rows, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert newest_twin(rows) == newest_twin(rows_of(Entries.of_rows(shuffled).newest()))


def test_many_rows_of_few_hashes():
    rng = np.random.default_rng(5)
    count = 20_000
    columns = [rng.integers(1, high, count).tolist() for high in (3000, 2**40, 3, 2**26, 9)]
    rows = list(zip(*columns, strict=True))
    found = rows_of(Entries.of_rows(rows).newest())
    assert newest_twin(rows) == {(hashed, check): seq for hashed, seq, check, *_ in found}
    assert len(found) == len(newest_twin(rows))


def test_the_largest_numbers_are_compared_without_a_sign():
    rows = [(2**64 - 1, 2**63 + 1, 2**32 - 1, 8, 3), (2**64 - 1, 5, 2**32 - 1, 9, 3), (1, 1, 0, 10, 3)]
    assert [rows[2], rows[0]] == rows_of(Entries.of_rows(rows).newest())


# Rows put together


@given(parts=st.lists(st.lists(ANY, max_size=4), max_size=4))
def test_joined_rows_are_those_of_all_parts_in_order(parts):
    joined = Entries.join([Entries.of_rows(part) for part in parts])
    assert [row for part in parts for row in part] == rows_of(joined)
    assert list(COLUMNS.values()) == [getattr(joined, name).dtype for name in COLUMNS]


@given(rows=st.lists(ANY, max_size=10), segment=st.integers(1, fmt.SEGMENT_MAX))
def test_locations_are_those_of_the_format_and_0_for_tombstones(rows, segment):
    expected = [fmt.pack_location(segment, offset * 8, size * 8) if size else 0 for *_, offset, size in rows]
    locations = Entries.of_rows(rows).locations(segment)
    assert (expected, np.uint64) == (locations.tolist(), locations.dtype)


@given(rows=st.lists(ANY, max_size=10))
def test_bytes_are_those_of_the_records(rows):
    entries = Entries.of_rows(rows)
    tombstones = sum(size == 0 for *_, size in rows)
    assert 40 * tombstones == entries.tombstone_bytes
    assert sum(8 * size for *_, size in rows) + 40 * tombstones == entries.nbytes
    assert len(rows) == len(entries)


# Rows that come one by one


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_rows_added_one_by_one_are_the_rows_added_at_once(monkeypatch, count):
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", 4)
    rows = [(2**64 - 1 - i, 2**48 - 1 - i, 2**32 - 1 - i, 2**26 - 1 - i, i) for i in range(count)]
    added = Rows()
    for row in rows:
        added.add(row)
    entries = added.entries()
    assert rows == rows_of(entries) == rows_of(Entries.of_rows(rows))
    assert list(COLUMNS.values()) == [getattr(entries, name).dtype for name in COLUMNS]


def test_rows_that_wait_give_the_garbage_collector_nothing_to_look_at():
    added = Rows()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for i in range(1000):
            added.add((i + 1, i, i, 8, i))
        after = len(gc.get_objects())
    finally:
        gc.enable()
    assert after < before + 100
    assert 1000 == len(added.entries())
