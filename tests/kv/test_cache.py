"""The cache of values: never over its bytes, no call without an end, and what is read often stays."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.kv import cache as module
from skeg.kv.cache import ENTRY_BYTES, Cache


class Twin:
    """S3-FIFO by the book, on lists of [key, value, reads], oldest first."""

    def __init__(self, budget):
        self.budget = budget
        self.small, self.main, self.ghosts = [], [], []

    @staticmethod
    def size(entries):
        return sum(len(key) + len(value) + ENTRY_BYTES for key, value, _ in entries)

    def get(self, key):
        for entry in self.small + self.main:
            if entry[0] == key:
                entry[2] = min(3, entry[2] + 1)
                return entry[1]
        return None

    def put(self, key, value):
        if self.size([(key, value, 0)]) > self.budget // 10:
            self.discard(key)
            return
        present = [entry for entry in self.small + self.main if entry[0] == key]
        if present:
            present[0][1] = value
        elif hash(key) in self.ghosts:
            self.ghosts.remove(hash(key))
            self.main.append([key, value, 0])
        else:
            self.small.append([key, value, 0])
        while self.size(self.small + self.main) > self.budget:
            self.evict()
        self.trim()

    def evict(self):
        if self.size(self.small) > self.budget // 10:
            key, value, reads = self.small.pop(0)
            if reads >= 2:
                self.main.append([key, value, 0])
            else:
                self.ghosts.append(hash(key))
        else:
            key, value, reads = self.main.pop(0)
            if reads:
                self.main.append([key, value, reads - 1])

    def discard(self, key):
        self.small = [entry for entry in self.small if entry[0] != key]
        self.main = [entry for entry in self.main if entry[0] != key]
        self.trim()

    def trim(self):
        while len(self.ghosts) > len(self.small + self.main):
            self.ghosts.pop(0)


def contents(queue):
    return [[key, entry.value, entry.reads] for key, entry in queue.items()]


def check(cache):
    """What has to hold after every call."""
    entries = contents(cache._small) + contents(cache._main)
    assert cache.nbytes <= cache.budget
    assert Twin.size(contents(cache._small)) == cache._small_bytes
    assert Twin.size(entries) == cache.nbytes
    assert len({key for key, _, _ in entries}) == len(entries) == len(cache)
    assert len(cache._ghosts) <= len(cache)


def key_of(i):
    return b"%06d" % i


def sized(n_bytes):
    """A value whose entry, under a key of six bytes, takes so many."""
    return bytes(n_bytes - ENTRY_BYTES - 6)


def read(cache, keys):
    """Read keys the way a store does: what is missing is fetched and put."""
    for i in keys:
        if cache.get(key_of(i)) is None:
            cache.put(key_of(i), b"")


def hit_rate(cache, keys):
    hits = cache.hits
    read(cache, keys)
    return (cache.hits - hits) / len(keys)


def holding(entries):
    """A cache with room for that many entries with empty values."""
    return Cache(entries * (ENTRY_BYTES + 6))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "get", "get", "get", "discard"]),
        st.integers(0, 16),
        st.integers(0, 100) | st.integers(0, ENTRY_BYTES),
    ),
    min_size=30,
    max_size=300,
)


@given(OPERATIONS, st.integers(10 * ENTRY_BYTES, 14 * ENTRY_BYTES))
def test_cache_does_what_its_twin_does(operations, budget):
    cache, twin = Cache(budget), Twin(budget)
    for name, i, n_bytes in operations:
        arguments = [key_of(i), bytes(n_bytes)] if name == "put" else [key_of(i)]
        assert getattr(twin, name)(*arguments) == getattr(cache, name)(*arguments)
        assert twin.small == contents(cache._small)
        assert twin.main == contents(cache._main)
        assert twin.ghosts == list(cache._ghosts)
        check(cache)


@pytest.mark.parametrize("seed", range(4))
def test_soak_of_everything_against_the_twin(seed):
    """Long enough for full queues, with sizes up to what is just too large, and values that grow."""
    numbers = random.Random(seed)
    budget = 40 * ENTRY_BYTES
    cache, twin = Cache(budget), Twin(budget)
    for _ in range(6000):
        key = key_of(min(numbers.randrange(80), numbers.randrange(80)))
        name = numbers.choice(["put", "get", "get", "get", "discard"] if numbers.random() < 0.2 else ["put", "get"])
        arguments = [key, bytes(int(numbers.random() ** 3 * 4 * ENTRY_BYTES))] if name == "put" else [key]
        assert getattr(twin, name)(*arguments) == getattr(cache, name)(*arguments)
        assert (twin.small, twin.main) == (contents(cache._small), contents(cache._main))
        check(cache)
    assert cache.evictions > 500
    assert cache._main
    assert cache._ghosts


def test_a_value_larger_than_the_cache_ends_and_is_not_kept():
    """One tiny key and one huge value make "evict until it fits" run for ever when the small queue is left alone."""
    cache = Cache(32 << 20)
    cache.put(b"tiny", b"1")
    cache.put(b"huge", bytes(33 << 20))
    assert (b"1", None) == (cache.get(b"tiny"), cache.get(b"huge"))
    check(cache)


def test_a_value_too_large_takes_the_place_of_none_but_its_own():
    """The value that the key had must not be read again; one byte less, and the new one is kept."""
    cache = Cache(100 * ENTRY_BYTES)
    limit = 10 * ENTRY_BYTES
    for n_bytes, kept in [(limit, True), (limit + 1, False), (limit, True)]:
        cache.put(b"000000", sized(n_bytes))
        assert kept == (cache.get(b"000000") is not None)
        check(cache)
    for _ in range(3):
        cache.get(b"000000")
    for i in range(1, 200):
        cache.put(key_of(i), b"")
    assert b"000000" in cache._main
    cache.put(b"000000", sized(limit + 1))
    assert cache.get(b"000000") is None
    check(cache)


def test_set_delete_set_again_leaves_one_node():
    """Nodes that a removal leaves behind are counted twice later on; then the sums drift until nothing is evicted."""
    cache = Cache(32 << 12)
    value = bytes(1024)
    for i in range(10_000):
        hot = key_of(i % 7)
        cache.put(hot, value)
        cache.discard(hot)
        cache.put(hot, value)
        assert value == cache.get(hot) == cache.get(hot)
        for ordinary in range(3 * i, 3 * i + 3):
            cache.put(key_of(1000 + ordinary), value)
        check(cache)
    assert cache.evictions


def test_deleting_what_was_set_leaves_nothing():
    cache = Cache(1 << 20)
    for i in range(10_000):
        cache.put(key_of(i), b"value")
        cache.discard(key_of(i))
    assert (0, 0) == (len(cache), cache.nbytes)
    assert not cache._small
    assert not cache._main
    assert not cache._ghosts


def test_growing_overwrites_stay_within_the_budget():
    cache = Cache(50 * ENTRY_BYTES)
    for i in range(60):
        cache.put(key_of(i), b"")
        cache.get(key_of(i))
        cache.get(key_of(i))
    for n_bytes in range(1, 5 * ENTRY_BYTES, 97):
        for i in range(60):
            cache.put(key_of(i), bytes(n_bytes))
            check(cache)
    assert cache.evictions


@pytest.mark.parametrize("budget", [0, 1, 9, 10 * ENTRY_BYTES - 1])
def test_a_budget_too_small_for_an_entry_keeps_nothing(budget):
    cache = Cache(budget)
    for i in range(100):
        cache.put(key_of(i), b"")
        cache.put(b"", b"")
        check(cache)
    assert 0 == len(cache)


def test_hits_misses_and_evictions_are_counted():
    cache = holding(10)
    for i in range(12):
        cache.put(key_of(i), b"")
    assert [None, None, *[b""] * 10] == [cache.get(key_of(i)) for i in range(12)]
    assert (10, 2, 2) == (cache.hits, cache.misses, cache.evictions)
    for i in range(12):
        cache.discard(key_of(i))
    assert 0 == len(cache)
    assert 2 == cache.evictions, "what is discarded was not evicted"


def test_clear_forgets_all_and_the_cache_goes_on():
    cache = holding(20)
    read(cache, range(100))
    cache.clear()
    check(cache)
    assert (0, 0, 0) == (len(cache), cache.nbytes, len(cache._ghosts))
    assert cache.get(key_of(99)) is None
    read(cache, range(100))
    check(cache)


def test_a_key_that_returns_while_its_ghost_is_remembered_stays():
    cache = holding(100)
    read(cache, range(110))
    assert cache.get(key_of(0)) is None
    cache.put(key_of(0), b"again")
    assert b"again" == cache._main[key_of(0)].value
    read(cache, range(1000, 1200))
    assert b"again" == cache.get(key_of(0))


def test_keys_read_twice_outlive_a_scan():
    """And those that were read once while they were new do not."""
    cache = holding(100)
    read(cache, [*range(30), *range(30), *range(15)])
    read(cache, range(1000, 3000))
    assert [True] * 15 + [False] * 15 == [cache.get(key_of(i)) is not None for i in range(30)]


def test_a_skewed_load_hits_more_often_than_a_uniform_one():
    """By far; and under either load the share of hits is at least that of the keys that fit."""
    numbers = np.random.default_rng(7)
    universe, fitting, n = 5000, 500, 40_000
    weights = 1 / np.arange(1, universe + 1)
    uniform = hit_rate(holding(fitting), numbers.integers(0, universe, n).tolist())
    skewed = hit_rate(holding(fitting), numbers.choice(universe, n, p=weights / weights.sum()).tolist())
    assert 0.09 <= uniform <= 0.11
    assert skewed >= 0.6


def test_a_skewed_load_mixed_with_a_scan_beats_lru():
    numbers = np.random.default_rng(8)
    universe, fitting, n = 5000, 500, 40_000
    weights = 1 / np.arange(1, universe + 1)
    keys = numbers.choice(universe, n, p=weights / weights.sum())
    mixed = np.where(numbers.random(n) < 0.5, keys, universe + np.arange(n)).tolist()
    lru, hits = OrderedDict(), 0
    for key in mixed:
        hits += lru.pop(key, False)
        lru[key] = True
        if len(lru) > fitting:
            lru.popitem(last=False)
    assert hits / n + 0.05 <= hit_rate(holding(fitting), mixed)


def test_a_call_gives_a_limited_number_of_second_chances(monkeypatch):
    """Every entry was read three times, and still one goes after three were spared."""
    monkeypatch.setattr(module, "_CHANCES", 3)
    cache = holding(20)
    read(cache, [*range(20)] * 4)
    cache.put(b"newest", b"")
    assert 1 == cache.evictions
    assert [key_of(0), key_of(1), key_of(2)] == list(cache._main)
    assert key_of(3) not in cache._small
    check(cache)


def test_a_call_ends_though_others_go_on_reading():
    """Another thread may raise the number of reads each time it was lowered."""

    class Popular(module.Entry):
        def __setattr__(self, name, value):
            super().__setattr__(name, 3 if name == "reads" else value)

    cache = holding(20)
    for i in range(20):
        cache.put(key_of(i), b"")
        cache._small[key_of(i)] = Popular(b"")
    cache.put(b"newest", b"")
    assert 1 == cache.evictions
    check(cache)


def test_values_are_right_while_another_thread_changes_the_cache():
    """Readers take no lock: a value may be missing, never another key's."""
    cache = holding(50)
    stop = threading.Event()
    wrong = []

    def reader():
        numbers = random.Random(5)
        while not stop.is_set():
            i = numbers.randrange(100)
            value = cache.get(key_of(i))
            if value is not None and value[:6] != key_of(i):
                wrong.append((i, value))

    readers = [threading.Thread(target=reader) for _ in range(3)]
    for thread in readers:
        thread.start()
    numbers = random.Random(6)
    try:
        for step in range(30_000):
            i = numbers.randrange(100)
            if step % 5:
                cache.put(key_of(i), key_of(i) + bytes(step % 50))
            else:
                cache.discard(key_of(i))
        check(cache)
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    assert [] == wrong
    assert cache.hits


@pytest.mark.parametrize("budget", [200_000, 500_000, 1_500_000])
@pytest.mark.parametrize("value_bytes", [1, 100, 3000])
def test_the_budget_covers_what_python_allocates(budget, value_bytes):
    """Keys, values, entries, tables and ghosts, once the cache is full of objects of its own."""
    numbers = random.Random(3)
    entries = budget // (ENTRY_BYTES + 16 + value_bytes)
    tracemalloc.start()
    try:
        cache = Cache(budget)
        before, _ = tracemalloc.get_traced_memory()
        for i in range(5 * entries):
            key = b"%016d" % (i if i % 2 else numbers.randrange(entries))
            if cache.get(key) is None:
                cache.put(key, b"%0*d" % (value_bytes, i))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache._ghosts
    assert 0.9 * budget <= cache.nbytes
    assert after - before <= budget


# Keys that are being written


def test_nobody_finds_a_value_that_is_being_written():
    cache = Cache(1 << 20)
    cache.put(key_of(0), b"old")
    written = cache.withdraw({key_of(0): b"new", key_of(1): b"x"})
    assert [key_of(0)] == [*written]
    assert key_of(0) in cache
    assert cache.get(key_of(0)) is None
    assert [None] == cache.get_each([key_of(0)])
    cache.renew(written)
    assert b"new" == cache.get(key_of(0))
    assert key_of(1) not in cache


@pytest.mark.parametrize("value", [b"", b"new", b"longer than it was"])
def test_what_was_written_takes_as_many_bytes_as_if_it_had_been_put(value):
    cache, twin = Cache(1 << 20), Cache(1 << 20)
    cache.put(key_of(0), b"old")
    cache.renew(cache.withdraw({key_of(0): value}))
    twin.put(key_of(0), value)
    assert (value, twin.nbytes) == (cache.get(key_of(0)), cache.nbytes)


def test_of_two_writes_the_last_shows_when_both_are_done():
    cache = Cache(1 << 20)
    cache.put(key_of(0), b"0")
    first, second = cache.withdraw({key_of(0): b"1"}), cache.withdraw({key_of(0): b"2"})
    cache.renew(first)
    assert cache.get(key_of(0)) is None
    cache.renew(second)
    assert b"2" == cache.get(key_of(0))


@pytest.mark.parametrize("value", [b"1", b"22"])
def test_what_was_evicted_while_it_was_written_stays_away(value):
    cache = Cache(1 << 20)
    cache.put(key_of(0), b"0")
    written = cache.withdraw({key_of(0): value})
    cache.discard(key_of(0))
    cache.put(key_of(1), b"1")
    nbytes = cache.nbytes
    cache.renew(written)
    assert cache.get(key_of(0)) is None
    assert (nbytes, b"1") == (cache.nbytes, cache.get(key_of(1)))


def test_a_value_that_has_become_too_long_goes():
    cache = Cache(1 << 20)
    cache.put(key_of(0), b"0")
    cache.renew(cache.withdraw({key_of(0): bytes(cache.budget)}))
    assert key_of(0) not in cache
    assert 0 == cache.nbytes
