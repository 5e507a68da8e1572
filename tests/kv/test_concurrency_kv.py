"""Many threads on one store: nothing is lost, nothing is seen too early or too late, nobody is woken for nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import permutations

import pytest

from skeg import ClosedError, SkegError, StorageError
from skeg.fileops import File, FileOps
from skeg.kv import Durability, Store, StoreOptions
from skeg.kv.compaction import Compaction, closed
from skeg.kv.store import open_store

PATIENCE_S = 60


class WatchedFile(File):
    """A file that tells its `WatchedOps` what is about to be done to it."""

    def __init__(self, ops, path, descriptor):
        super().__init__(descriptor)
        self.ops = ops
        self.path = path

    def pread(self, length, offset):
        data = super().pread(length, offset)
        self.ops.tell("pread", self.path)  # afterwards: what was read may be old by the time it is used
        return data

    def pwrite(self, data, offset):
        self.ops.tell("pwrite", self.path)
        return super().pwrite(data, offset)

    def sync(self):
        self.ops.tell("sync", self.path)
        super().sync()


class WatchedOps(FileOps):
    """The system's file operations; calls `before(verb, path)` for each, which may wait or raise."""

    def __init__(self):
        self.before = None
        self.count = {}

    def tell(self, verb, path):
        self.count[verb] = self.count.get(verb, 0) + 1
        if self.before is not None:
            self.before(verb, str(path))

    def open(self, path, *, write=False, create=False):
        file = super().open(path, write=write, create=create)
        descriptor, file._descriptor = file._descriptor, -1
        return WatchedFile(self, path, descriptor)

    def rename(self, source, target):
        self.tell("rename", target)
        super().rename(source, target)


class Gate:
    """Holds back the first thread that comes through for a verb until it is opened; `arrived` says that it came."""

    def __init__(self, ops, verb, *, ending="", error=None):
        self.arrived = threading.Event()
        self.opened = threading.Event()
        self.error = error
        ops.before = lambda found, path: found == verb and path.endswith(ending) and self.hold()

    def hold(self):
        if not self.arrived.is_set():
            self.arrived.set()
            assert self.opened.wait(PATIENCE_S)
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.opened.set()


def options(**changes):
    return StoreOptions(**{"background": False, "segment_bytes": 1 << 20} | changes)


@pytest.fixture
def ops():
    return WatchedOps()


@pytest.fixture
def store(tmp_path, ops):
    with open_store(tmp_path / "store", options=options(), files=ops) as opened:
        yield opened


def shard_of(store):
    return store._parts.shards[0]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(40) as threads:
        yield threads


def together(pool, n, work):
    """Run work(0), work(1), ... in threads that begin at the same time; their results."""
    barrier = threading.Barrier(n)

    def begin(number):
        barrier.wait(PATIENCE_S)
        return work(number)

    return [future.result(PATIENCE_S) for future in [pool.submit(begin, number) for number in range(n)]]


def until(condition, patience_s=PATIENCE_S):
    """Wait for something that other threads bring about; whether they did."""
    end = time.monotonic() + patience_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


# Nothing is lost


@pytest.mark.parametrize("level", [Durability.NONE, Durability.SYNC])
def test_appends_of_many_threads_all_land_whole(store, pool, level):
    lengths = together(pool, 20, lambda n: [store.append(b"a", b"<%02d>" % n, durability=level) for _ in range(10)])
    assert list(range(4, 804, 4)) == sorted(length for mine in lengths for length in mine)
    assert all(mine == sorted(mine) for mine in lengths)
    value = store.get(b"a")
    for n, mine in enumerate(lengths):
        assert {b"<%02d>" % n} == {value[end - 4 : end] for end in mine}


@pytest.mark.parametrize("shards", [1, 3])
def test_increments_of_many_threads_add_up(tmp_path, pool, shards):
    keys = [b"n", b"m", b"k1"]
    with Store.open(tmp_path / "store", shards=shards, options=options(segment_bytes=512, background=True)) as store:
        totals = together(pool, 8, lambda _: [store.incr(key) for _ in range(25) for key in keys])
        for number in range(3):
            assert list(range(1, 201)) == sorted(total for mine in totals for total in mine[number::3])
        store.compact()
        assert [b"200"] * 3 == store.mget(keys)
    with Store.open(tmp_path / "store") as store:
        assert [b"200"] * 3 == store.mget(keys)


def test_only_one_thread_sets_what_is_absent_and_only_one_deletes_it(store, pool):
    for _ in range(10):
        assert [False] * 7 + [True] == sorted(together(pool, 8, lambda n: store.set_if_absent(b"a", b"%d" % n)))
        assert [False] * 7 + [True] == sorted(together(pool, 8, lambda _: store.delete(b"a")))


def test_a_batch_is_seen_whole_by_scans(store, pool):
    """All keys of a batch, of the same batch; and scans that begin later see the same or more."""
    stop = threading.Event()

    def write():
        for n in range(150):
            store.set_many(dict.fromkeys([b"a", b"b", b"c"], b"%d" % n), durability=Durability(n % 3))
            if n % 50 == 0:
                store.compact()
        stop.set()

    def read():
        seen = []
        while not stop.is_set():
            values = {value for _, value in store.scan()}
            assert len(values) <= 1
            seen += map(int, values)
        return seen == sorted(seen)

    futures = [pool.submit(write), *(pool.submit(read) for _ in range(3))]
    assert [None, True, True, True] == [future.result(PATIENCE_S) for future in futures]


# Linearizability


def linearizable(history, value=None):
    """Whether calls (begin, end, name, argument, result) of one key can be put in an order that explains them.

    Depth-first (Wing and Gong 1993): next comes a call that began before any of the others had ended.
    """
    seen = set()

    def search(rest, value):
        if not rest:
            return True
        if (rest, value) in seen:
            return False
        seen.add((rest, value))
        first_end = min(history[i][1] for i in rest)
        for i in rest:
            begin, _, name, argument, result = history[i]
            if begin > first_end:
                continue
            if name == "get":
                fits, after = result == value, value
            elif name == "set":
                fits, after = True, argument
            elif name == "delete":
                fits, after = result == (value is not None), None
            else:
                fits, after = result == value, argument
            if fits and search(rest - {i}, after):
                return True
        return False

    return search(frozenset(range(len(history))), value)


def test_the_checker_of_histories_knows_right_from_wrong():
    write, read = (0, 3, "set", b"1", None), (1, 2, "get", None, b"1")
    assert linearizable([write, read])
    assert linearizable([write, (1, 2, "get", None, None)])
    assert not linearizable([write, (4, 5, "get", None, None)])
    assert not linearizable([write, read, (4, 5, "get", None, b"0")])
    assert not linearizable([(0, 1, "set", b"1", None), (2, 5, "delete", None, True), (3, 4, "delete", None, True)])
    assert linearizable([(0, 9, "get_set", b"%d" % n, b"%d" % (n - 1) if n else None) for n in (2, 0, 1)])
    assert not any(
        linearizable([(2 * n, 2 * n + 1, "get_set", order[n], before) for n, before in enumerate([b"x", b"y", b"z"])])
        for order in permutations([b"x", b"y", b"z"])
    )


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_what_threads_do_to_a_key_is_explained_by_some_order(tmp_path, ops, pool, cache_bytes):
    """Of sets, deletes, exchanges and reads of every durability, beside rotation and compaction."""
    rng = random.Random(5)
    switching = sys.getswitchinterval()
    clock = iter(range(1 << 60))
    with open_store(
        tmp_path / "store", options=options(segment_bytes=512, cache_bytes=cache_bytes), files=ops
    ) as store:

        def work(number):
            own = random.Random(number)
            mine = []
            for n in range(5):
                name = own.choice(["get", "get", "set", "delete", "get_set"])
                argument = b"%d.%d" % (number, n) if name in {"set", "get_set"} else None
                how = {} if name == "get" else {"durability": own.choice(list(Durability))}
                begin = next(clock)
                result = getattr(store, name)(b"a", *([argument] if argument else []), **how)
                mine.append((begin, next(clock), name, argument, result))
            return mine

        sys.setswitchinterval(1e-5)
        try:
            for _ in range(60):
                before = store.get(b"a")
                compacting = pool.submit(store.compact)
                numbers = rng.sample(range(1000), 4)
                history = [call for mine in together(pool, 4, lambda n: work(numbers[n])) for call in mine]  # noqa: B023
                compacting.result(PATIENCE_S)
                history.append((1 << 61, 1 << 62, "get", None, store.get(b"a")))
                assert linearizable(history, before), history
        finally:
            sys.setswitchinterval(switching)


# Readers beside writers


def test_readers_never_miss_a_value_while_segments_come_and_go(tmp_path, pool):
    """Each key always has a value that it was given, never an older one than a reader has seen."""
    with Store.open(
        tmp_path / "store", options=options(segment_bytes=2000, cache_bytes=3000, background=True)
    ) as store:
        keys = [b"%d" % n for n in range(20)]
        store.set_many(dict.fromkeys(keys, b"0" * 100))
        stop = threading.Event()

        def read(number):
            latest = dict.fromkeys(keys, 0)
            while not stop.is_set():
                for key, value in zip(keys, store.mget(keys), strict=True) if number % 2 else store.scan():
                    assert int(value[:9]) >= latest[key]
                    latest[key] = int(value[:9])

        readers = [pool.submit(read, number) for number in range(4)]
        try:
            for n in range(1, 1500):
                store.set(keys[n * n % 20], (b"%09d" % n) * 12, durability=Durability.OS)
                if n % 300 == 0:
                    store.compact()
        finally:
            stop.set()
        for reader in readers:
            reader.result(PATIENCE_S)
        assert store.stats()["background_error"] is None
        assert [] == store.verify()


CHANGES = {
    "set": lambda store: store.set(b"a", b"new"),
    "set_many": lambda store: store.set_many({b"a": b"new", b"b": b"new"}),
    "delete": lambda store: store.delete(b"a"),
    "erase": lambda store: store.erase(b""),
    "append": lambda store: store.append(b"a", b"new"),
    "compact": lambda store: (store.set(b"b", b""), shard_of(store).log.close_segment(), store.compact()),
    "delete, compact and set": lambda store: (store.delete(b"a"), store.compact(), store.set(b"a", b"new")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_slow_read_leaves_nothing_stale_behind(store, ops, pool, change):
    """What is read from the disk is old before it gets to the cache: it may be returned, but not kept."""
    store.set_many({b"a": b"old", b"b": b"old"})
    with Gate(ops, "pread") as gate:
        slow = pool.submit(store.get, b"a")
        assert gate.arrived.wait(PATIENCE_S)
        CHANGES[change](store)
        now = dict(store.scan()).get(b"a")
    assert b"old" == slow.result(PATIENCE_S)
    assert [now, now] == [store.get(b"a"), *store.mget([b"a"])]
    assert now == (
        b"old" if change == "compact" else None if change in {"delete", "erase"} else store.get_set(b"a", b"")
    )


def test_a_segment_may_be_removed_while_it_is_read(store, ops, pool):
    store.set_many({b"%d" % n: b"%d" % n * 50 for n in range(20)})
    store.delete(b"7")
    with Gate(ops, "pread") as gate:
        slow = pool.submit(store.mget, [b"3", b"4", b"5"])
        assert gate.arrived.wait(PATIENCE_S)
        assert store.compact() > 0
        store.set(b"5", b"new")
    assert [b"3" * 50, b"4" * 50, b"new"] == slow.result(PATIENCE_S)


# Group commit


def test_writers_that_come_during_a_sync_share_the_next_one(store, ops, pool):
    store.set(b"first", b"")
    with Gate(ops, "sync") as gate:
        leader = pool.submit(store.set, b"leader", b"")
        assert gate.arrived.wait(PATIENCE_S)
        before = dict(ops.count)
        followers = [pool.submit(store.set, b"%d" % n, b"") for n in range(30)]
        assert until(lambda: 32 == len(store))
        assert not leader.done()
        assert not any(follower.done() for follower in followers)
        assert before == ops.count
    for future in [leader, *followers]:
        future.result(PATIENCE_S)
    assert (before["sync"] + 1, before["pwrite"] + 1) == (ops.count["sync"], ops.count["pwrite"])
    assert store.durable_seq == store.stats()["seq"] == 32


def test_each_writer_alone_costs_one_sync(store, ops):
    store.set(b"first", b"")
    before = dict(ops.count)
    for n in range(10):
        store.set(b"%d" % n, b"")
        store.set_many({b"a": b"", b"b": b"%d" % n})
    assert 20 == ops.count["sync"] - before["sync"]


# What each call says of a key that has the value 1, and of one that has none.
SEEING = {
    "get": (lambda store, key: store.get(key), b"1", None),
    "mget": (lambda store, key: store.mget([b"still", key]), [b"1", b"1"], [b"1", None]),
    "in": (lambda store, key: key in store, True, False),
    "delete": (lambda store, key: store.delete(key), True, False),
    "set_if_absent": (lambda store, key: store.set_if_absent(key, b"2"), False, True),
    "set_if_present": (lambda store, key: store.set_if_present(key, b"2"), True, False),
    "get_set": (lambda store, key: store.get_set(key, b"2"), b"1", None),
    "scan": (lambda store, key: dict(store.scan()).get(key), b"1", None),
    "erase": (lambda store, key: store.erase(key), 1, 0),
    "append of nothing": (lambda store, key: store.append(key, b""), 1, 0),
}


@pytest.mark.parametrize("call", SEEING)
@pytest.mark.parametrize("key", [b"new", b"deleted", b"changed"])
def test_who_sees_what_is_not_durable_waits_until_it_is(store, ops, pool, call, key):
    store.set_many({b"still": b"1", b"deleted": b"1", b"changed": b"0"})
    assert [b"1", b"0"] == store.mget([b"deleted", b"changed"])
    see, present, absent = SEEING[call]
    begun = threading.Event()

    def read():
        begun.set()
        return see(store, key)

    with Gate(ops, "sync") as gate:
        writers = [pool.submit(store.delete, b"deleted")]
        assert gate.arrived.wait(PATIENCE_S)
        writers += [pool.submit(store.set, b"new", b"1"), pool.submit(store.set, b"changed", b"1")]
        assert until(lambda: 6 == store.stats()["seq"])
        reader = pool.submit(read)
        assert begun.wait(PATIENCE_S)
        # What nobody is writing is answered meanwhile, so readers do not simply stand in line.
        for _ in range(20):
            assert b"1" == store.get(b"still")
            assert [None, b"1"] == store.mget([b"never", b"still"])
        assert not reader.done()
    assert (absent if key == b"deleted" else present) == reader.result(PATIENCE_S)
    for writer in writers:
        writer.result(PATIENCE_S)


def test_a_read_of_what_fails_sees_what_was_there_before(store, ops, pool):
    store.set(b"a", b"old")
    with Gate(ops, "pwrite", error=errno.ENOSPC) as gate:
        writer = pool.submit(store.set, b"a", b"new")
        assert gate.arrived.wait(PATIENCE_S)
        readers = [pool.submit(store.get, b"a"), pool.submit(lambda: dict(store.scan()))]
        followers = [pool.submit(store.append, b"a", b"+"), pool.submit(store.delete, b"a")]
        assert until(lambda: store.stats()["seq"] > 2)
    assert [b"old", {b"a": b"old"}] == [reader.result(PATIENCE_S) for reader in readers]
    for failed in (writer, *followers):
        with contextlib.suppress(SkegError):  # a follower may have come after the failure
            failed.result(PATIENCE_S)
    assert isinstance(writer.exception(), StorageError)
    store.set(b"a", b"works again")
    assert b"works again" == store.get(b"a")
    assert [] == store.verify()


def test_what_a_failed_commit_gives_back_is_not_lost_to_a_compaction_under_way(store, ops, pool):
    """The old record counts again after the compaction has looked which ones do."""
    store.set_many({b"a": b"old" * 9, b"b": b"old" * 9})
    shard_of(store).log.close_segment()
    store.set(b"c", b"1")
    gate = Gate(ops, "pwrite", error=errno.ENOSPC)
    writer = pool.submit(store.set, b"a", b"new")
    assert gate.arrived.wait(PATIENCE_S)

    def pause():
        gate.opened.set()
        assert writer.exception(PATIENCE_S)

    shard = shard_of(store)
    with shard.compacting, contextlib.suppress(StorageError):
        Compaction(shard, closed(shard), pause).run()
    gate.opened.set()
    expected = {b"a": b"old" * 9, b"b": b"old" * 9, b"c": b"1"}
    assert expected == dict(store.scan())
    assert list(expected.values()) == store.mget(expected)
    store.compact()
    assert [] == store.verify()
    store.close()
    with Store.open(store.path) as again:
        assert expected == dict(again.scan())


def test_what_a_failed_commit_gives_back_may_have_moved_meanwhile(store, ops, pool):
    """The old record was copied and its file removed while the new one was on its way to the disk."""
    store.set_many({b"a": b"old" * 9, b"b": b"old" * 9})
    shard = shard_of(store)
    shard.log.close_segment()
    store.set(b"c", b"1")
    gate = Gate(ops, "pwrite", ending=".log", error=errno.ENOSPC)
    hold, writers = ops.before, []

    def before(verb, path):
        if path.endswith(".tmp") and not writers:
            writers.append(pool.submit(store.set, b"a", b"new"))
            assert gate.arrived.wait(PATIENCE_S)
        hold(verb, path)

    ops.before = before
    with shard.compacting:
        Compaction(shard, closed(shard), lambda: None).run()
    assert 1 == len(writers)
    gate.opened.set()
    assert isinstance(writers[0].exception(PATIENCE_S), StorageError)
    expected = {b"a": b"old" * 9, b"b": b"old" * 9, b"c": b"1"}
    assert list(expected.values()) == store.mget(expected)
    assert expected == dict(store.scan())
    assert [] == store.verify()
    assert 0 == store.stats()["reclaimable_bytes"]
    store.close()
    with Store.open(store.path) as again:
        assert expected == dict(again.scan())


@pytest.mark.parametrize("pauses", range(1, 8))
def test_a_scan_may_end_at_any_moment_of_a_compaction(store, pauses):
    """Then files go that the scan had kept, those of outputs without records too, and nobody needs them."""
    shard = shard_of(store)
    store.set(b"kept", b"1")
    shard.log.close_segment()
    for key in (b"a", b"b"):
        store.set(key, b"1")
        store.delete(key)
        shard.log.close_segment()
        if key == b"a":
            scan = store.scan()
            assert (b"kept", b"1") == next(scan)
            store.compact()
    calls = []

    def pause():
        calls.append(None)
        if len(calls) == pauses:
            scan.close()

    with shard.compacting, shard.lock:
        sources = [segment for segment in closed(shard) if segment.tombstones]
    with shard.compacting:
        Compaction(shard, sources, pause).run()
    scan.close()
    store.compact()
    assert {b"kept": b"1"} == dict(store.scan())
    assert [] == store.verify()
    assert 0 == store.stats()["retired_bytes"]


def test_the_segment_before_may_be_removed_while_the_next_one_is_made(store, ops, pool, monkeypatch):
    """Its end is synced before the next one begins, unless it is gone, at whatever moment it goes."""
    shard = shard_of(store)
    store.set(b"a", b"1")
    store.delete(b"a")
    shard.log.close_segment()
    get = shard.folder.get

    def get_and_rest(number):
        found = get(number)
        if not gate.opened.is_set():
            gate.opened.set()
            wait([compacting], 0.2)
        return found

    with Gate(ops, "rename", ending=".log") as gate:
        compacting = pool.submit(store.compact)
        assert gate.arrived.wait(PATIENCE_S)
        monkeypatch.setattr(shard.folder, "get", get_and_rest)
        store.set(b"b", b"1")
    assert compacting.result(PATIENCE_S) > 0
    store.set(b"c", b"1")
    assert {b"b": b"1", b"c": b"1"} == dict(store.scan())
    assert [] == store.verify()


# Closing, while others are at work


def test_closing_waits_for_the_commit_of_another_thread(tmp_path, ops, pool):
    """Nothing is written any more when the lock is free: by then the folder may belong to somebody else."""
    store = open_store(tmp_path / "store", options=options(), files=ops)
    store.set(b"a", b"1")
    late = []

    def before(verb, path):
        if verb == "rename":  # of the hint that closing writes; all that came before the closing was synced before that
            gate = Gate(ops, "pwrite")
            writer = pool.submit(store.set, b"late", b"1")
            until(lambda: gate.arrived.is_set() or writer.done(), 1)
            late.append((gate, writer))

    ops.before = before
    closing = pool.submit(store.close)
    assert until(lambda: late)
    gate, writer = late[0]
    too_early = gate.arrived.is_set() and until(closing.done, 0.2)
    gate.opened.set()
    closing.result(PATIENCE_S)
    acknowledged = [b"a", *([b"late"] if writer.exception(PATIENCE_S) is None else [])]
    assert not too_early
    with Store.open(tmp_path / "store") as again:
        assert acknowledged == sorted(dict(again.scan()))
        assert [] == again.verify()


@pytest.mark.parametrize("round_", range(8))
def test_threads_on_a_store_that_is_closed_get_an_error_or_keep_what_they_were_told(tmp_path, pool, round_):
    store = Store.open(tmp_path / "store", options=options(segment_bytes=512, background=True))

    def work(number):
        acknowledged = []
        try:
            for n in range(100_000):
                key = b"%d.%d" % (number, n)
                store.set(key, b"v" * 20)
                acknowledged.append(key)
                store.get(key)
        except ClosedError:
            return acknowledged
        raise AssertionError

    workers = [pool.submit(work, number) for number in range(5)]
    assert until(lambda: len(store) >= 20 * round_)
    store.close()
    acknowledged = [key for worker in workers for key in worker.result(PATIENCE_S)]
    with Store.open(tmp_path / "store") as again:
        assert [b"v" * 20] * len(acknowledged) == again.mget(acknowledged)
        assert [] == again.verify()


# Idleness


def test_an_idle_store_has_no_thread(tmp_path):
    before = threading.active_count()
    with Store.open(tmp_path / "store") as store:
        for n in range(10):
            store.set(b"%d" % n, b"1")
        store.get(b"1")
        dict(store.scan())
        store.delete(b"1")
        assert before == threading.active_count()
    with Store.open(tmp_path / "store", mode="r"):
        assert before == threading.active_count()


def test_the_background_thread_sleeps_without_a_timer_when_it_is_done(tmp_path):
    """It has compacted and synced; then it waits until it is woken, however long that takes."""
    with Store.open(tmp_path / "store", options=options(segment_bytes=512, background=True)) as store:
        for n in range(60):
            store.set(b"%d" % (n % 5), bytes(100), durability=Durability.OS)
        maintenance = store._parts.maintenance
        timeouts = []
        asleep = threading.Event()
        wait = maintenance._wake.wait

        def watched(timeout=None):
            timeouts.append(timeout)
            if timeout is None:
                asleep.set()
            return wait(timeout)

        maintenance._wake.wait = watched
        store.set(b"0", b"1", durability=Durability.OS)
        assert asleep.wait(PATIENCE_S)
        # It may have been asleep before, too.
        assert until(lambda: timeouts[-1] is None and store.stats()["seq"] == store.durable_seq)
        assert store.stats()["background_compactions"] > 0
        assert store.stats()["background_error"] is None
    assert not any(thread.name.startswith("skeg-kv") for thread in threading.enumerate())


# Forks

FORK = """
import os, signal, sys
from skeg.errors import ClosedError
from skeg.kv import Durability, Store, StoreOptions

path = sys.argv[1]
store = Store.open(path, options=StoreOptions(segment_bytes=512, background=False))
store.set(b"a", b"1")
shard = store._parts.shards[0]
calls = {
    "get": lambda: store.get(b"a"),
    "in": lambda: b"a" in store,
    "mget": lambda: store.mget([b"a"]),
    "len": lambda: len(store),
    "set": lambda: store.set(b"a", b"2"),
    "set_many": lambda: store.set_many({b"a": b"2", b"b": b"2"}),
    "delete": lambda: store.delete(b"a"),
    "scan": lambda: list(store.scan()),
    "erase": lambda: store.erase(b""),
    "compact": store.compact,
    "sync": store.sync,
    "stats": store.stats,
    "verify": store.verify,
    "snapshot": lambda: store.snapshot(path + "-copy"),
}
store.get(b"a")
# What other threads of the parent hold at the moment of the fork is never let go of in the child.
with shard.compacting, shard.lock:
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs
        for name, call in calls.items():
            try:
                call()
            except ClosedError:
                continue
            print(name, "did not raise", flush=True)
            os._exit(1)
        store.close()
        try:
            Store.open(path)
        except BaseException as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
assert 0 == os.waitpid(child, 0)[1]
for n in range(20):
    store.set(b"%d" % n, bytes(100))
assert b"1" == store.get(b"a")
store.compact()
assert [] == store.verify()
store.close()
with Store.open(path) as store:
    assert 21 == len(store)
print("the parent went on")
"""


def test_a_fork_leaves_the_store_to_the_parent(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (0, "LockedError\nthe parent went on\n") == (done.returncode, done.stdout), done.stderr


FORK_OF_A_READER = """
import os, signal, sys
from skeg import ReadOnlyError
from skeg.kv import Store, StoreOptions

path = sys.argv[1]
with Store.open(path, shards=2, options=StoreOptions(background=False, segment_bytes=1000)) as store:
    store.set_many((b"%d" % n, bytes(100)) for n in range(50))
store = Store.open(path, mode="r")
store.get(b"1")
shards = store._parts.shards
# What other threads of the parent hold at the moment of the fork is never let go of in the child.
with shards[0].compacting, shards[0].lock, shards[1].purging, shards[1].lock:
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs
        status = 1
        try:
            assert [bytes(100)] * 50 == store.mget(b"%d" % n for n in range(50))
            assert 50 == len(store) == len(dict(store.scan())) == len(store.scan_keys(0, 1000)[1])
            assert 50 == store.stats()["keys"] and [] == store.verify()
            store.snapshot(path + "-copy")
            try:
                store.set(b"a", b"")
            except ReadOnlyError:
                store.close()
                status = 0
        finally:
            os._exit(status)
assert 0 == os.waitpid(child, 0)[1]
assert bytes(100) == store.get(b"2")
print("both read")
"""


def test_a_store_that_is_only_read_is_used_by_parent_and_child(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORK_OF_A_READER, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (0, "both read\n") == (done.returncode, done.stdout), done.stderr
