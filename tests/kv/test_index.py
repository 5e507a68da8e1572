"""The key-value index against a dict of lists, with hashes that nobody's luck would bring together."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.jit import JIT_DISABLED
from skeg.kv import index as module
from skeg.kv import table as table_module
from skeg.kv.format import SEGMENT_SHIFT, pack_location
from skeg.kv.index import HASH_END, Index

U64 = np.uint64
LAST_HASH = HASH_END - 1


def insert_new(index, hashes, locations):
    keys = np.array(hashes, U64).tolist()
    known = {key_hash: index.find_all(key_hash) for key_hash in keys}
    present, there = index.insert_new(np.array(hashes, U64), np.array(locations, U64))
    expected = []
    for key_hash, location in zip(keys, np.array(locations, U64).tolist(), strict=True):
        if known[key_hash]:
            expected.append(known[key_hash][0] if len(known[key_hash]) == 1 else 0)
        else:
            known[key_hash] = [location]
    assert expected == there.tolist()
    return present.tolist()


class NaiveIndex:
    """Hash to its locations."""

    def __init__(self):
        self.slots = {}

    def entries(self):
        return sorted((key_hash, location) for key_hash, found in self.slots.items() for location in found)

    def insert(self, key_hash, location):
        self.slots.setdefault(key_hash, []).append(location)

    def insert_new(self, hashes, locations):
        present = []
        for position, (key_hash, location) in enumerate(zip(hashes, locations, strict=True)):
            if self.slots.get(key_hash):
                present.append(position)
            else:
                self.insert(key_hash, location)
        return present

    def replace(self, key_hash, old, new):
        found = self.slots.get(key_hash, [])
        if old in found:
            found[found.index(old)] = new
            return True
        return False

    def remove(self, key_hash, old):
        found = self.slots.get(key_hash, [])
        if old in found:
            found.remove(old)
            return True
        return False

    def move(self, hashes, old, new):
        return [self.replace(*entry) for entry in zip(hashes, old, new, strict=True)]


def rows(hashes, locations):
    return sorted(zip(hashes.tolist(), locations.tolist(), strict=True))


def content(frozen):
    return sorted(entry for table in frozen.tables() for entry in rows(*table))


def walk(index, segment, between=lambda: None):
    """All entries that compaction finds in a segment, with something else going on while it holds no lock."""
    found, start = [], 0
    while start < HASH_END:
        hashes, locations, start = index.in_segment(start, segment)
        found += rows(hashes, locations)
        between()
    return sorted(found)


def assert_same(naive, index):
    entries = naive.entries()
    assert len(entries) == len(index)
    assert entries == content(index.freeze())
    for key_hash, locations in naive.slots.items():
        assert sorted(locations) == sorted(index.find_all(key_hash))
        assert index.find(key_hash) in (locations or [0])
    assert_whole(index)


def assert_whole(index):
    """What the structure promises: tables cover the hashes, counts are right, the last slot is empty."""
    directory = index._directory
    assert len(directory) == 1 << index._depth
    for table in set(directory):
        numbers = [number for number, entry in enumerate(directory) if entry is table]
        assert len(numbers) == 1 << index._depth - table.depth
        assert list(range(numbers[0], numbers[0] + len(numbers))) == numbers
        assert numbers[0] % len(numbers) == 0
        assert table.used == len(table.tags) - table.tags.count(0)
        assert table.used - table.dead == len(table.entries())
        assert table.used < table.limit
        assert 0 == table.tags[-1] == table.slots[-2]


@contextmanager
def tiny_tables():
    """Tables that are divided from 17 entries on, to meet in a few steps what takes thousands."""
    homes = mock.patch.multiple(table_module, _HOMES_MIN=8, HOMES_MAX=24)
    with homes, mock.patch.multiple(module, _ENTRIES_MAX=17, _KERNEL_ENTRIES=1):
        yield


def spread(rng, count):
    return rng.integers(1, LAST_HASH, count, dtype=U64, endpoint=True)


def numbered(count, segment=1):
    return np.arange(count, dtype=U64) * U64(1 << 13) + U64(pack_location(segment, 0, 64))


# Both ends, tags 0 and 1 of one home, many with the same first 44 bits, a few for each part of the range.
# The loop in Python, and the kernel that does the same, where it can be compiled.
ENGINES = [False] if JIT_DISABLED else [False, True]

HASHES = st.one_of(
    st.sampled_from([1, 256, 257, LAST_HASH - 1, LAST_HASH, 1 << 63, (1 << 63) - 1]),
    st.integers(0, 40).map(lambda n: 0xABCDEF12345 << 20 | n),
    st.integers(0, 255).map(lambda n: n << 56 | 7),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), HASHES),
        st.tuples(st.just("insert_new"), st.lists(HASHES, max_size=60)),
        st.tuples(st.sampled_from(["replace", "remove"]), st.integers(0, 1000)),
        st.tuples(st.just("drop"), st.integers(1, 8)),
        st.tuples(st.sampled_from(["move", "replace_many"]), st.integers(1, 4)),
        st.tuples(st.just("freeze"), st.none()),
    ),
    max_size=40,
)


def run_step(naive, index, step, argument, fresh):
    """Do one step to both; they answer the same."""
    entries = naive.entries()
    if step == "insert":
        location = fresh()
        naive.insert(argument, location)
        index.insert(argument, location)
    elif step == "insert_new":
        locations = [fresh() for _ in argument]
        assert naive.insert_new(argument, locations) == insert_new(index, argument, locations)
    elif step == "move":
        # What was seen in the segments, some of it no longer true.
        chosen = [(h, loc if n % 3 else loc + 1) for n, (h, loc) in enumerate(entries[::argument])]
        hashes, old = (np.array([entry[i] for entry in chosen], U64) for i in (0, 1))
        new = np.array([fresh() for _ in chosen], U64)
        expected = naive.move(hashes.tolist(), old.tolist(), new.tolist())
        assert expected == index.move(hashes, old, new).tolist()
    elif step == "replace_many":
        chosen = [(*entry, fresh()) for entry in entries[::argument]]
        assert all(naive.replace(*entry) for entry in chosen)
        index.replace_many(*(np.array([entry[i] for entry in chosen], U64) for i in range(3)))
    elif step == "drop":
        for entry in entries[::argument]:
            assert naive.remove(*entry) is index.remove(*entry) is True
    elif entries:
        key_hash, location = entries[argument % len(entries)]
        rest = (fresh(),) if step == "replace" else ()
        assert getattr(index, step)(key_hash, location + 1, *rest) is False
        assert getattr(naive, step)(key_hash, location, *rest) is True
        assert getattr(index, step)(key_hash, location, *rest) is True


@pytest.mark.parametrize("by_kernel", ENGINES)
@given(steps=STEPS)
def test_any_sequence_of_calls_does_what_a_dict_of_lists_does(by_kernel, steps):
    with tiny_tables():
        naive, index = NaiveIndex(), Index()
        if by_kernel:
            index.use_kernels()
        snapshots = []
        counter = iter(range(10**6))

        def fresh():
            number = next(counter)
            return pack_location(1 + number % 3, number * 16, 64)

        for step, argument in steps:
            if step == "freeze":
                snapshots.append((naive.entries(), index.freeze()))
            else:
                run_step(naive, index, step, argument, fresh)
            assert len(naive.entries()) == len(index)
            assert_whole(index)
        assert_same(naive, index)
        assert [0] * 3 == [index.find(absent) for absent in (2, 3 << 62, LAST_HASH - 5)]
        for segment in (1, 2, 3):
            expected = [entry for entry in naive.entries() if entry[1] >> SEGMENT_SHIFT == segment]
            assert expected == walk(index, segment)
        for entries, frozen in snapshots:
            assert len(entries) == len(frozen)
            assert entries == content(frozen)


@given(st.lists(HASHES, max_size=300))
def test_a_loaded_index_does_what_one_filled_entry_by_entry_does(hashes):
    with tiny_tables():
        naive, index = NaiveIndex(), Index()
        hashes = sorted(hashes)
        locations = numbered(len(hashes))
        index.load([(np.array(hashes, U64), locations)])
        for entry in zip(hashes, locations.tolist(), strict=True):
            naive.insert(*entry)
        assert_same(naive, index)
        for entry in naive.entries()[::2]:
            assert naive.remove(*entry) is index.remove(*entry)
        more = [key_hash ^ 1 << 62 for key_hash in hashes]
        again = (locations + U64(1 << 38)).tolist()
        assert naive.insert_new(more, again) == insert_new(index, more, again)
        assert_same(naive, index)


@pytest.mark.kernels
@pytest.mark.parametrize("by_kernel", ENGINES)
def test_many_batches_into_tables_that_grow_and_are_frozen(by_kernel, rng):
    naive, index = NaiveIndex(), Index()
    if by_kernel:
        index.use_kernels()
    hashes = spread(rng, 30_000)
    hashes[5_000:6_000] = hashes[:1_000]
    frozen = []
    for start in range(0, len(hashes), 1_500):
        batch = hashes[start : start + 1_500].tolist()
        locations = list(range(start + 1, start + 1 + len(batch)))
        assert naive.insert_new(batch, locations) == insert_new(index, batch, locations)
        if start % 4_500 == 0:
            frozen.append((naive.entries(), index.freeze()))
    assert_same(naive, index)
    for entries, snapshot in frozen:
        assert entries == content(snapshot)


@pytest.mark.parametrize("bits", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 40, 30_000])
def test_entries_may_be_loaded_in_groups_by_their_first_bits(bits, count, rng):
    hashes, locations = np.sort(spread(rng, count)), numbered(count)
    edges = [number << (64 - bits) for number in range(1, 1 << bits)]
    groups = zip(
        *(np.split(a, np.searchsorted(hashes, np.array(edges, U64))) for a in (hashes, locations)), strict=True
    )
    index = Index()
    index.load(list(groups))
    assert_whole(index)
    assert rows(hashes, locations) == content(index.freeze())
    index.insert(LAST_HASH, 1 << 50)
    assert 1 << 50 == index.find(LAST_HASH)
    empty = Index()
    empty.load([])
    empty.insert(7, 8)
    assert [(7, 8)] == content(empty.freeze())


def test_only_an_empty_index_can_be_loaded():
    index = Index()
    index.insert(5, 6)
    with pytest.raises(AssertionError, match="empty"):
        index.load([(np.array([1], U64), np.array([2], U64))])


def test_growth_through_real_tables_keeps_every_entry(rng):
    hashes, locations = spread(rng, 100_000), numbered(100_000)
    grown, loaded = Index(), Index()
    for start in range(0, len(hashes), 1000):
        batch = slice(start, start + 1000)
        assert [] == insert_new(grown, hashes[batch], locations[batch])
    order = hashes.argsort()
    loaded.load([(hashes[order], locations[order])])
    assert len(grown._directory) > 4
    for index in (grown, loaded):
        assert_whole(index)
        assert rows(hashes, locations) == content(index.freeze())
        assert locations[::7].tolist() == [index.find(key_hash) for key_hash in hashes[::7].tolist()]
        assert not any(index.find(key_hash) for key_hash in (hashes[::7] ^ U64(255)).tolist())
        assert list(range(10)) == insert_new(index, hashes[:10], [1] * 10)


@pytest.mark.parametrize("key_hash", [1, 1 << 63, LAST_HASH])
def test_more_equal_hashes_than_a_table_has_slots(key_hash):
    index = Index()
    for location in range(1, 30_001):
        index.insert(key_hash, location)
    assert_whole(index)
    assert list(range(1, 30_001)) == sorted(index.find_all(key_hash))
    assert [0] == insert_new(index, [key_hash, key_hash ^ 1], [40_000, 40_001])
    hashes, old = np.full(30_000, key_hash, U64), np.arange(1, 30_001, dtype=U64)
    assert index.move(hashes, old, old + U64(50_000)).all()
    assert list(range(50_001, 80_001)) == sorted(index.find_all(key_hash))
    assert index.remove(key_hash, 50_001)
    assert not index.remove(key_hash, 50_001)
    # They can't be told apart by more bits: the directory stays small.
    assert len(index._directory) <= 8


def test_hashes_with_equal_first_bits_share_a_table_that_grows_alone(rng):
    hashes = (U64(LAST_HASH - (1 << 30) + 1) + rng.permutation(1 << 17)[:40_000].astype(U64)).tolist()
    index = Index()
    assert [] == insert_new(index, hashes, range(1, 40_001))
    assert_whole(index)
    assert list(range(1, 40_001, 400)) == [index.find(key_hash) for key_hash in hashes[::400]]
    assert len(index._directory) <= 8
    # Others that come later still get tables of their own.
    insert_new(index, spread(rng, 100_000), range(50_000, 150_000))
    assert_whole(index)
    assert len({id(table) for table in index._directory}) >= 8


def test_churn_neither_loses_entries_nor_makes_tables_grow(rng):
    index, live, location = Index(), {}, 0
    hashes = spread(rng, 40_000).tolist()
    sizes = []
    for turn in range(8):
        for key_hash in hashes[turn % 2 :: 2]:
            if key_hash in live:
                assert index.remove(key_hash, live.pop(key_hash))
            location += 1
            live[key_hash] = location
            index.insert(key_hash, location)
        sizes.append(index.nbytes)
    assert_whole(index)
    assert sorted(live.items()) == content(index.freeze())
    assert max(sizes[2:]) < 1.35 * sizes[1]


def test_memory_is_given_back_when_entries_are_removed(rng):
    hashes, locations = spread(rng, 100_000), numbered(100_000)
    index = Index()
    order = hashes.argsort()
    index.load([(hashes[order], locations[order])])
    for entry in zip(hashes[10_000:].tolist(), locations[10_000:].tolist(), strict=True):
        assert index.remove(*entry)
    assert rows(hashes[:10_000], locations[:10_000]) == content(index.freeze())
    assert index.nbytes / len(index) < 45
    for entry in zip(hashes[:10_000].tolist(), locations[:10_000].tolist(), strict=True):
        assert index.remove(*entry)
    assert len(index) == 0
    assert index.nbytes < 60_000


def test_a_snapshot_shares_tables_until_they_change(rng):
    index = Index()
    index.load([(np.sort(spread(rng, 100_000)), numbered(100_000))])
    before = content(index.freeze())
    frozen = index.freeze()
    tables = set(index._directory)
    key_hash, location = before[50_000]
    assert not index.replace(key_hash, location + 1, 3)
    assert not index.move(*(np.array([n], U64) for n in (key_hash, location + 1, 3))).any()
    assert [0] == insert_new(index, [key_hash], [3])
    assert len(tables - set(index._directory)) <= 1
    assert index.replace(key_hash, location, 3)
    assert len(tables - set(index._directory)) == 1
    copied = index._table(key_hash)
    assert index.replace(key_hash, 3, 4)
    assert copied is index._table(key_hash)
    insert_new(index, spread(rng, 100_000), range(1, 100_001))
    assert before == content(frozen)
    assert sorted(location for _, location in before) == np.sort(frozen.locations()).tolist()


def test_a_walk_meets_every_entry_once_while_tables_are_divided(rng):
    hashes, locations = spread(rng, 2000), numbered(2000, segment=5)
    with tiny_tables():
        index = Index()
        order = hashes.argsort()
        index.load([(hashes[order], locations[order])])
        tables = len(set(index._directory))
        later = iter(spread(rng, 100_000).tolist())

        def grow():
            for _ in range(40):
                index.insert(next(later), pack_location(6, 0, 64))

        assert rows(hashes, locations) == walk(index, 5, grow)
        assert len(set(index._directory)) > 2 * tables
        # Everything may be moved by one call, whatever tables there are by now.
        moved = numbered(2000, segment=7)
        assert index.remove(int(hashes[9]), int(locations[9]))
        expected = np.arange(2000) != 9
        assert expected.tolist() == index.move(hashes, locations, moved).tolist()
        assert [] == walk(index, 5)
        assert rows(hashes[expected], moved[expected]) == walk(index, 7)


def test_nothing_to_move_moves_nothing():
    empty = np.zeros(0, U64)
    assert [] == Index().move(empty, empty, empty).tolist()


def test_a_key_takes_at_most_25_bytes_at_every_size(rng):
    hashes = spread(rng, 200_000)
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        index = Index()
        for start in range(0, len(hashes), 500):
            batch = hashes[start : start + 500]
            index.insert_new(batch, batch)
            traced = tracemalloc.get_traced_memory()[0] - base
            if len(index) >= 10_000:
                assert traced <= 25 * len(index)
                assert abs(traced - index.nbytes) <= 0.02 * index.nbytes
    finally:
        tracemalloc.stop()
