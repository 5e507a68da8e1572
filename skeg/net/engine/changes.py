"""Changes of vectors, in order, on one thread: what waits together becomes one batch and one commit."""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from skeg.durability import Durability
from skeg.errors import SkegError
from skeg.net.engine.completions import Completions, Done, outcome
from skeg.vector_index import VectorIndex

BATCH_MAX = 1024
"""Changes of one batch."""


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
    """The thread that changes indexes; used on the thread of the loop alone.

    Parameters
    ----------
    completions : Completions
        Where results go.
    """

    def __init__(self, completions: Completions) -> None:
        self._completions = completions
        self._queue: deque[Change] = deque()
        # Rung once for each change, and at the end: a bell costs less than a lock, and nobody waits for the lock.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._submitted = self._made = 0
        self._thread: threading.Thread | None = None

    @property
    def depth(self) -> int:
        """Changes that wait."""
        return len(self._queue)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors and payloads of changes that wait, or are being made."""
        return self._submitted - self._made

    def submit(self, change: Change) -> None:
        """Queue a change."""
        self._queue.append(change)
        self._submitted += _nbytes(change)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="skeg-changes", daemon=True)
            self._thread.start()
        self._bell.put(None)

    def close(self) -> None:
        """Make the changes that are queued and end the thread; from any thread, when nothing more is submitted."""
        self._bell.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._bell.get()
            if not self._queue:
                return
            taken = _take_alike(self._queue)
            for _ in taken[1:]:
                self._bell.get()
            results = _apply(taken)
            self._made += sum(map(_nbytes, taken))
            self._completions.post(results)


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
    removals = [change for change in changes if isinstance(change, Remove)]
    if removals:
        there: list[bool] = index.contains([change.id for change in removals]).tolist()
        index.delete([change.id for change in removals], durability=level)
        return there
    puts = [change for change in changes if isinstance(change, Put)]
    _put(index, puts, level)
    return [len(change.ids) for change in puts]


def _put(index: VectorIndex, puts: list[Put], level: Durability) -> None:
    ids = [i for put in puts for i in put.ids]
    payloads = [payload for put in puts for payload in put.payloads]
    vectors = np.frombuffer(b"".join([put.vectors for put in puts]), np.float32).reshape(len(ids), -1)
    wanted = np.array(ids, np.uint64)
    # Who sets a vector without a payload keeps the payload that is there.
    kept = np.array([payload is None for payload in payloads])
    if kept.any():
        kept &= index.contains(wanted)
    if kept.any():
        index.update(wanted[kept], vectors[kept], durability=level)
    if not kept.all():
        given = [payload for payload, keep in zip(payloads, kept.tolist(), strict=True) if not keep]
        fresh = ~kept
        some = None if all(payload is None for payload in given) else given
        index.add(wanted[fresh], vectors[fresh], payloads=some, durability=level)
