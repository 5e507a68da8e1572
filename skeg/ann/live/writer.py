"""Writing to an index: operations of any number of threads, gathered, logged together, then applied in order.

A caller puts its operation in a queue and asks for the lock. Whoever gets it does all that is queued, as one *round*:
one write and at most one sync of the log for all, then every operation is applied, and so is visible. The others find
theirs done. Nothing is applied that is not logged, and nothing is acknowledged that is not applied.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from skeg.ann.live import format as fmt
from skeg.ann.live.log import LogWriter
from skeg.ann.live.rows import Encoded
from skeg.ann.live.state import CHUNK_ROWS, Snapshot, State
from skeg.ann.transform import Float32s
from skeg.durability import Durability
from skeg.errors import ClosedError, NotFoundError, SkegError, StorageError, VectorError

STAGED_BYTES_MAX = 1 << 20
"""What was acknowledged below `OS` is written when it takes this much memory."""

Ids = npt.NDArray[np.uint64]


class Operation(ABC):
    """Something to write, and what became of it.

    rows : how many it adds; reads : whether what it writes depends on rows that are there, so that it begins a round.
    """

    rows = 0
    reads = False

    def __init__(self, durability: Durability) -> None:
        self.durability = durability
        self.result = 0
        self.error: BaseException | None = None
        self.done = False

    @abstractmethod
    def prepare(self, state: State, pending: dict[int, bool], log: LogWriter) -> None:
        """Decide what to do and stage it; pending: ids that operations before this one add (True) or delete.

        What is staged when it fails is taken back.
        """

    @abstractmethod
    def apply(self, state: State) -> None:
        """Do it, in memory."""


class Put(Operation):
    """Add rows, at most `CHUNK_ROWS`; the result is how many were added.

    payloads : of each row, or empty; None, with "update", is that of the id now; on_conflict : "replace", "update",
    "error" or "skip".
    """

    def __init__(
        self,
        ids: Ids,
        vectors: Float32s,
        payloads: Sequence[bytes | None],
        on_conflict: str,
        durability: Durability,
        first_row: int = 0,
    ) -> None:
        super().__init__(durability)
        self.rows = len(ids)
        self.reads = on_conflict == "update"
        self._first_row = first_row  # of the caller's, for errors
        self._ids, self._vectors, self._payloads = ids, vectors, payloads
        self._on_conflict = on_conflict
        self._whole: Sequence[bytes]
        self._encoded: Encoded

    def prepare(self, state: State, pending: dict[int, bool], log: LogWriter) -> None:
        """Stage the rows; `VectorError` for a vector that can't be encoded, or an id that is there if that counts."""
        if self._on_conflict in ("error", "skip"):
            self._check_conflicts(state, pending)
        self._whole = state.view.with_payloads(self._ids, self._payloads)
        if len(self._ids):
            log.stage(fmt.PUT, fmt.pack_put(self._ids, self._vectors, self._whole))
        # Last, just before the log is written: both let others have the GIL, which is worth more in one piece.
        self._encoded = state.newest.encode(self._vectors, self._first_row)
        pending.update(dict.fromkeys(self._ids.tolist(), True))
        self.result = len(self._ids)

    def _check_conflicts(self, state: State, pending: dict[int, bool]) -> None:
        held = _holds(state, pending, self._ids)
        if self._on_conflict == "error" and held.any():
            at = int(held.argmax())
            found = f"id {self._ids[at]}, which the index holds"
            raise VectorError("ids", expected="new ids", found=found, row=self._first_row + at)
        new = np.flatnonzero(~held)
        self._ids, self._vectors = self._ids[new], self._vectors[new]
        self._payloads = [self._payloads[i] for i in new.tolist()] if self._payloads else ()

    def apply(self, state: State) -> None:
        """Add the rows."""
        if len(self._ids):
            state.put(self._ids, self._vectors, self._encoded, self._whole)


class Update(Put):
    """Replace vectors, payloads or both of rows that are there; what is None stays as it is.

    Whoever updates the other half at the same time loses nothing: it is read when it is this one's turn.
    """

    def __init__(
        self,
        ids: Ids,
        vectors: Float32s | None,
        payloads: Sequence[bytes] | None,
        durability: Durability,
        first_row: int = 0,
    ) -> None:
        some = [None] * len(ids) if payloads is None else payloads
        super().__init__(ids, np.empty((0, 0), np.float32), some, "update", durability, first_row)
        self._given = vectors

    def prepare(self, state: State, pending: dict[int, bool], log: LogWriter) -> None:
        """As `Put.prepare`; `NotFoundError` for an id that is not there."""
        vectors, view = self._given, state.view
        self._vectors, found = view.find(self._ids) if vectors is None else (vectors, view.holds(self._ids))
        if not found.all():
            raise NotFoundError(f"id {self._ids[int(found.argmin())]} is not in {state.path}")
        super().prepare(state, pending, log)


class Delete(Operation):
    """Delete ids (n,) uint64, each once; the result is how many there were."""

    def __init__(self, ids: Ids, durability: Durability) -> None:
        super().__init__(durability)
        self._ids = ids

    def prepare(self, state: State, pending: dict[int, bool], log: LogWriter) -> None:
        """Stage those that are there."""
        self._ids = self._ids[_holds(state, pending, self._ids)]
        if len(self._ids):
            log.stage(fmt.DELETE, fmt.pack_delete(self._ids))
            pending.update(dict.fromkeys(self._ids.tolist(), False))
        self.result = len(self._ids)

    def apply(self, state: State) -> None:
        """Bury the rows."""
        if len(self._ids):
            state.remove(self._ids)


class Begun:
    """An operation that is written, and neither visible nor certain to last; other ones wait until it is finished.

    Attributes
    ----------
    descriptor : int or None
        File to be synced before `finish`; None if the operation does not ask for that.
    """

    def __init__(self, writer: Writer, operation: Operation, log: LogWriter) -> None:
        self._writer, self._operation, self._log = writer, operation, log
        self.descriptor = log.to_sync if operation.durability is Durability.SYNC else None

    def finish(self, error: OSError | None = None) -> int:
        """Make it visible; gives its result. To be called once, by any thread.

        Parameters
        ----------
        error : OSError, optional
            Why the file could not be synced.

        Raises
        ------
        StorageError
            That error: the operation is not done, and nothing is written any more.
        """
        writer = self._writer
        try:
            if self.descriptor is not None:
                self._log.synced(error)
            writer.apply([self._operation])
        except StorageError:
            raise
        except BaseException as interruption:
            writer.interrupted(interruption)
            raise
        finally:
            writer.lock.release()
        return self._operation.result


def _holds(state: State, pending: dict[int, bool], ids: Ids) -> npt.NDArray[np.bool_]:
    """Whether each id is there once the operations before are applied."""
    held = state.view.holds(ids)
    if pending:
        for i, vector_id in enumerate(ids.tolist()):
            held[i] = pending.get(vector_id, held[i])
    return held


def _make_nothing(_: int, __: int) -> LogWriter:
    """What makes the logs of an index that was closed: nobody asks for it."""
    raise AssertionError("a log was wanted after the end")


class Writer:
    """Makes operations durable and visible.

    Parameters
    ----------
    state : State
    new_log : callable
        Given a number and the sequence number of its first record, makes a log.
    log : LogWriter or None
        The log to go on with; None begins one with the first operation.
    next_log, next_seq : int
        Numbers for that.
    wake : callable
        Called, with the lock, after a round.
    """

    def __init__(
        self,
        state: State,
        new_log: Callable[[int, int], LogWriter],
        *,
        log: LogWriter | None,
        next_log: int,
        next_seq: int,
        wake: Callable[[Durability], None],
    ) -> None:
        self.state = state
        self.lock = threading.Lock()
        self.log = log
        self._new_log = new_log
        self._next_log = next_log
        self._next_seq = next_seq
        self._wake = wake
        self._queue: deque[Operation] = deque()
        self._closed = False
        self._full = threading.Condition(self.lock)
        self.merging = False

    def submit(self, operation: Operation) -> int:
        """Do an operation, together with others; gives its result or raises its error."""
        self._queue.append(operation)
        while not operation.done:
            with self.lock:
                if not operation.done:
                    self._round()
        if operation.error is not None:
            raise operation.error
        return operation.result

    def _round(self) -> None:
        """Do what is queued, as far as there is room."""
        operations: list[Operation] = []
        try:
            self._make_room()
            room = self.state.room
            while self._queue and self._queue[0].rows <= room and not (operations and self._queue[0].reads):
                room -= self._queue[0].rows
                operations.append(self._queue.popleft())
            self._do(operations)
        except BaseException as error:
            failure = self.interrupted(error)
            while self._queue:  # others go on adding to it
                operations.append(self._queue.popleft())
            for operation in operations:
                operation.error, operation.done = operation.error or failure, True
            raise

    def _do(self, operations: list[Operation]) -> None:
        log = self._open_log(operations)
        pending: dict[int, bool] = {}
        if log is None:
            return
        mark = log.mark()
        ready = []
        for operation in operations:
            before = log.mark()
            try:
                operation.prepare(self.state, pending, log)
                ready.append(operation)
            except SkegError as error:
                log.back(before)
                operation.error, operation.done = error, True
        level = max((operation.durability for operation in ready), default=Durability.NONE)
        try:
            if level == Durability.SYNC:
                log.commit()
            elif level > Durability.NONE or log.staged_bytes > STAGED_BYTES_MAX:
                log.write()
        except StorageError as error:
            if log.stopped is None:
                log.back(mark)
            for operation in ready:
                operation.error, operation.done = error, True
            return
        self.apply(ready)

    def apply(self, operations: Sequence[Operation]) -> None:
        """Make operations visible that are logged. Call with the lock."""
        for operation in operations:
            operation.apply(self.state)
            operation.done = True
        self._wake(max((operation.durability for operation in operations), default=Durability.NONE))

    def interrupted(self, error: BaseException) -> StorageError:
        """Nobody knows how far it got: what is logged may not be applied, so only opening again makes both agree."""
        failure = StorageError(self.state.path, f"a write was interrupted ({error!r}); open the index again")
        if self.log is not None and self.log.stopped is None:
            self.log.stopped = failure
        return failure

    def begin(self, operation: Operation) -> Begun | None:
        """Prepare and write an operation, for a caller that can't wait and has the file synced by somebody else.

        Returns
        -------
        Begun or None
            None if something has to be waited for first, or if it fails: `submit` does so, and says why.
        """
        if not self.lock.acquire(blocking=False):
            return None
        begun = None
        try:
            begun = self._begun(operation)
        finally:
            if begun is None:
                self.lock.release()
        return begun

    def _begun(self, operation: Operation) -> Begun | None:
        log = self.log
        if log is None or self._queue or self.state.room < CHUNK_ROWS:
            return None
        mark = log.mark()
        try:
            operation.prepare(self.state, {}, log)
            if operation.durability > Durability.NONE or log.staged_bytes > STAGED_BYTES_MAX:
                log.write()
        except SkegError:
            if log.stopped is None:
                log.back(mark)
            return None
        except BaseException as error:
            self.interrupted(error)
            raise
        return Begun(self, operation, log)

    def _open_log(self, operations: list[Operation]) -> LogWriter | None:
        """The log, made when it is needed; None if that failed, which is then every operation's error."""
        try:
            if self._closed:
                raise ClosedError(f"{self.state.path}: the index was closed")
            if self.log is None:
                self.log = self._new_log(self._next_log, self._next_seq)
                self._next_log += 1
        except SkegError as error:
            for operation in operations:
                operation.error, operation.done = error, True
            return None
        return self.log

    def _make_room(self) -> None:
        """Wait for a merge, or add a part, so that the newest part has room for an operation."""
        while self.state.room < CHUNK_ROWS:
            if self.merging and len(self.state.view.rows) > 2 and not self._closed:
                self._full.wait()
            else:
                self.state.add_part()

    def freeze(self) -> Snapshot:
        """Begin a new log and a new part; what is there before is to be merged. Call with the lock.

        Raises
        ------
        StorageError
            The old log can't be written out.
        """
        if self.log is not None:
            self.log.write()
            self.log.sync()
            self.log.close()
            self._next_seq = self.log.next_seq
            self.log = None
        self.merging = True
        return self.state.freeze(self._next_log)

    def thaw(self) -> None:
        """A merge failed. Call with the lock."""
        self.merging = False
        self.state.thaw()
        self._full.notify_all()

    def merged(self) -> None:
        """A merge has ended and its result is in the state. Call with the lock."""
        self.merging = False
        self._full.notify_all()

    def flush(self) -> None:
        """Have everything that was acknowledged on stable storage."""
        with self.lock:
            if self.log is not None and self.log.stopped is None:
                self.log.write()
                self.log.sync()

    def close(self) -> None:
        """Write out the log; later operations raise `ClosedError`."""
        with self.lock:
            self._closed = True
            self._full.notify_all()
            if self.log is not None:
                self.log.close()
                self.log = None
            # They are of the index: its memory is free as soon as nobody uses it.
            self._new_log, self._wake = _make_nothing, lambda _: None
