"""What is erased can't be reached at once, and after a compaction no file holds a trace of it; space comes back."""

from __future__ import annotations

import shutil
import sys
import threading

import pytest

from skeg.kv import AsyncStore, Durability, Store, StoreOptions
from skeg.kv import format as fmt
from skeg.kv.compaction import Compaction, closed
from skeg.kv.store import open_store

# No other bytes of a store look like these.
NAME = b"private-name-of-"
VALUE = b"secret value of "


def options(**changes):
    return StoreOptions(**{"background": False, "segment_bytes": 512} | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


def secrets(numbers):
    return {NAME + b"%03d" % n: VALUE + b"%03d" % n * (1 + n % 9) for n in numbers}


def others(numbers):
    return {b"public %03d" % n: b"known to all %03d" % n for n in numbers}


def traces(path, *words):
    """Files that hold any of the words in their contents or name, whatever kind of file they are."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return [
        file.name for file in files for word in words or (NAME, VALUE) if word in file.read_bytes() + file.name.encode()
    ]


def remove_hints(path):
    for hint in path.glob("shard-*/*.hint"):
        hint.unlink()


def size(path):
    return sum(file.stat().st_size for file in path.glob("shard-*/*"))


def with_sets(store, pairs):
    for key, value in pairs.items():
        store.set(key, value)


def without_durability(store, pairs):
    for key, value in pairs.items():
        store.set(key, value, durability=Durability.NONE)


def with_a_batch(store, pairs):
    store.set_many(pairs)


def with_batches_of_others_too(store, pairs):
    for n, pair in enumerate(pairs.items()):
        store.set_many([pair, (b"public %03d" % n, b"known to all %03d" % n)])


def with_all_that_overwrites(store, pairs):
    for key, value in pairs.items():
        assert store.set_if_absent(key, VALUE)
        assert store.set_if_present(key, value)
        assert value == store.get_set(key, VALUE)
        store.append(key, value)


def with_one_submission(store, pairs):
    with AsyncStore(store) as face:
        face.submit([("set", *pair) for pair in pairs.items()])


WRITES = [
    with_sets,
    without_durability,
    with_a_batch,
    with_batches_of_others_too,
    with_all_that_overwrites,
    with_one_submission,
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(("shards", "segment_bytes", "level"), [(1, 512, 2), (1, 1 << 20, 1), (3, 512, 0)])
def test_after_compaction_no_file_holds_what_was_erased(path, write, level, shards, segment_bytes):
    """Nor the names; also what is in the segment that is being written to, and after reopening."""
    pairs = secrets(range(40))
    with Store.open(path, shards=shards, options=options(segment_bytes=segment_bytes)) as store:
        store.set_many(others(range(20)))
        write(store, pairs)
        store.set_many(others(range(20, 40)))
        store.sync()
        assert traces(path)
        assert list(pairs) == [key for key in pairs if store.get(key)]  # from now on they are in the cache
        assert 40 == store.erase(NAME, durability=Durability(level))
        assert [None] * 40 == store.mget(pairs)
        assert others(range(40)) == dict(store.scan())
        assert 0 < store.compact()
        assert [] == traces(path)
        assert others(range(40)) == dict(store.scan())
        assert [] == store.verify()
    assert [] == traces(path)
    remove_hints(path)
    with Store.open(path, options=options(segment_bytes=segment_bytes)) as store:
        assert others(range(40)) == dict(store.scan())
        assert [None] * 40 == store.mget(pairs)
    assert [] == traces(path)


def test_deleted_and_overwritten_values_leave_no_trace_either(path):
    with Store.open(path, options=options()) as store:
        store.set_many(secrets(range(30)) | others(range(5)))
        for n, key in enumerate(secrets(range(30))):
            if n % 2:
                store.delete(key)
            else:
                store.set(key, b"harmless")
        store.compact()
        assert [] == traces(path, VALUE)
        assert 15 == len([key for key, _ in store.scan(NAME)])
        store.erase(NAME)
        store.compact()
    assert [] == traces(path)


def test_compaction_of_an_older_store_leaves_no_trace(path):
    """What was written, and partly erased, by processes before."""
    with Store.open(path, options=options()) as store:
        store.set_many(secrets(range(30)) | others(range(30)))
    with Store.open(path, options=options()) as store:
        assert 10 == store.erase(NAME + b"01")
    with Store.open(path, options=options(segment_bytes=4096)) as store:
        assert 20 == store.erase(NAME)
        store.compact()
        assert [] == traces(path)
        assert others(range(30)) == dict(store.scan())
    assert [] == traces(path)


def test_what_a_scan_still_reads_goes_when_the_scan_ends(path):
    with Store.open(path, options=options()) as store:
        store.set_many(secrets(range(30)) | others(range(5)))
        scan = store.scan()
        found = dict([next(scan)])
        store.erase(NAME)
        store.compact()
        assert secrets(range(30)) | others(range(5)) == found | dict(scan)
        assert [] == traces(path)


def test_what_was_copied_before_it_was_erased_is_in_no_snapshot_made_later(path, tmp_path):
    with Store.open(path, options=options()) as store:
        store.set_many(secrets(range(30)) | others(range(5)))
        store.erase(NAME)
        store.compact()
        store.snapshot(tmp_path / "copy")
    assert [] == traces(tmp_path / "copy")


@pytest.mark.parametrize("level", [Durability.OS, Durability.SYNC])
@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_erased_stays_so_when_the_process_dies(path, tmp_path, level, compacted):
    with Store.open(path, shards=2, options=options()) as store:
        store.set_many(secrets(range(30)) | others(range(30)))
        store.set(NAME + b"late", VALUE)
        assert 31 == store.erase(NAME, durability=level)
        if compacted:
            store.compact()
        shutil.copytree(path, tmp_path / "left")
    for mode in ("r", "rw"):
        with Store.open(tmp_path / "left", mode=mode, options=options()) as store:
            assert others(range(30)) == dict(store.scan())
            assert [None, None] == store.mget([NAME + b"late", NAME + b"000"])
            if mode == "rw":
                store.compact()
    assert [] == traces(tmp_path / "left")


def test_a_key_that_is_set_again_keeps_its_new_value_only(path):
    with Store.open(path, options=options()) as store:
        store.set_many(secrets(range(30)))
        store.erase(NAME)
        for n in range(0, 30, 3):
            store.set(NAME + b"%03d" % n, b"new")
        for _ in range(3):
            store.compact()
            assert {NAME + b"%03d" % n: b"new" for n in range(0, 30, 3)} == dict(store.scan())
        assert [] == traces(path, VALUE)
    remove_hints(path)
    with Store.open(path, options=options()) as store:
        assert {NAME + b"%03d" % n: b"new" for n in range(0, 30, 3)} == dict(store.scan())


def test_erasing_as_many_keys_as_are_deleted_with_several_records(path, monkeypatch):
    monkeypatch.setattr("skeg.kv.erasing._ERASED_AT_ONCE", 7)
    with Store.open(path, options=options()) as store:
        store.set_many(secrets(range(40)) | others(range(3)))
        assert 40 == store.erase(NAME)
        store.compact()
        assert others(range(3)) == dict(store.scan())
        assert [] == traces(path)


@pytest.mark.parametrize("hash_mask", [0, 0xFF])
def test_erasing_keys_whose_hashes_collide(path, hash_mask):
    with open_store(path, options=options(), hash_mask=hash_mask) as store:
        store.set_many(secrets(range(40)) | others(range(40)))
        assert 40 == store.erase(NAME)
        assert others(range(40)) == dict(store.scan())
        store.compact()
        assert others(range(40)) == dict(store.scan())
        assert [] == traces(path)
    remove_hints(path)
    with open_store(path, options=options(), hash_mask=hash_mask) as store:
        assert others(range(40)) == dict(store.scan())


def test_no_trace_is_left_beside_threads_that_read(path):
    """However often they hold the lock: what is erased is gone when `compact` returns."""
    stop = threading.Event()

    def read():
        while not stop.is_set():
            store.mget([b"public 003", b"none"])

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with Store.open(path, options=options(cache_bytes=0)) as store:
        store.set_many(others(range(20)))
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(40):
                store.set_many(secrets(range(20)))
                store.erase(NAME)
                store.compact()
                assert [] == traces(path)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(switching)


# Space


def image(path):
    return {file.name: (file.stat().st_ino, file.read_bytes()) for file in path.glob("shard-*/*")}


@pytest.mark.parametrize("segment_bytes", [256, 512, 4096, 1 << 20])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_second_compaction_has_nothing_to_do(path, segment_bytes, shards):
    with Store.open(path, shards=shards, options=options(segment_bytes=segment_bytes)) as store:
        for n in range(300):
            key = b"%d" % (n * n % 50)
            match n % 5:
                case 0:
                    store.delete(key)
                case 1:
                    store.set_many({key: b"%d" % n * 9, b"%d" % (n % 50): b""})
                case 2:
                    store.erase(b"%d" % (n % 7))
                case _:
                    store.set(key, b"%d" % n * 20, durability=Durability(n % 3))
        expected = dict(store.scan())
        store.compact()
        before = image(path)
        stats = store.stats()
        assert (0, 0) == (stats["reclaimable_bytes"], stats["tombstone_bytes"])
        assert stats["live_bytes"] == sum(fmt.record_bytes(len(k), len(v)) for k, v in expected.items())
        assert [0, 0] == [store.compact(), store.compact()]
        assert before == image(path)
        assert expected == dict(store.scan())
        assert [] == store.verify()
    with Store.open(path, options=options(segment_bytes=segment_bytes)) as store:
        assert 0 == store.compact()
        assert expected == dict(store.scan())


def test_a_tombstone_is_kept_for_an_older_value_elsewhere(path, tmp_path):
    """Compacted alone, with the value in a closed segment or, after reopening, in the one that is written to."""
    with Store.open(path, options=options(segment_bytes=1 << 20)) as store:
        shard = store._parts.shards[0]
        store.set_many({b"a": b"old", b"b": b"stays"})
        shard.log.close_segment()
        store.delete(b"a")
        shard.log.close_segment()
        with shard.compacting, shard.lock:
            sources = [segment for segment in closed(shard) if segment.tombstones]
        with shard.compacting:
            Compaction(shard, sources, lambda: None).run()
        assert fmt.TOMBSTONE_BYTES == store.stats()["tombstone_bytes"]
        shutil.copytree(path, tmp_path / "left")
    remove_hints(tmp_path / "left")
    for place in (path, tmp_path / "left"):
        for _ in range(2):
            with Store.open(place, options=options(segment_bytes=1 << 20)) as store:
                assert None is store.get(b"a")
                assert b"stays" == store.get(b"b")
                store.set(b"more", b"1")
                shard = store._parts.shards[0]
                with shard.compacting, shard.lock:
                    sources = [segment for segment in closed(shard) if segment.tombstones]
                with shard.compacting:
                    Compaction(shard, sources, lambda: None).run()
                assert fmt.TOMBSTONE_BYTES == store.stats()["tombstone_bytes"]


def test_a_tombstone_stays_while_an_older_value_does_and_goes_with_it(path):
    with Store.open(path, options=options(segment_bytes=1 << 20)) as store:
        shard = store._parts.shards[0]
        store.set_many({b"a": b"old", b"b": b"stays"})
        shard.log.close_segment()
        store.delete(b"a")
        shard.log.close_segment()
        store.set(b"c", b"1")
        stats = store.stats()
        assert fmt.TOMBSTONE_BYTES == stats["tombstone_bytes"]
        store.compact()
        assert 0 == store.stats()["tombstone_bytes"]
        assert {b"b": b"stays", b"c": b"1"} == dict(store.scan())
        store.delete(b"b")
        store.set(b"b", b"again")
        store.compact()
        assert 0 == store.stats()["tombstone_bytes"]
    remove_hints(path)
    with Store.open(path, options=options()) as store:
        assert {b"b": b"again", b"c": b"1"} == dict(store.scan())


@pytest.mark.parametrize("segment_bytes", [256, 600, 4096])
def test_a_store_that_is_emptied_shrinks_to_nothing(path, segment_bytes):
    with Store.open(path, options=options(segment_bytes=segment_bytes, durability=Durability.OS)) as store:
        for round_ in range(3):
            keys = [b"%d" % n for n in range(150)]
            for key in keys:
                store.set(key, key * 10)
            if round_ == 1:
                store.erase(b"")
            for key in keys:
                assert (round_ != 1) == store.delete(key)
            store.compact()
            assert 0 == len(store)
            stats = store.stats()
            assert (0, 0, 0) == tuple(stats[k] for k in ("live_bytes", "reclaimable_bytes", "tombstone_bytes"))
            assert size(path) <= 2 * fmt.HEADER_BYTES + 64
    with Store.open(path, options=options(segment_bytes=segment_bytes)) as store:
        assert 0 == len(store)
        assert 0 == store.compact()
        store.set(b"a", b"1")
    with Store.open(path) as store:
        assert {b"a": b"1"} == dict(store.scan())


def test_a_store_of_which_most_is_deleted_shrinks_to_what_is_left(path):
    with Store.open(path, options=options(segment_bytes=4096, durability=Durability.OS)) as store:
        for n in range(1000):
            store.set(b"%03d" % n, bytes(100))
        for n in range(1000):
            if n % 50:
                store.delete(b"%03d" % n)
        full = size(path)
        freed = store.compact()
        assert 20 == len(store)
        assert size(path) < full / 20
        assert freed > full * 0.9 - 8192
        store.close()
        assert size(path) < 20 * (fmt.record_bytes(3, 100) + 40) + 2000


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_was_deleted_stays_deleted_when_all_is_read_anew(path, rounds):
    """Whatever order segments were compacted in: without hints, from the records alone."""
    expected = {}
    for round_ in range(rounds):
        with Store.open(path, options=options(segment_bytes=300 + 200 * round_)) as store:
            for n in range(120):
                key = b"%d" % (n * 7 % 31)
                if (n + round_) % 4 == 0:
                    store.delete(key)
                    expected.pop(key, None)
                else:
                    expected[key] = b"%d.%d" % (round_, n) * 5
                    store.set(key, expected[key])
                if n % 25 == 24:
                    store.compact()
                    remove_hints(path)
            for key in list(expected)[::2]:
                store.delete(key)
                del expected[key]
            store.compact()
        remove_hints(path)
        for mode in ("r", "rw"):
            with Store.open(path, mode=mode, options=options()) as store:
                assert expected == dict(store.scan())
                assert [] == store.verify()
