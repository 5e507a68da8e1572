"""The store for programs that must not wait: many operations in one call, one commit for all of them.

`AsyncStore.submit` executes operations at once and in order, and returns their results with a sequence number. The
results may be shown to others when that number is durable (`AsyncStore.durable`). A thread commits what gathered while
the commit before was under way; nothing is timed, and without work nothing runs.

To hand a commit to a thread and to be told of its end takes longer than a quick disk takes for it. Who may wait that
long has it committed at once, for as long as the disk is quick (`patience_s`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from skeg.durability import Durability
from skeg.errors import ClosedError, ParameterError, SkegError, StorageError
from skeg.kv.arguments import as_delta, as_items, as_key, as_keys, as_value
from skeg.kv.locking import with_locks
from skeg.kv.pace import Pace
from skeg.kv.rounds import Round
from skeg.kv.shard import Shard
from skeg.kv.store import Store

Operation = tuple[Any, ...]
"""A name and its arguments, such as ``("set", b"key", b"value")``."""

FEW = 8
"""Pairs below which records of their own are made sooner than a batch, which takes 30 us before the first pair."""

SMALL_BYTES = 256 << 10
"""Bytes of a commit that it makes sense to wait for: with a disk that takes 0.15 ms for little, twice as long."""

Callback = Callable[[StorageError | None], None]
"""Told how a commit ended: None, or why the disk refused."""

_Outcome = tuple[Any, Round | None]


class _Commit:
    """What one call of `submit` waits for, and who waits with it."""

    def __init__(self, waiting: dict[Round, Shard]) -> None:
        self.waiting = waiting
        self.callbacks: list[tuple[asyncio.AbstractEventLoop, Callback]] = []
        self.done = not waiting
        self.error: StorageError | None = None

    def run_at_once(self) -> None:
        """Commit if the disk does not have to be waited for; what stays to be done is for `run`."""
        if all(shard.log.commit_at_once(round_) for round_, shard in self.waiting.items()):
            self.run()
            self.done = True

    def run(self) -> None:
        """Commit, and wait for the disk."""
        for round_, shard in self.waiting.items():
            try:
                shard.log.commit(round_)
            except StorageError as error:
                self.error = error


class Ticket:
    """What a call of `AsyncStore.submit` did.

    Attributes
    ----------
    results : list
        For each operation its result, or the `SkegError` that it raised.
    seq : int
        Sequence number that has to be durable before the results are shown to anybody, 0 if none has. Numbers of one
        shard grow; those of different shards have nothing to do with each other.
    """

    __slots__ = ("_commit", "results", "seq")

    def __init__(self, results: list[Any], commit: _Commit) -> None:
        self.results = results
        self.seq = max((round_.last_seq for round_ in commit.waiting), default=0)
        self._commit = commit

    @property
    def is_durable(self) -> bool:
        """Whether the results may be shown at once: nothing that they tell of waits for the disk, or for its error."""
        return self._commit.done and self._commit.error is None


class AsyncStore:
    """An asynchronous face of a store, which goes on to belong to whoever opened it.

    Operations are named as the methods of `Store`: get, mget, contains, set, set_many, delete, append, incr,
    set_if_absent, set_if_present, get_set; their arguments follow, without the durability. There is also set_each,
    which is set_many without its promise of all or none. Use it from the thread of one event loop, in a ``with`` block
    or with `close`.

    Parameters
    ----------
    store : Store
        An open store.
    patience_s : float
        Seconds that `submit` may wait for the disk: as long as commits usually take less, it makes them itself.
    """

    def __init__(self, store: Store, *, patience_s: float = 0.0) -> None:
        self._parts = store._parts  # noqa: SLF001 - a second face of the same store
        self._pace = Pace(patience_s)
        self._lock = threading.Lock()  # of the callbacks of commits
        self._queue: deque[_Commit] = deque()
        # Rung once for each commit that waits, and at the end.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, operations: Iterable[Operation], *, durability: Durability | None = None) -> Ticket:
        """Execute operations in order; each sees what those before it did. Nobody else's come between them.

        Parameters
        ----------
        operations : iterable of tuple
            Name and arguments of each.
        durability : Durability, optional
            Of all of them, instead of the store's.

        Returns
        -------
        Ticket
            With all results; that of an operation with a wrong name or number of arguments is a `ParameterError`. What
            they say is not durable before `durable` returns.

        Raises
        ------
        ClosedError
            This or the store was closed.
        """
        if self._closed:
            raise ClosedError("the asynchronous store was closed")
        level = self._parts.level(durability)
        wanted = list(operations)
        shards = self._parts.shards
        results: list[Any] = []
        waiting: dict[Round, Shard] = {}

        def run() -> None:
            for shard in shards:
                shard.check_open()
            try:
                for operation in wanted:
                    results.append(self._execute(operation, level, waiting))  # noqa: PERF401 - each sees the last ones
            except BaseException as error:
                for shard in shards:
                    shard.spoil(error)
                raise

        with_locks(shards, run)
        commit = _Commit(waiting)
        ticket = Ticket(results, commit)
        if level is not Durability.SYNC:
            commit.run_at_once()
        elif waiting and self._pace.is_quick and sum([round_.nbytes for round_ in waiting]) <= SMALL_BYTES:
            self._commit([commit])
        if not commit.done:
            self._enqueue(commit)
        self._parts.written(level)
        return ticket

    async def durable(self, ticket: Ticket) -> None:
        """Return when everything that a ticket's results tell of is as durable as was asked for.

        Parameters
        ----------
        ticket : Ticket
            From `submit`.

        Raises
        ------
        StorageError
            The disk refused: the operations that write were taken back.
        """
        future = asyncio.get_running_loop().create_future()
        self.when_durable(ticket, lambda error: None if future.done() else future.set_result(error))
        error = await future
        if error is not None:
            raise StorageError(error.path, error.problem) from error

    def when_durable(self, ticket: Ticket, callback: Callback) -> None:
        """Have the running event loop call `callback` when everything that a ticket's results tell of is durable.

        For servers, which have thousands of answers wait for one commit; `durable` is made of this.

        Parameters
        ----------
        ticket : Ticket
            From `submit`.
        callback : callable
            Called with None, or with the `StorageError` because of which the operations were taken back.
        """
        commit = ticket._commit  # noqa: SLF001 - of this module
        loop = asyncio.get_running_loop()
        with self._lock:
            if not commit.done:
                commit.callbacks.append((loop, callback))
                return
        loop.call_soon(callback, commit.error)

    def cached(self, key: bytes) -> bytes | None:
        """Value of a key if it is in memory and durable; None says nothing.

        Parameters
        ----------
        key : bytes
        """
        return self._parts.of(key).cache.get(key)

    def get_at_once(self, keys: Sequence[bytes], bytes_max: int) -> list[bytes | None] | None:
        """Values of keys, if they can be told without waiting and with little to read; all of them are durable.

        Parameters
        ----------
        keys : sequence of bytes
        bytes_max : int
            Of the records to read, all together.

        Returns
        -------
        list of (bytes or None), or None
            If None, `submit` tells.

        Raises
        ------
        CorruptError
            A record is damaged.
        """
        shards = self._parts.shards
        if len(shards) == 1:
            return shards[0].get_at_once(keys, bytes_max)
        values: list[bytes | None] = []
        for key in keys:
            found = self._parts.of(key).get_at_once((key,), bytes_max // len(keys))
            if found is None:
                return None
            values += found
        return values

    def size_bound(self, key: bytes) -> int:
        """Bytes that the value of a key can't exceed, without reading it; 0 if it has none or has just been deleted.

        Parameters
        ----------
        key : bytes
        """
        return self._parts.of(key).size_bound(key)

    def use_kernels(self) -> None:
        """Load what Numba makes of the writing of batches, which is else done in the background when many were written.

        Compiled for the first time on a machine, it takes some seconds, else 20 ms.
        """
        self._parts.use_kernels()

    def close(self) -> None:
        """Commit what was submitted and end the thread; closing twice is allowed. The store stays open."""
        self._closed = True
        self._bell.put(None)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _execute(self, operation: Operation, level: Durability, waiting: dict[Round, Shard]) -> Any:
        try:
            return self._result(operation, level, waiting)
        except SkegError as error:
            # Among what frames hold are all results, so this one, and what was read for it: it would stay for long.
            return error.with_traceback(None)

    def _result(self, operation: Operation, level: Durability, waiting: dict[Round, Shard]) -> Any:
        name, arguments = _named(operation)
        if name == "mget":
            return [self._get(key, waiting) for key in as_keys(*arguments)]
        if name in _OF_MANY_KEYS:
            items = as_items(*arguments)
            for shard, group in self._parts.split(items):
                shard.check_writable()
                if name == "set_each" and len(group) < FEW:
                    for key, value in group.items():
                        _note(waiting, shard, shard.set(key, value, level))
                else:
                    _note(waiting, shard, shard.set_many(group, level))
            self._parts.batch_written(len(items))
            return None
        key = as_key(arguments[0])
        shard = self._parts.of(key)
        if name not in _READING:
            shard.check_writable()
        result, round_ = _OF_ONE_KEY[name](shard, key, arguments[1:], level)
        _note(waiting, shard, round_)
        return result

    def _get(self, key: bytes, waiting: dict[Round, Shard]) -> bytes | None:
        shard = self._parts.of(key)
        value, round_ = shard.get(key)
        _note(waiting, shard, round_)
        return value

    def _enqueue(self, commit: _Commit) -> None:
        self._queue.append(commit)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="skeg-kv-commits", daemon=True)
            self._thread.start()
        self._bell.put(None)

    def _run(self) -> None:
        while True:
            self._bell.get()
            if not self._queue:
                return
            commits = [self._queue.popleft() for _ in range(len(self._queue))]
            for _ in commits[1:]:
                self._bell.get()
            self._commit(commits)
            told: dict[asyncio.AbstractEventLoop, list[tuple[Callback, StorageError | None]]] = {}
            for commit in commits:
                for loop, callback in commit.callbacks:
                    told.setdefault(loop, []).append((callback, commit.error))
            for loop, calls in told.items():
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(_tell, calls)

    def _commit(self, commits: list[_Commit]) -> None:
        is_to_do = not all(round_.is_done() for commit in commits for round_ in commit.waiting)
        began = time.perf_counter()
        for commit in commits:
            commit.run()
        if is_to_do:  # else another thread has waited for the disk
            self._pace.note(time.perf_counter() - began)
        with self._lock:
            for commit in commits:
                commit.done = True


def _tell(calls: list[tuple[Callback, StorageError | None]]) -> None:
    for callback, error in calls:
        callback(error)


def _note(waiting: dict[Round, Shard], shard: Shard, round_: Round | None) -> None:
    if round_ is not None and (round_.level is not Durability.NONE or shard.log.wants_writing()):
        waiting[round_] = shard


def _named(operation: Any) -> tuple[str, tuple[Any, ...]]:
    """Name and arguments of an operation, or ParameterError."""
    named = isinstance(operation, tuple) and len(operation) > 0 and isinstance(operation[0], str)
    if not named or operation[0] not in _ARGUMENTS:
        raise ParameterError("operation", operation, f"a tuple that starts with one of {', '.join(_ARGUMENTS)}")
    name, *arguments = operation
    if len(arguments) not in _ARGUMENTS[name]:
        counts = " or ".join(map(str, _ARGUMENTS[name]))
        raise ParameterError("operation", operation, f"{counts} arguments of {name}")
    return name, tuple(arguments)


_READING = {"get", "contains"}
_OF_MANY_KEYS = {"set_many", "set_each"}

_OF_ONE_KEY: dict[str, Callable[[Shard, bytes, tuple[Any, ...], Durability], _Outcome]] = {
    "get": lambda shard, key, _, __: shard.get(key),
    "contains": lambda shard, key, _, __: shard.contains(key),
    "set": lambda shard, key, rest, level: (None, shard.set(key, as_value(rest[0]), level)),
    "delete": lambda shard, key, _, level: shard.delete(key, level),
    "append": lambda shard, key, rest, level: shard.append(key, as_value(rest[0]), level),
    "incr": lambda shard, key, rest, level: shard.incr(key, as_delta(rest[0] if rest else 1), level),
    "set_if_absent": lambda shard, key, rest, level: shard.set_if(key, as_value(rest[0]), level, present=False),
    "set_if_present": lambda shard, key, rest, level: shard.set_if(key, as_value(rest[0]), level, present=True),
    "get_set": lambda shard, key, rest, level: shard.get_set(key, as_value(rest[0]), level),
}

# How many arguments an operation may have.
_ARGUMENTS: dict[str, tuple[int, ...]] = dict.fromkeys(_OF_ONE_KEY, (2,))
_ARGUMENTS |= {
    "get": (1,),
    "contains": (1,),
    "delete": (1,),
    "incr": (1, 2),
    "mget": (1,),
    "set_many": (1,),
    "set_each": (1,),
}
