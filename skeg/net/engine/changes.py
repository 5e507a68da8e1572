"""Changes of vectors, in order: what waits together becomes one batch and one commit.

The next batch is made when the one before is durable. A small one is prepared and applied on the thread of the loop,
and a thread without the interpreter (`skeg.net.engine.syncs`) waits for the disk in between; everything that is large,
or has to wait for something else, is a thread's.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skeg.ann.beginning import begin_add, begin_delete
from skeg.ann.live.writer import Begun
from skeg.durability import Durability
from skeg.errors import SkegError
from skeg.net.engine.completions import Completions, Done, deliver, outcome
from skeg.net.engine.syncs import Syncs
from skeg.vector_index import VectorIndex

BATCH_MAX = 1024
"""Changes of one batch."""

SMALL_ROWS, SMALL_BYTES = 16, 64 << 10
"""Ids, and bytes of vectors and payloads, of a batch that is small: the loop takes 80 us for one and 200 for 16."""


class Put(NamedTuple):
    """Vectors (float32, one behind the other) and payloads of some ids.

    A payload of None leaves the one that the id has; b"" is an empty payload.
    """

    target: VectorIndex
    ids: list[int]
    vectors: bytes
    payloads: list[bytes | None]
    level: Durability
    done: Done


class Remove(NamedTuple):
    """The deletion of an id; the result is whether it was there."""

    target: VectorIndex
    id: int
    level: Durability
    done: Done


Change = Put | Remove


class Changes:
    """The changes of all indexes; used on the thread of the loop alone.

    Parameters
    ----------
    completions : Completions
        Where results of the thread go.
    syncs : Syncs
    """

    def __init__(self, completions: Completions, syncs: Syncs) -> None:
        self._completions = completions
        self._syncs = syncs
        self._queue: deque[Change] = deque()
        self._is_busy = False
        self._work: SimpleQueue[list[Change] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] | None = None
        self.nbytes = 0

    @property
    def depth(self) -> int:
        """Changes that wait."""
        return len(self._queue)

    @property
    def is_ready(self) -> bool:
        """Whether `flush` has something to begin."""
        return bool(self._queue) and not self._is_busy

    def submit(self, change: Change) -> None:
        """Queue a change that `flush` will begin."""
        self._queue.append(change)
        self.nbytes += _nbytes(change)

    def flush(self) -> None:
        """Begin what is queued, unless something is being made, which sees to it at its end."""
        if not self.is_ready:
            return
        self._is_busy = True
        changes = _take_alike(self._queue)
        if not self._begin(changes):
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="skeg-changes", daemon=True)
                self._thread.start()
            self._work.put(changes)

    async def end(self) -> None:
        """Return when all changes are made, and end the thread; nothing more may be submitted."""
        if self._is_busy or self._queue:
            self._ended = asyncio.get_running_loop().create_future()
            self.flush()
            await self._ended
        self._work.put(None)
        if self._thread is not None:
            self._thread.join()

    def _begin(self, changes: list[Change]) -> bool:
        """Make a small batch here; False if it is for the thread."""
        answer = outcome(lambda: _begin(changes))
        if answer is None or isinstance(answer, SkegError):  # which of them is to blame the thread will find out
            return False
        begun, results = answer
        end = partial(self._finish, changes, begun, results)
        if begun.descriptor is None:
            self._completions.post([(end, None)])
        else:
            self._syncs.sync(begun.descriptor, end)
        return True

    def _finish(self, changes: list[Change], begun: Begun, results: list[Any], error: OSError | None) -> None:
        failed = outcome(lambda: begun.finish(error))
        if isinstance(failed, SkegError):
            results = [failed] * len(changes)
        deliver([(change.done, result) for change, result in zip(changes, results, strict=True)])
        self._made(changes)

    def _run(self) -> None:
        while (changes := self._work.get()) is not None:
            self._completions.post([*_apply(changes), (self._made, changes)])

    def _made(self, changes: list[Change]) -> None:
        """A batch has ended, one way or another."""
        self._is_busy = False
        self.nbytes -= sum(map(_nbytes, changes))
        self.flush()
        if self._ended is not None and not self._is_busy:
            self._ended.set_result(None)


def _take_alike(queue: deque[Change]) -> list[Change]:
    """The first changes of a queue that can be made together: of one kind, index and level, each id once."""
    first = queue.popleft()
    taken: list[Change] = [first]
    if len(_ids(first)) >= BATCH_MAX:
        return taken
    seen = set(_ids(first))
    while queue:
        change = queue[0]
        if type(change) is not type(first) or change.target is not first.target or change.level is not first.level:
            break
        ids = _ids(change)
        if len(seen) + len(ids) > BATCH_MAX or not seen.isdisjoint(ids):
            break
        seen.update(ids)
        taken.append(queue.popleft())
    return taken


def _nbytes(change: Change) -> int:
    return len(change.vectors) + sum([len(p) for p in change.payloads if p]) if isinstance(change, Put) else 0


def _ids(change: Change) -> list[int]:
    return change.ids if isinstance(change, Put) else [change.id]


def _begin(changes: list[Change]) -> tuple[Begun, list[Any]] | None:
    """What was begun of a batch, and the results if it ends well; None if the batch is not small, or has to wait."""
    index, level = changes[0].target, changes[0].level
    ids = [vector_id for change in changes for vector_id in _ids(change)]
    if len(ids) > SMALL_ROWS or sum(map(_nbytes, changes)) > SMALL_BYTES:
        return None
    fragment = index.fragment_of(ids)
    if fragment is None:
        return None
    if isinstance(changes[0], Remove):
        results: list[Any] = fragment.contains(ids).tolist()
        begun = begin_delete(fragment, ids, level)
    else:
        results = [len(_ids(change)) for change in changes]
        begun = begin_add(fragment, *_rows(changes), "update", level)
    return None if begun is None else (begun, results)


def _apply(changes: list[Change]) -> list[tuple[Done, Any]]:
    """What to tell each of some changes, made together; one by one if that fails, so that only the bad ones do."""
    results = outcome(lambda: _make(changes))
    if isinstance(results, SkegError):
        if len(changes) > 1:
            return [answer for change in changes for answer in _apply([change])]
        return [(changes[0].done, results)]
    return [(change.done, result) for change, result in zip(changes, results, strict=True)]


def _make(changes: list[Change]) -> list[Any]:
    index, level = changes[0].target, changes[0].level
    if isinstance(changes[0], Remove):
        ids = [vector_id for change in changes for vector_id in _ids(change)]
        there: list[bool] = index.contains(ids).tolist()
        index.delete(ids, durability=level)
        return there
    wanted, vectors, payloads = _rows(changes)
    # Who sets a vector without a payload keeps the one that is there.
    index.add(wanted, vectors, payloads=payloads, on_conflict="update", durability=level)
    return [len(_ids(change)) for change in changes]


def _rows(changes: list[Change]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32], list[bytes | None]]:
    """Ids (n,), vectors (n, dim) and payloads of several `Put`s."""
    puts = [change for change in changes if isinstance(change, Put)]
    ids = np.array([vector_id for put in puts for vector_id in put.ids], np.uint64)
    vectors = np.frombuffer(b"".join([put.vectors for put in puts]), np.float32).reshape(len(ids), -1)
    return ids, vectors, [payload for put in puts for payload in put.payloads]
