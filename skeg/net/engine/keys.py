"""What the sessions of one tick of the loop do to the key-value store: one submission, one commit.

All writes that arrived together are executed together and in order. Plain ``SET``s that follow one another become one
batch, whichever connection they came from. Nobody is answered before the commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from skeg.durability import Durability
from skeg.errors import ClosedError, SkegError, StorageError
from skeg.kv import AsyncStore, Ticket
from skeg.kv.aio import Operation
from skeg.net.metrics import Metrics
from skeg.net.session import Session, Slot

Finish = Callable[[list[Any]], bytes]
"""From the results of some operations, of which any may be a `SkegError`, to the bytes of a reply."""

Failure = Callable[[SkegError], bytes]

Replies = tuple[bytes, Failure]
"""What is said if all goes well, and what makes a reply of an error."""

_BATCH_BYTES = 4 << 20
"""Values of one batch: a batch is built in memory once more before it is written."""


class _Level:
    """The operations of a tick that are to be as durable as each other."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        # Who gets what: session, place of the reply in its output, first and last operation, what makes the reply.
        self.takers: list[tuple[Session, int, int, int, Finish]] = []
        # Of each operation that is a batch: replies that are written down, and what stands there if it fails.
        self.settled: list[tuple[int, list[tuple[Session, int, Failure]]]] = []
        self.pairs: dict[bytes, bytes] | None = None
        self.room = 0


class Keys:
    """The key-value half of the engine; used on the thread of the loop alone.

    Parameters
    ----------
    store : AsyncStore
    metrics : Metrics
    """

    def __init__(self, store: AsyncStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._levels: dict[Durability, _Level] = {}
        self.cached = store.cached
        self.get_at_once = store.get_at_once
        self.all_cached = store.all_cached
        self.size_bound = store.size_bound

    def set(self, session: Session, level: Durability, key: bytes, value: bytes, replies: Replies) -> None:
        """Give a key a value. The session has said so, and says something else if it turns out to be wrong."""
        batch, pairs = self._pairs(level, len(key) + len(value))
        pairs[key] = value
        self._say(session, batch, replies)

    def set_run(
        self, session: Session, level: Durability, keys: list[bytes], values: list[bytes], replies: Replies
    ) -> None:
        """Give keys values, as `set` does."""
        batch, pairs = self._pairs(level, sum(map(len, values)))
        pairs.update(zip(keys, values, strict=True))
        self._say(session, batch, replies)

    def _pairs(self, level: Durability, nbytes: int) -> tuple[_Level, dict[bytes, bytes]]:
        """The batch of a level and its pairs, if so many bytes more fit; else new ones."""
        batch = self._levels.get(level) or self._new(level)
        batch.room -= nbytes
        pairs = batch.pairs
        if pairs is None or batch.room < 0:
            batch.pairs = pairs = {}
            batch.room = _BATCH_BYTES
            batch.settled.append((len(batch.operations), []))
            batch.operations.append(("set_many", pairs))
        return batch, pairs

    def _say(self, session: Session, batch: _Level, replies: Replies) -> None:
        reply, failure = replies
        batch.settled[-1][1].append((session, len(session.out), failure))
        session.out.append(reply)
        session.is_in_batch = True

    def add(self, session: Session, level: Durability, operations: Sequence[Operation], finish: Finish) -> None:
        """Have operations executed in order; what ``finish`` makes of their results is the session's next reply."""
        batch = self._levels.get(level) or self._new(level)
        batch.pairs = None
        first = len(batch.operations)
        batch.operations += operations
        batch.takers.append((session, len(session.out), first, len(batch.operations), finish))
        session.out.append(b"")
        session.is_in_batch = True

    def _new(self, level: Durability) -> _Level:
        return self._levels.setdefault(level, _Level())

    def run(self) -> None:
        """Execute what was added since the last time. Every session's output is complete then, if not yet durable."""
        levels, self._levels = self._levels, {}
        for level, batch in levels.items():
            try:
                ticket = self._store.submit(batch.operations, durability=level)
            except (ClosedError, StorageError) as error:  # nothing can be done with the store any more
                _fill(batch, [error] * len(batch.operations))
                continue
            _fill(batch, ticket.results)
            if not ticket.is_durable:
                self._hold(batch, ticket)

    def _hold(self, batch: _Level, ticket: Ticket) -> None:
        """Keep the answers back until the commit; when it fails they become errors."""
        sessions = dict.fromkeys([session for session, *_ in batch.takers])
        for _, settled in batch.settled:
            sessions.update(dict.fromkeys([session for session, *_ in settled]))
        slots = {session: session.hold() for session in sessions}
        # Counted together: they began in one tick, and end together.
        started = min(slot.started for slot in slots.values())
        operations: list[int] = []
        for slot in slots.values():
            operations += slot.operations
            slot.operations = []

        def settle(error: StorageError | None) -> None:
            if error is not None:
                _fail(batch, slots, error)
            for session, slot in slots.items():
                session.release(slot)
            if operations:
                self._metrics.observe_many(operations, time.perf_counter() - started)

        self._store.when_durable(ticket, settle)


def _fill(batch: _Level, results: list[Any]) -> None:
    """Write down the replies of operations that were executed."""
    for session, place, first, last, finish in batch.takers:
        session.out[place] = finish(results[first:last])
    for number, settled in batch.settled:
        error = results[number]
        if error is not None:
            for session, place, failure in settled:
                session.out[place] = failure(error)


def _fail(batch: _Level, slots: dict[Session, Slot], error: StorageError) -> None:
    """The commit failed: what was written down is not so."""
    for session, place, first, last, finish in batch.takers:
        slots[session].parts[place] = finish([error] * (last - first))
    for _, settled in batch.settled:
        for session, place, failure in settled:
            slots[session].parts[place] = failure(error)
