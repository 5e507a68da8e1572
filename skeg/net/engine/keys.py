"""What the sessions of one tick of the loop do to the key-value store: one submission, one commit.

All writes that arrived together are executed together and in order. Plain ``SET``s that follow one another become one
batch, whichever connection they came from. Nobody is answered before the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skeg.durability import Durability
from skeg.errors import ClosedError, SkegError, StorageError
from skeg.kv import AsyncStore, Ticket
from skeg.kv.aio import Operation
from skeg.net.engine.completions import Done
from skeg.net.metrics import Metrics
from skeg.net.session import Session, Slot

Finish = Callable[[list[Any]], bytes]
"""From the results of some operations, of which any may be a `SkegError`, to the bytes of a reply."""

Failure = Callable[[SkegError], bytes]

Replies = tuple[bytes, Failure]
"""What is said if all goes well, and what makes a reply of an error."""

_STEP = 256
"""Operations of a step: about 2 ms."""

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
        # Of the operation that is a batch and may grow, if there is one; and how many bytes more it takes.
        self.pairs: dict[bytes, bytes] = {}
        self.said: list[tuple[Session, int, Failure]] = []
        self.room = -1


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
        self.size_bound = store.size_bound

    def set(self, session: Session, level: Durability, key: bytes, value: bytes, replies: Replies) -> None:
        """Give a key a value. The session says so now, and something else if it turns out to be wrong."""
        batch = self._levels.get(level)
        if batch is None or batch.room < 0:
            batch = self._with_pairs(level)
        batch.pairs[key] = value
        batch.room -= len(value)
        batch.said.append((session, len(session.out), replies[1]))
        session.out.append(replies[0])
        session.is_in_batch = True

    def set_run(
        self, session: Session, level: Durability, keys: list[bytes], values: list[bytes], replies: Replies
    ) -> None:
        """Give keys values, as `set` does."""
        batch = self._with_pairs(level)
        batch.pairs.update(zip(keys, values, strict=True))
        batch.room -= sum(map(len, values))
        batch.said.append((session, len(session.out), replies[1]))
        session.out.append(replies[0])
        session.is_in_batch = True

    def _with_pairs(self, level: Durability) -> _Level:
        """The batch of a level, which takes pairs."""
        batch = self._levels.get(level) or self._new(level)
        if batch.room < 0:
            batch.pairs, batch.said = {}, []
            batch.room = _BATCH_BYTES
            batch.settled.append((len(batch.operations), batch.said))
            batch.operations.append(("set_each", batch.pairs))
        return batch

    def add(self, session: Session, level: Durability, operations: Sequence[Operation], finish: Finish) -> None:
        """Have operations executed in order; what ``finish`` makes of their results is the session's next reply."""
        batch = self._levels.get(level) or self._new(level)
        batch.room = -1
        first = len(batch.operations)
        batch.operations += operations
        batch.takers.append((session, len(session.out), first, len(batch.operations), finish))
        session.out.append(b"")
        session.is_in_batch = True

    def _new(self, level: Durability) -> _Level:
        return self._levels.setdefault(level, _Level())

    def in_steps(self, level: Durability, operations: Sequence[Operation], done: Done) -> None:
        """Execute many operations, some at a time and each durable before the next; ``done`` gets the results.

        The loop looks after connections in between. What was done stays when the disk refuses the rest.
        """
        results: list[Any] = []

        def step(error: SkegError | None = None) -> None:
            if error is not None or len(results) == len(operations):
                done(error or results)
                return
            some = operations[len(results) : len(results) + _STEP]
            try:
                ticket = self._store.submit(some, durability=level)
            except (ClosedError, StorageError) as refused:
                done(refused)
                return
            results.extend(ticket.results)
            self._store.when_durable(ticket, step)

        step()

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
        slots: list[tuple[Session, Slot]] = []
        sessions = [session for session, *_ in batch.takers]
        for _, said in batch.settled:
            sessions += [session for session, *_ in said]
        for session in sessions:
            if session.is_in_batch:
                session.is_in_batch = False
                slots.append((session, session.hold()))
        # Counted together: they began in one tick, and end together.
        started = slots[0][1].started
        operations: list[int] = []
        for _, slot in slots:
            operations += slot.operations
            slot.operations = []

        def settle(error: StorageError | None) -> None:
            if error is not None:
                _fail(batch, dict(slots), error)
            for session, slot in slots:
                session.release(slot)
            self._metrics.answered(operations, started)

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
