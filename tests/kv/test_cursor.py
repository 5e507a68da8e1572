"""Listing keys by cursors: what is there all the time is found, whatever happens between the calls."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg import ClosedError, CorruptError, ParameterError, StorageError
from skeg.fileops import FileOps
from skeg.kv import Durability, Store, StoreOptions
from skeg.kv.index import HASH_END, Index
from skeg.kv.store import open_store

SMALL = StoreOptions(segment_bytes=4096, background=False)


def walk(store, count=10, prefix=b"", between=lambda: None):
    """All keys that a walk from 0 to 0 returns, in its order."""
    keys, cursor = [], 0
    while True:
        cursor, some = store.scan_keys(cursor, count, prefix)
        keys += some
        if cursor == 0:
            return keys
        between()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 9, 500])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_every_key_comes_once_where_nothing_changes(tmp_path, shards, n, count):
    with Store.open(tmp_path / "s", shards=shards, options=SMALL) as store:
        keys = [b"%d" % i for i in range(n)]
        store.set_many((key, b"v" * 50) for key in keys)
        assert sorted(keys) == sorted(walk(store, count))
        assert sorted(key for key in keys if key.startswith(b"1")) == sorted(walk(store, count, b"1"))


@pytest.mark.parametrize("key", [b"", b"k" * 65_535, b"\0" * 200])
def test_keys_of_any_length_come_back_whole_from_disk_and_from_memory(tmp_path, key):
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.set(key, b"", durability=Durability.NONE)
        assert [key] == walk(store)
        store.sync()
        assert [key] == walk(store)
    with Store.open(tmp_path / "s", mode="r") as store:
        assert [key] == walk(store)


def test_values_are_not_read(tmp_path):
    class Counting(FileOps):
        nbytes = 0

        def open(self, path, **how):
            file = super().open(path, **how)
            real = file.pread

            def pread(length, offset):
                self.nbytes += length
                return real(length, offset)

            file.pread = pread
            return file

    files = Counting()
    with open_store(tmp_path / "s", options=SMALL, files=files) as store:
        store.set(b"k", bytes(3 << 20))
        files.nbytes = 0
        assert [b"k"] == walk(store)
        assert files.nbytes < 1000


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_there_all_the_time_is_found_while_everything_else_changes(tmp_path, seed, shards):
    """Overwritten, moved by compaction, in an index that grows and shrinks, in a store that is opened again."""
    rng = random.Random(seed)
    path = tmp_path / "s"
    held = [Store.open(path, shards=shards, options=SMALL)]
    keys = [b"key %d" % i for i in range(300)]
    held[0].set_many((key, b"v" * 20) for key in keys)
    stay = set(keys)

    def change():
        store = held[0]
        for _ in range(rng.randrange(8)):
            key = rng.choice(keys)
            match rng.randrange(5):
                case 0:
                    store.delete(key)
                    stay.discard(key)
                case 1:
                    store.set_many((b"new %d" % rng.randrange(10_000), b"") for _ in range(50))
                case 2:
                    store.set(key, b"w" * rng.randrange(100), durability=rng.choice(list(Durability)))
                case 3:
                    store.erase(b"new 1")
                case 4 if rng.random() < 0.3:
                    store.compact()
        if rng.random() < 0.1:
            store.close()
            held[0] = Store.open(path, options=SMALL)

    class Current:
        @staticmethod
        def scan_keys(*arguments):
            return held[0].scan_keys(*arguments)

    found = walk(Current, 7, b"key", change)
    assert stay <= set(found) <= set(keys)
    held[0].close()


def test_another_process_goes_on_where_one_left_off(tmp_path):
    with Store.open(tmp_path / "s", shards=2, options=SMALL) as store:
        store.set_many((b"%d" % i, b"") for i in range(100))
        cursor, first = store.scan_keys(0, 30)
    script = """
import sys
from skeg.kv import Store
cursor, keys = Store.open(sys.argv[1], mode="r").scan_keys(int(sys.argv[2]), 1000)
print(cursor, *sorted(key.decode() for key in keys))
"""
    command = [sys.executable, "-c", script, tmp_path / "s", str(cursor)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rest = {str(i) for i in range(100)} - {key.decode() for key in first}
    assert ["0", *sorted(rest)] == done.stdout.split()


@pytest.mark.parametrize("cursor", [1, 12345, (1 << 30) - 1, 1 << 30, 2 << 30, 3 << 30, 2**40, 2**64 - 1])
def test_a_cursor_that_nobody_gave_is_answered(tmp_path, cursor):
    with Store.open(tmp_path / "s", shards=3, options=SMALL) as store:
        store.set_many((b"%d" % i, b"") for i in range(100))
        following, keys = store.scan_keys(cursor, 10)
        assert 0 <= following < 2**64
        assert following == 0 or following > cursor
        assert set(keys) <= {b"%d" % i for i in range(100)}


@pytest.mark.parametrize("arguments", [(-1,), (2**64,), (0.0,), (None,), (0, 0), (0, -1), (0, 10, "text")])
def test_arguments_that_can_not_be(tmp_path, arguments):
    with Store.open(tmp_path / "s") as store, pytest.raises(ParameterError):
        store.scan_keys(*arguments)


def test_keys_of_one_hash_all_come(tmp_path):
    with open_store(tmp_path / "s", options=SMALL, hash_mask=3) as store:
        keys = [b"%d" % i for i in range(40)]
        store.set_many((key, b"") for key in keys)
        assert sorted(keys) == sorted(walk(store))


def test_a_call_ends_soon_where_many_shards_are_empty(tmp_path):
    with Store.open(tmp_path / "s", shards=256, options=SMALL) as store:
        store.set(b"a", b"")
        calls = []
        assert [b"a"] == walk(store, between=lambda: calls.append(1))
        assert len(calls) < 50


def test_what_could_still_be_taken_back_is_not_shown(tmp_path):
    """A key that is not committed, or whose deletion is not, is as it was once the disk has refused."""

    class Full(FileOps):
        full = False

        def open(self, path, **how):
            file = super().open(path, **how)
            real = file.pwrite

            def pwrite(data, offset):
                if self.full:
                    raise OSError(errno.ENOSPC, "full")
                return real(data, offset)

            file.pwrite = pwrite
            file.write_through = pwrite
            return file

    files = Full()
    with open_store(tmp_path / "s", options=SMALL, files=files) as store:
        store.set(b"old", b"1")
        files.full = True
        (shard,) = store._parts.shards
        with shard.lock:
            shard.change(lambda: shard.set(b"new", b"", Durability.SYNC))
            shard.change(lambda: shard.delete(b"old", Durability.SYNC))
        assert [b"old"] == walk(store)
        files.full = False


def test_a_damaged_key_is_named_and_not_shown(tmp_path):
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.set(b"some key", b"value")
    (log,) = (tmp_path / "s").rglob("*.log")
    with Store.open(tmp_path / "s", mode="r") as store:
        data = log.read_bytes()
        log.write_bytes(data.replace(b"some key", b"some kez"))
        with pytest.raises(CorruptError, match="another key") as caught:
            store.scan_keys()
        assert str(log) == caught.value.path
        log.write_bytes(data[:70])
        with pytest.raises(StorageError):
            store.scan_keys()


def test_a_closed_store_lists_nothing(tmp_path):
    store = Store.open(tmp_path / "s")
    store.close()
    with pytest.raises(ClosedError):
        store.scan_keys()


def test_lists_while_others_write_and_compact(tmp_path):
    with Store.open(tmp_path / "s", shards=2, options=SMALL) as store:
        keys = [b"%d" % i for i in range(300)]
        store.set_many((key, b"") for key in keys)
        stop = threading.Event()

        def write():
            i = 0
            while not stop.is_set():
                store.set(keys[i % 300], b"w" * (i % 90), durability=Durability.OS)
                i += 1
                if i % 200 == 0:
                    store.compact()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(10):
                assert set(keys) == set(walk(store, 20))
        finally:
            stop.set()
            thread.join()


@given(
    hashes=st.lists(st.integers(1, 2**64 - 1) | st.integers(1, 50) | st.integers(2**64 - 50, 2**64 - 1), max_size=300),
    homes=st.integers(1, 400),
    removed=st.integers(0, 20),
)
def test_ranges_of_an_index_hold_each_entry_once_and_in_its_range(hashes, homes, removed):
    index = Index()
    entries = [(hashed, place) for place, hashed in enumerate(hashes, 1)]
    for entry in entries:
        index.insert(*entry)
    for entry in entries[:removed]:
        index.remove(*entry)
    found, start = [], 0
    while start != HASH_END:
        some, places, end = index.hashed_from(start, homes)
        assert start < end <= HASH_END
        assert 0 == end % 2**34
        assert all(start <= hashed < end for hashed in some.tolist())
        found += zip(some.tolist(), places.tolist(), strict=True)
        start = end
    assert sorted(entries[removed:]) == sorted(found)


def test_ranges_of_a_large_index(rng):
    index = Index()
    hashes = np.sort(rng.integers(1, 2**64 - 1, 60_000, np.uint64, endpoint=True))
    index.load([(hashes, np.arange(1, 60_001, dtype=np.uint64))])
    found, start, most = [], 0, 0
    while start != HASH_END:
        some, _, start = index.hashed_from(start, 100)
        found += some.tolist()
        most = max(most, len(some))
    assert hashes.tolist() == sorted(found)
    assert most < 300
