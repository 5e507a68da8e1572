"""`Metrics`: counting, cheaply enough to be done for every request.

Counts are 64-bit integers in one row for each process of a server, in memory that the processes share. A process adds
to its own row only, and in place: nothing has to be collected before it can be read, and nothing is lost when a process
dies. Whoever is asked adds up the rows.

A row holds, in this order: for each operation the errors, the total of its durations in nanoseconds and the counts of
the buckets of its durations; the total and the buckets of the sizes of batches; failed authentications; and what
`Metrics.publish` was told last.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from skeg.net.metrics.state import FIELDS, GAUGES, ProcessState

Rows = NDArray[np.int64]

DURATION_BOUNDS = 25
"""Upper bounds of durations: 1, 2, 4 ... 2**24 microseconds; a last bucket has none."""

BATCH_BOUNDS = 7
"""Upper bounds of the sizes of batches: 1, 2, 4 ... 64, and a last bucket."""

# Places in the part of a row that belongs to an operation.
_ERRORS, _TOTAL, _BUCKETS = 0, 1, 2
_OPERATION_SLOTS = _BUCKETS + DURATION_BOUNDS + 1


class Histogram(NamedTuple):
    """Counts of the buckets, each without those below it, and the sum of what was observed."""

    counts: list[int]
    total: int


class Metrics:
    """The counts of one process, and through shared rows those of all.

    All methods belong to one thread.

    Parameters
    ----------
    operations : sequence of str
        Names of what is measured; elsewhere they go by their position.
    rows : ndarray (processes, slots) int64, optional
        What `shared_rows` returned; by default a row that nobody shares.
    process : int
        Row of this process. Counts of a process that had it before are continued.
    """

    def __init__(self, operations: Sequence[str], rows: Rows | None = None, process: int = 0) -> None:
        self.operations = tuple(operations)
        self._rows = np.zeros((1, _slots(len(operations))), np.int64) if rows is None else rows
        assert self._rows.shape[1] == _slots(len(operations))
        self._batches = len(operations) * _OPERATION_SLOTS
        self._failures = self._batches + 1 + BATCH_BOUNDS + 1
        self._published = self._failures + 1
        # Adding in place takes a third of what it takes through NumPy.
        self._row = memoryview(self._rows[process])
        self._last = dict.fromkeys(FIELDS, 0)
        for name in GAUGES:
            self._row[self._published + FIELDS.index(name)] = 0

    @staticmethod
    def shared_rows(operations: Sequence[str], processes: int) -> Rows:
        """Rows for processes that are forked from this one.

        Returns
        -------
        ndarray (processes, slots) int64
        """
        shape = processes, _slots(len(operations))
        memory: Any = RawArray(ctypes.c_int64, shape[0] * shape[1])
        return np.frombuffer(memory, np.int64).reshape(shape)

    # --- counting

    def observe(self, operation: int, seconds: float, count: int = 1) -> None:
        """Count requests, of one operation, that took so long each."""
        nanoseconds = int(seconds * 1e9)
        row, place = self._row, operation * _OPERATION_SLOTS
        # The first bucket whose bound, 2**bucket microseconds, is not below.
        bucket = ((nanoseconds - 1) // 1000).bit_length() if nanoseconds > 0 else 0
        bucket = bucket if bucket < DURATION_BOUNDS else DURATION_BOUNDS  # noqa: FURB136 - takes half as long
        row[place + _TOTAL] += nanoseconds * count
        row[place + _BUCKETS + bucket] += count

    def answered(self, operations: Sequence[int], started: float) -> None:
        """Count requests, perhaps none, that took from a time of `time.perf_counter` until now."""
        if not operations:
            return
        seconds = time.perf_counter() - started
        if len(operations) == 1:
            self.observe(operations[0], seconds)
            return
        for operation in set(operations):
            self.observe(operation, seconds, operations.count(operation))

    def error(self, operation: int) -> None:
        """Count a request that was refused or failed, besides that it was observed."""
        self._row[operation * _OPERATION_SLOTS + _ERRORS] += 1

    def batch_size(self, queries: int) -> None:
        """Count a call of a kernel that answered so many queries."""
        row, place = self._row, self._batches
        bucket = (queries - 1).bit_length()
        bucket = bucket if bucket < BATCH_BOUNDS else BATCH_BOUNDS  # noqa: FURB136 - takes half as long
        row[place] += queries
        row[place + 1 + bucket] += 1

    def auth_failure(self) -> None:
        """Count a wrong password."""
        self._row[self._failures] += 1

    def publish(self, state: ProcessState) -> None:
        """Let other processes see what this one knows of itself.

        They see what was told last, so tell it now and then (every second, say), and before rendering.
        """
        for place, (name, value) in enumerate(attrs.asdict(state).items(), self._published):
            if name in GAUGES:
                self._row[place] = value
            else:
                # What a process counted that had the row before stays in.
                self._row[place] += value - self._last[name]
                self._last[name] = value

    # --- reading

    def total(self) -> int:
        """Requests of all operations and processes."""
        return sum(sum(self.durations(operation).counts) for operation in range(len(self.operations)))

    def errors(self, operation: int) -> int:
        """Errors of an operation, in all processes."""
        return self._sum(operation * _OPERATION_SLOTS + _ERRORS)

    def durations(self, operation: int) -> Histogram:
        """Durations of an operation, in nanoseconds, in all processes."""
        return self._histogram(operation * _OPERATION_SLOTS + _TOTAL, DURATION_BOUNDS)

    def batch_sizes(self) -> Histogram:
        """Sizes of batches, in all processes."""
        return self._histogram(self._batches, BATCH_BOUNDS)

    def auth_failures(self) -> int:
        """Wrong passwords, in all processes."""
        return self._sum(self._failures)

    def published(self) -> ProcessState:
        """What the processes know of themselves, summed."""
        return ProcessState(**{name: self._sum(place) for place, name in enumerate(FIELDS, self._published)})

    def _sum(self, place: int) -> int:
        return int(self._rows[:, place].sum())

    def _histogram(self, place: int, bounds: int) -> Histogram:
        total, *counts = self._rows[:, place : place + 1 + bounds + 1].sum(axis=0).tolist()
        return Histogram(counts, total)


def _slots(operations: int) -> int:
    return operations * _OPERATION_SLOTS + 1 + BATCH_BOUNDS + 1 + 1 + len(FIELDS)
