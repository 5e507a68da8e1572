"""The key-value store: keys and values of bytes in a folder, durable and crash-safe."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

from skeg.checks import as_int
from skeg.durability import Durability
from skeg.errors import CorruptError, ParameterError, StorageError
from skeg.fileops import SYSTEM, FileOps
from skeg.files import AnyPath
from skeg.kv import format as fmt
from skeg.kv.arguments import as_delta, as_items, as_key, as_keys, as_value
from skeg.kv.backup import copy_store
from skeg.kv.closing import finish
from skeg.kv.compaction import compact_shard
from skeg.kv.cursor import scan_keys
from skeg.kv.entries import HASH_MASK
from skeg.kv.erasing import erase_prefix
from skeg.kv.maintenance import Maintenance
from skeg.kv.opening import Opened, open_folder
from skeg.kv.options import StoreOptions
from skeg.kv.parts import Parts
from skeg.kv.rounds import Round
from skeg.kv.shard import Shard
from skeg.kv.snapshot import Snapshot
from skeg.kv.statistics import shard_statistics, statistics
from skeg.kv.verify import verify_shard

_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


class Store:
    """Keys and values in a folder; make one with `Store.open`. Any number of threads may use it.

    Keys are bytes of up to 65,535, the empty key included, values bytes of up to 512 MiB. An operation that returned is
    as durable as its `Durability` says, and nothing that another thread has written is seen before that.

    All methods raise `ParameterError` for arguments of the wrong type or size, `ClosedError` after `close` and in the
    child of a fork, `StorageError` when the disk refuses and `CorruptError` when it returns damaged bytes;
    methods that write raise `ReadOnlyError` when the store was opened for reading. That one can be used after a fork.
    """

    def __init__(self, opened: Opened, options: StoreOptions) -> None:
        self.path = opened.path
        self.manifest = opened.manifest
        self.options = options
        self._recovered = opened.recovered
        self._lock = opened.lock
        self._closed = False
        maintenance = None
        if opened.lock is not None and options.background:
            maintenance = Maintenance(opened.shards, options.segment_bytes)
            for shard in opened.shards:
                shard.log.on_closed = maintenance.tidy
        self._parts = Parts(opened.shards, options.durability, maintenance)
        _open_stores.add(self)

    @classmethod
    def open(
        cls,
        path: AnyPath,
        *,
        shards: int | None = None,
        mode: str = "rw",
        options: StoreOptions | None = None,
    ) -> Store:
        """Open the store in a folder.

        Parameters
        ----------
        path : path
            The folder; made if it is missing and `mode` is "rw".
        shards : int, optional
            Number of shards of a new store, 1 by default; of an existing one, what it has to be.
        mode : str
            "rw": this process alone may write. "r": the store as it is now, beside any other process; takes no lock and
            writes nothing.
        options : StoreOptions, optional
            The defaults are good.

        Returns
        -------
        Store
            Close it, or use it in a ``with`` block.

        Raises
        ------
        LockedError
            Another process has it open for writing; the message says which.
        CorruptError
            It is damaged; the message says where. `StoreOptions.salvage` opens it with what is whole.
        FormatError
            No store, or of a newer version (`VersionTooNewError`).
        ParameterError
            An option out of range, or another number of shards.
        StorageError
            The disk refused.
        """
        if options is not None and not isinstance(options, StoreOptions):
            raise ParameterError("options", options, "a StoreOptions")
        return open_store(path, shards=shards, mode=mode, options=options or StoreOptions())

    # --- one key

    def get(self, key: bytes) -> bytes | None:
        """Value of a key, or None.

        Parameters
        ----------
        key : bytes
        """
        if type(key) is not bytes or len(key) > fmt.KEY_BYTES_MAX:
            key = as_key(key)
        shard = self._parts.of(key)
        value = shard.cache.get(key)
        return self._read(shard, key) if value is None else value

    def _read(self, shard: Shard, key: bytes) -> bytes | None:
        while True:
            value, waiting = shard.fetch(key)
            if waiting is None or waiting.level is Durability.NONE:
                return value
            try:
                shard.log.commit(waiting)
            except StorageError:  # what was seen has been taken back
                continue
            return value

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        for shard in self._parts:
            shard.check_open()
        return sum(map(len, self._parts.shards))

    def set(self, key: bytes, value: bytes, *, durability: Durability | None = None) -> None:
        """Give a key a value.

        Parameters
        ----------
        key, value : bytes
        durability : Durability, optional
            Instead of the store's.
        """
        key, value = as_key(key), as_value(value)
        self._write(key, lambda shard, level: (None, shard.set(key, value, level)), durability)

    def delete(self, key: bytes, *, durability: Durability | None = None) -> bool:
        """Remove a key; return whether it had a value.

        Parameters
        ----------
        key : bytes
        durability : Durability, optional
            Instead of the store's.
        """
        key = as_key(key)
        deleted: bool = self._write(key, lambda shard, level: shard.delete(key, level), durability)
        return deleted

    def append(self, key: bytes, value: bytes, *, durability: Durability | None = None) -> int:
        """Add to the end of a key's value, which is empty if it had none; return the new length in bytes.

        Parameters
        ----------
        key, value : bytes
        durability : Durability, optional
            Instead of the store's.
        """
        key, value = as_key(key), as_value(value)
        length: int = self._write(key, lambda shard, level: shard.append(key, value, level), durability)
        return length

    def incr(self, key: bytes, delta: int = 1, *, durability: Durability | None = None) -> int:
        """Add to the integer that a key's value spells in decimal, 0 if it has none; return the sum.

        Parameters
        ----------
        key : bytes
        delta : int
            The sum has to stay within 64 bits, or `ParameterError`.
        durability : Durability, optional
            Instead of the store's.

        Raises
        ------
        ValueTypeError
            The value spells no integer of 64 bits.
        """
        key = as_key(key)
        step = as_delta(delta)
        total: int = self._write(key, lambda shard, level: shard.incr(key, step, level), durability)
        return total

    def set_if_absent(self, key: bytes, value: bytes, *, durability: Durability | None = None) -> bool:
        """Give a key a value unless it has one; return whether that was done.

        Parameters
        ----------
        key, value : bytes
        durability : Durability, optional
            Instead of the store's.
        """
        return self._set_if(key, value, durability, present=False)

    def set_if_present(self, key: bytes, value: bytes, *, durability: Durability | None = None) -> bool:
        """Give a key another value if it has one; return whether that was done.

        Parameters
        ----------
        key, value : bytes
        durability : Durability, optional
            Instead of the store's.
        """
        return self._set_if(key, value, durability, present=True)

    def _set_if(self, key: bytes, value: bytes, durability: Durability | None, *, present: bool) -> bool:
        key, value = as_key(key), as_value(value)
        done: bool = self._write(key, lambda shard, level: shard.set_if(key, value, level, present=present), durability)
        return done

    def get_set(self, key: bytes, value: bytes, *, durability: Durability | None = None) -> bytes | None:
        """Give a key a value; return the one that it had, or None.

        Parameters
        ----------
        key, value : bytes
        durability : Durability, optional
            Instead of the store's.
        """
        key, value = as_key(key), as_value(value)
        before: bytes | None = self._write(key, lambda shard, level: shard.get_set(key, value, level), durability)
        return before

    # --- many keys

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values of many keys, in order, None for each that has none. Each is read on its own.

        Parameters
        ----------
        keys : iterable of bytes
        """
        wanted = as_keys(keys)
        if len(self._parts.shards) == 1:
            shard = self._parts.shards[0]
            values = list(map(shard.cache.get, wanted))
        else:
            values = [self._parts.of(key).cache.get(key) for key in wanted]
        if None in values:
            values = [
                self._read(self._parts.of(key), key) if value is None else value
                for key, value in zip(wanted, values, strict=True)
            ]
        return values

    def set_many(
        self, pairs: Iterable[tuple[bytes, bytes]] | dict[bytes, bytes], *, durability: Durability | None = None
    ) -> None:
        """Give many keys values: all of them or none in each shard, so with one shard altogether.

        Parameters
        ----------
        pairs : iterable of (bytes, bytes), or dict
            Of a key that comes more than once the last value counts. At most 512 MiB a shard.
        durability : Durability, optional
            Instead of the store's.
        """
        items = as_items(pairs)
        level = self._parts.level(durability)
        waiting = []
        for shard, group in self._parts.split(items):
            with shard.lock:
                waiting.append((shard, shard.change(partial(shard.set_many, group, level))))
        for shard, round_ in waiting:
            shard.settle(round_)
        self._parts.written(level)
        self._parts.batch_written(len(items))

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Every key that starts with `prefix`, with its value, as they are when the first one is asked for.

        The order is not specified. While the iterator is in use, the space that compaction frees is not given back.

        Parameters
        ----------
        prefix : bytes
            Empty for all keys.

        Yields
        ------
        key, value
            Two bytes objects.
        """
        wanted = as_key(prefix)
        with Snapshot(self._parts.shards) as snapshot:
            for number in range(len(self._parts.shards)):
                for key, value, _ in snapshot.records(number, wanted):
                    yield key, value

    def scan_keys(self, cursor: int = 0, count: int = 10, prefix: bytes = b"") -> tuple[int, list[bytes]]:
        """Some keys, and where to go on: for those who list keys over many calls, such as the clients of a server.

        A key that exists all the time from the call with cursor 0 to the one that returns 0 comes at least once.
        Nothing is remembered between calls, and any process that has the store open may make the next one.

        Parameters
        ----------
        cursor : int
            0 to begin, else what the call before returned; below 2**64.
        count : int
            Keys to look at, about: fewer come if they don't start with `prefix`, none if hashes are far apart.
        prefix : bytes
            Empty for all keys.

        Returns
        -------
        cursor, keys
            0 at the end; a list of bytes.
        """
        place = as_int("cursor", cursor, 0, 2**64 - 1)
        return scan_keys(self._parts.shards, place, as_int("count", count, 1), as_key(prefix))

    def erase(self, prefix: bytes, *, durability: Durability | None = None) -> int:
        """Delete every key that starts with `prefix`; return how many.

        They can't be reached any more when this returns. After `compact` neither their values nor their names are in
        any file of the store (the file system may keep what was in blocks that it has freed).

        Parameters
        ----------
        prefix : bytes
            Empty for all keys.
        durability : Durability, optional
            Instead of the store's.
        """
        wanted = as_key(prefix)
        level = self._parts.level(durability)
        count = 0
        for shard in self._parts:
            with shard.compacting:
                count += erase_prefix(shard, wanted, level)
        self._parts.written(level)
        return count

    # --- the whole store

    def compact(self) -> int:
        """Give back the space of everything that no longer counts; return how many bytes.

        Other threads go on. Space that a `scan` is still reading is given back when it ends.
        """
        return sum(compact_shard(shard, self.options.segment_bytes) for shard in self._parts.shards)

    def sync(self) -> None:
        """Put everything written so far on stable storage, whatever its durability.

        Raises StorageError also when something of `Durability.NONE` was lost since the last call, for want of space.
        """
        with contextlib.ExitStack() as all_of_them:
            for shard in self._parts:
                with shard.lock:
                    shard.check_writable()
                all_of_them.callback(shard.log.report_lost)
                all_of_them.callback(shard.log.sync)

    def snapshot(self, dest: AnyPath) -> None:
        """Copy the store as it is now to a new folder, while it is in use.

        Parameters
        ----------
        dest : path
            Must not exist. It appears when the copy is whole.
        """
        copy_store(self._parts.shards, self.manifest, dest)

    def stats(self) -> dict[str, Any]:
        """Figures of the store: keys, bytes, cache, commits, recovery; docs/reference.md says what each is."""
        return statistics(self._parts.shards, self._recovered, self._parts.maintenance)

    def shard_stats(self) -> list[dict[str, int]]:
        """Figures of each shard, by the names that `stats` has for their sums."""
        return shard_statistics(self._parts.shards)

    def verify(self) -> list[CorruptError]:
        """Read every byte and check it: records, hints, and that the index says what the log says.

        Returns
        -------
        list of CorruptError
            What is wrong, each with its ``path`` and ``offset``; empty when all is well.
        """
        return [problem for shard in self._parts.shards for problem in verify_shard(shard)]

    def close(self) -> None:
        """Put everything on stable storage and let go of the files; closing twice is allowed.

        Raises StorageError when the disk refuses, or has refused before and something acknowledged below `SYNC` may be
        lost; the files are let go of even then.
        """
        if self._closed:
            return
        self._closed = True
        _open_stores.discard(self)
        with contextlib.ExitStack() as cleanup:
            if self._lock is not None:
                cleanup.callback(self._lock.release)
            for shard in self._parts:
                cleanup.callback(shard.close)
                shard.refuse_writers()
            for shard in self._parts:
                cleanup.callback(finish, shard)  # whatever becomes of the others
            if self._parts.maintenance is not None:
                self._parts.maintenance.stop()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def durable_seq(self) -> int:
        """Sequence number up to which all writes are on stable storage, in every shard."""
        return min(shard.log.durable_seq for shard in self._parts.shards)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside

    def _write(
        self, key: bytes, change: Callable[[Shard, Durability], tuple[Any, Round | None]], durability: Durability | None
    ) -> Any:
        level = self._parts.level(durability)
        shard = self._parts.of(key)
        with shard.lock:
            result, waiting = shard.change(partial(change, shard, level))
        shard.settle(waiting)
        self._parts.written(level)
        return result

    def _after_fork(self) -> None:
        """In the child of a fork: a store that is written to belongs to the parent, others are shared."""
        if self._lock is None:
            for shard in self._parts:
                shard.renew()
            return
        self._closed = True
        for shard in self._parts:
            shard.abandon()
        self._lock.release()  # closes this process's copy; the parent goes on holding the lock


def open_store(
    path: AnyPath,
    *,
    shards: int | None = None,
    mode: str = "rw",
    options: StoreOptions,
    files: FileOps = SYSTEM,
    hash_mask: int = HASH_MASK,
) -> Store:
    """`Store.open` with other file operations, or with hashes that collide (`hash_mask`), for tests."""
    opened = open_folder(path, shards=shards, mode=mode, options=options, files=files, hash_mask=hash_mask)
    store = Store(opened, options)
    if any(found.dropped for found in opened.recovered):
        try:
            store.compact()  # what was whole moves to new files, and the damaged ones are set aside
        except BaseException:
            store.close()
            raise
    return store


def _after_fork() -> None:
    for store in list(_open_stores):
        store._after_fork()  # noqa: SLF001 - this module's own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
