"""Key-value stores under one interface, and the process in which one of them is measured.

Every engine is set so that a write survives power loss once its call has returned, and may keep 32 MiB of what it has
read (lmdb leaves that to the system). What the disk itself is able to do is an engine too: the bytes that skeg would
write, and an fdatasync, without a store around them.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from harness import process
from harness.memory import MIB, resident

KEY_BYTES, VALUE_BYTES = 16, 100
CACHE_BYTES = 32 * MIB
# Keys that fit into that cache many times.
HOT_KEYS = 10_000
CHUNK = 10_000
_READS = 100_000
# Keys of writes that are measured are not those that were loaded.
_LOADED, _WRITTEN = 0, 1

Pairs = list[tuple[bytes, bytes]]


def pairs_of(count: int, *seed: int) -> Pairs:
    """Random keys and values, the same for the same seed."""
    random_bytes = random.Random(repr(seed)).randbytes
    keys, values = random_bytes(count * KEY_BYTES), random_bytes(count + VALUE_BYTES)
    return [(keys[i * KEY_BYTES : (i + 1) * KEY_BYTES], values[i : i + VALUE_BYTES]) for i in range(count)]


def chunks(rows: int) -> Iterator[Pairs]:
    """The first `rows` pairs of the data set that stores are loaded with, in parts."""
    for start in range(0, rows, CHUNK):
        yield pairs_of(CHUNK, _LOADED, start)[: rows - start]


class Engine:
    """One store in `folder`; `get` is set by `open`, so that reads go through no call of ours."""

    distribution: ClassVar[str]
    setting: ClassVar[str]
    get: Any

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def set(self, key: bytes, value: bytes) -> None:
        self.set_many([(key, value)])

    def set_many(self, pairs: Pairs) -> None:
        raise NotImplementedError


class Skeg(Engine):
    distribution = "pyskeg"
    setting = "Durability.SYNC"

    def __init__(self, folder: Path, *, durability: str = "SYNC", **settings: Any) -> None:
        super().__init__(folder)
        from skeg.kv import Durability, Store, StoreOptions

        self.make = partial(Store.open, folder, options=StoreOptions(durability=Durability[durability], **settings))

    def open(self) -> None:
        self.store = self.make()
        self.get, self.set, self.set_many = self.store.get, self.store.set, self.store.set_many

    def close(self) -> None:
        self.store.close()


class Sqlite(Engine):
    distribution = "sqlite3"
    setting = "WAL, synchronous=FULL"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import sqlite3

        self.connect = partial(sqlite3.connect, folder / "db", isolation_level=None)

    def open(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.connection = self.connect()
        self.execute = self.connection.execute
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"cache_size=-{CACHE_BYTES >> 10}"):
            self.execute(f"PRAGMA {pragma}")
        self.execute("CREATE TABLE IF NOT EXISTS kv (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        execute = self.execute
        self.get = lambda key: execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()[0]

    def close(self) -> None:
        self.connection.close()

    def set_many(self, pairs: Pairs) -> None:
        self.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", pairs)
        self.execute("COMMIT")


class Lmdb(Engine):
    distribution = "lmdb"
    setting = "sync=True (its default)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import lmdb

        self.make = partial(lmdb.open, str(folder), map_size=64 << 30)

    def open(self) -> None:
        self.environment = self.make()
        begin = self.environment.begin

        def get(key: bytes) -> bytes:
            with begin() as transaction:
                return transaction.get(key)

        self.get = get

    def close(self) -> None:
        self.environment.close()

    def set_many(self, pairs: Pairs) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(pairs)


class LmdbHeld(Lmdb):
    """All reads in one transaction: the quickest way, but it sees no write that comes after its beginning."""

    setting = "one transaction for all reads"

    def open(self) -> None:
        super().open()
        self.transaction = self.environment.begin()
        self.get = self.transaction.get

    def close(self) -> None:
        self.transaction.abort()
        super().close()


class DiskCache(Engine):
    distribution = "diskcache"
    setting = "sqlite_synchronous=FULL, no eviction"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import diskcache

        # Its page cache is 8192 pages of 4 KiB by default, which are our 32 MiB.
        self.make = partial(diskcache.Cache, str(folder), eviction_policy="none", cull_limit=0, sqlite_synchronous=2)

    def open(self) -> None:
        self.cache = self.make()
        self.get, self.set = self.cache.get, self.cache.set

    def close(self) -> None:
        self.cache.close()

    def set_many(self, pairs: Pairs) -> None:
        with self.cache.transact():
            for key, value in pairs:
                self.cache.set(key, value)


class SemiDbm(Engine):
    """Has no durable setting: a batch of ours ends with its `sync`, an fsync. It reads without checking checksums."""

    distribution = "semidbm"
    setting = "sync() called after each write or batch"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import semidbm

        self.make = partial(semidbm.open, str(folder), "c")

    def open(self) -> None:
        self.db = self.make()
        self.get = self.db.__getitem__

    def close(self) -> None:
        self.db.close()

    def set_many(self, pairs: Pairs) -> None:
        for key, value in pairs:
            self.db[key] = value
        self.db.sync()


class RocksDict(Engine):
    distribution = "rocksdict"
    setting = "WriteOptions.sync, Bloom filter of 10 bits a key"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import rocksdict

        self.module = rocksdict

    def open(self) -> None:
        rocks = self.module
        options, blocks, durable = rocks.Options(raw_mode=True), rocks.BlockBasedOptions(), rocks.WriteOptions()
        options.create_if_missing(True)
        blocks.set_bloom_filter(10, False)
        blocks.set_block_cache(rocks.Cache(CACHE_BYTES))
        options.set_block_based_table_factory(blocks)
        durable.sync = True
        self.db = rocks.Rdict(str(self.folder), options)
        self.db.set_write_options(durable)
        self.get, self.set = self.db.get, self.db.put

    def close(self) -> None:
        self.db.close()

    def set_many(self, pairs: Pairs) -> None:
        batch = self.module.WriteBatch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self.db.write(batch)


class Disk(Engine):
    """One pwrite of the bytes that skeg would write, and an fdatasync, at the end of a file that grows."""

    distribution = ""
    setting = "pwrite + fdatasync, growing file"
    allocated = 0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from skeg.kv.format import RECORD_BYTES, record_bytes

        self.one, self.batch = record_bytes(KEY_BYTES, VALUE_BYTES), RECORD_BYTES
        self.payload = os.urandom(MIB)

    def open(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.file = os.open(self.folder / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.offset = 0
        if self.allocated:
            os.posix_fallocate(self.file, 0, self.allocated)

    def close(self) -> None:
        os.close(self.file)

    def set(self, key: bytes, value: bytes) -> None:  # noqa: ARG002
        self._write(self.one)

    def set_many(self, pairs: Pairs) -> None:
        self._write(self.batch + len(pairs) * self.one)

    def _write(self, size: int) -> None:
        self.offset += os.pwrite(self.file, self.payload[:size], self.offset)
        os.fdatasync(self.file)


class DiskAllocated(Disk):
    """The same in a file whose blocks were allocated before."""

    setting = "pwrite + fdatasync, preallocated file"
    allocated = 512 * MIB


ENGINES: dict[str, type[Engine]] = {
    "skeg": Skeg,
    "sqlite": Sqlite,
    "lmdb": Lmdb,
    "lmdb-held": LmdbHeld,
    "diskcache": DiskCache,
    "semidbm": SemiDbm,
    "rocksdict": RocksDict,
    "disk": Disk,
    "disk-allocated": DiskAllocated,
}


class Measurements:
    """What a worker can be asked for; lives in the process of its engine."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        self.engine = ENGINES[name](folder, **settings)
        self.name = name
        self.folder = folder
        self.pairs: Pairs = []

    def open(self) -> None:
        self.engine.open()

    def close(self) -> None:
        self.engine.close()

    def load(self, rows: int) -> None:
        """Make a store with the first `rows` pairs, and close it."""
        self.engine.open()
        for pairs in chunks(rows):
            self.engine.set_many(pairs)
        self.engine.close()

    def write(self, size: int, calls: int, seed: int) -> float:
        """Durable writes a second: `calls` batches of `size` new keys, or single ones."""
        pairs = pairs_of(size * calls, _WRITTEN, size, seed)
        batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        gc.freeze()
        start = time.perf_counter()
        if size == 1:
            for key, value in pairs:
                self.engine.set(key, value)
        else:
            for batch in batches:
                self.engine.set_many(batch)
        return len(pairs) / (time.perf_counter() - start)

    def expect(self, rows: int) -> None:
        """Draw the keys that are read from the first `rows` pairs of the store."""
        self.pairs = [pair for pairs in chunks(rows) for pair in pairs]
        for key, value in self.pairs[:: max(1, rows // 1000)]:
            assert bytes(self.engine.get(key)) == value, f"{self.name} returned a wrong value"

    def read(self, least_s: float, seed: int) -> float:
        """Random reads a second, one call each, after as many that fill the caches."""
        get = self.engine.get

        def one_by_one(keys: list[bytes]) -> None:
            for key in keys:
                get(key)

        return self._read(one_by_one, least_s, seed)

    def mget(self, size: int, least_s: float, seed: int) -> float:
        """Keys a second of skeg's `mget`, calls of `size` random keys."""
        mget = self.engine.store.mget

        def many(keys: list[bytes]) -> None:
            for i in range(0, len(keys), size):
                mget(keys[i : i + size])

        return self._read(many, least_s, seed)

    def _read(self, act: Callable[[list[bytes]], None], least_s: float, seed: int) -> float:
        draw = random.Random(seed)
        act([key for key, _ in draw.choices(self.pairs, k=_READS)])
        elapsed, reads = 0.0, 0
        while elapsed < least_s:  # other keys each time: else those of a large store would be in the cache as well
            keys = [key for key, _ in draw.choices(self.pairs, k=_READS)]
            start = time.perf_counter()
            act(keys)
            elapsed += time.perf_counter() - start
            reads += _READS
        return reads / elapsed

    def open_and_get(self, rows: int) -> float:
        """Seconds to open a store of `rows` pairs and read one; this process has not opened any before."""
        key, value = next(chunks(rows))[-1]
        start = time.perf_counter()
        self.engine.open()
        found = self.engine.get(key)
        elapsed = time.perf_counter() - start
        assert bytes(found) == value
        self.engine.close()
        return elapsed

    def warm(self) -> None:
        """Recover another store without hints, so that what skeg imports and compiles for that is not counted below."""
        other = type(self.engine)(self.folder.with_name("warm"))
        importlib.import_module("skeg.kv.kernels.scan")  # with a small store, skeg would do without
        other.open()
        other.set_many(pairs_of(CHUNK, _WRITTEN))
        other.close()
        remove_hints(other.folder)
        other.open()
        other.close()

    def load_and_weigh(self, rows: int) -> dict[str, float]:
        """Memory of a store while it is filled: bytes a key in the index, and in the process."""
        self.warm()
        gc.collect()
        before = resident().anonymous
        self.engine.open()
        for pairs in chunks(rows):
            self.engine.set_many(pairs)
        return self._weigh(rows, before)

    def open_and_weigh(self, rows: int) -> dict[str, float]:
        """The same for a store that was just opened; how long that took, and on how much CPU time."""
        self.warm()
        gc.collect()
        before, cpu, wall = resident().anonymous, time.process_time(), time.perf_counter()
        self.engine.open()
        took = {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        return {**self._weigh(rows, before), **took}

    def _weigh(self, rows: int, before: int) -> dict[str, float]:
        assert len(self.engine.store) == rows
        gc.collect()
        weights = {
            "index": self.engine.store.stats()["index_bytes"] / rows,
            "process": (resident().anonymous - before) / rows,
        }
        self.engine.close()
        return weights

    def stale(self, rows: int, times: int) -> None:
        """Make a store of `rows` keys, each of them written several times: work for compaction."""
        self.engine.open()
        for _ in range(times):
            for pairs in chunks(rows):
                self.engine.set_many(pairs)
        self.engine.close()

    def pauses(self, rows: int, seconds: float) -> dict[str, Any]:
        """Seconds that each call of a loop took which overwrites and reads random keys of a store."""
        pairs = [pair for each in chunks(rows) for pair in each]
        draw = random.Random(rows)
        took: dict[str, list[float]] = {"set": [], "get": [], "set_many of 64": []}
        self.engine.open()
        before = self._compactions()
        end, clock = time.perf_counter() + seconds, time.perf_counter
        while (start := clock()) < end:
            for _ in range(8):
                key, value = draw.choice(pairs)
                start = clock()
                self.engine.set(key, value)
                middle = clock()
                self.engine.get(key)
                took["get"].append(clock() - middle)
                took["set"].append(middle - start)
            batch = draw.choices(pairs, k=64)
            start = clock()
            self.engine.set_many(batch)
            took["set_many of 64"].append(clock() - start)
        compactions = self._compactions() - before
        self.engine.close()
        return {"compactions": compactions, "quantiles": {name: quantiles(each) for name, each in took.items()}}

    def _compactions(self) -> int:
        return self.engine.store.stats()["background_compactions"]


def quantiles(took: list[float]) -> dict[str, float]:
    """How many calls there were, and seconds that half of them, 99 %, 99.9 % and all of them took at most."""
    took.sort()
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}
    return {"calls": len(took), **{name: took[int(share * (len(took) - 1))] for name, share in shares.items()}}


def remove_hints(folder: Path) -> None:
    for hint in folder.rglob("*.hint"):
        hint.unlink()


class Worker(process.Worker):
    """A process of its own for one engine; call methods of `Measurements` by name."""

    def __init__(self, name: str, folder: Path, **settings: Any) -> None:
        super().__init__(Measurements, name, folder, settings)
