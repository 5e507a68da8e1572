"""The log of an index on disk: one file being written to, and the reading of all of them.

A log whose disk is full takes back what it could not write and goes on. After any other failure, above all of a sync,
nobody knows what is on the disk: writing ends, and only opening the index again tells.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from skeg.ann.live import format as fmt
from skeg.binary import Bytes
from skeg.errors import CorruptError, StorageError
from skeg.fileops import SYSTEM, File, FileOps, read_all, write_all
from skeg.files import disk_errors

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}
"""Errors that may pass: no space, no file descriptors."""

RESERVE_BYTES = 1 << 20
"""Space reserved ahead of the end: a sync then need not record a new size of the file."""

UNFINISHED = ".new"
"""Added to the name of a log until its header is written."""


def log_name(number: int) -> str:
    """Name of a log in the index's folder."""
    return f"log-{number:06d}.skl"


def log_numbers(names: Sequence[str]) -> list[int]:
    """Numbers of the logs among file names, ascending."""
    found = (re.fullmatch(r"log-([0-9]{6,})\.skl", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


class LogWriter:
    """Adds records to one log; used by one thread at a time.

    Parameters
    ----------
    folder : path
        Of the index.
    header : LogHeader
        Of a log that does not exist yet, or with ``end`` of one that does.
    end : int, optional
        Where the next record goes in a log that exists and was read up to there; what follows is cut off.
    next_seq : int, optional
        Sequence number of that record.
    """

    def __init__(
        self,
        folder: Path,
        header: fmt.LogHeader,
        ops: FileOps = SYSTEM,
        *,
        end: int | None = None,
        next_seq: int | None = None,
    ) -> None:
        self.path = folder / log_name(header.number)
        self.next_seq = header.first_seq if next_seq is None else next_seq
        self.stopped: StorageError | None = None
        self._place = fmt.place_of(header.uid, header.number)
        self._buffer: list[bytes] = []
        with disk_errors(self.path, "open the log"):
            if end is None:
                self._begin(header, folder, ops)
            self._file: File = ops.open(self.path, write=True)
            self._end = self._written = fmt.HEADER_BYTES if end is None else end
            if end is not None:
                if self._file.size() > end:
                    self._file.truncate(end)
                self._file.sync()
        self._durable = self._end
        self._reserved = self._end

    def _begin(self, header: fmt.LogHeader, folder: Path, ops: FileOps) -> None:
        """Make the file, which takes its name with its header in it: nobody finds it without."""
        made = folder / f"{self.path.name}{UNFINISHED}"
        with contextlib.suppress(FileNotFoundError):
            ops.unlink(made)
        file = ops.open(made, create=True)
        try:
            write_all(file, fmt.pack_header(header), 0)
            file.sync()
            file.close()
            ops.rename(made, self.path)
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                ops.unlink(made)
            raise
        ops.sync_dir(folder)

    @property
    def nbytes(self) -> int:
        """Bytes of header and records."""
        return self._end

    def stage(self, type_: int, body: Sequence[Bytes]) -> None:
        """Add a record, in memory."""
        self._check()
        data = fmt.pack_record(type_, self.next_seq, body, self._place, self._end, self._durable)
        self._buffer.append(data)
        self._end += len(data)
        self.next_seq += 1

    @property
    def staged_bytes(self) -> int:
        """Bytes that are in memory only."""
        return self._end - self._written

    def mark(self) -> tuple[int, int, int]:
        """The place to go `back` to."""
        return self._end, self.next_seq, len(self._buffer)

    def back(self, mark: tuple[int, int, int]) -> None:
        """Take back what was staged since."""
        self._end, self.next_seq, count = mark
        del self._buffer[count:]

    def commit(self) -> None:
        """`write` and `sync`: in one call if nothing is waiting to be synced from before."""
        through = self._durable == self._written
        self.write(through=through)
        if not through:
            self.sync()

    def write(self, *, through: bool = False) -> None:
        """Hand what is staged to the system. `StorageError` if it can't be, and then it is still staged.

        through : whether to have it on stable storage; what was written before has to be there already.
        """
        self._check()
        if not self._buffer:
            return
        with self._failures("write the log"):
            if self._end > self._reserved:
                room = max(RESERVE_BYTES, self._end - self._reserved)
                with contextlib.suppress(OSError):  # a matter of speed: whether there is space, the write will tell
                    self._file.allocate(self._reserved, self._end - self._reserved + room)
                self._reserved = self._end + room
            try:
                data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
                write_all(self._file, data, self._written, through=through)
            except OSError:
                # Whole records may be among what was written: nobody must find them behind the next one.
                self._file.truncate(self._written)
                self._reserved = self._written
                raise
        self._buffer.clear()
        self._written = self._end
        if through:
            self._durable = self._end

    def sync(self) -> None:
        """Wait until everything written is on stable storage."""
        self._check()
        written = self._written
        if self._durable < written:
            with self._failures("sync the log", passing=False):
                self._file.sync()
            self._durable = written

    @property
    def to_sync(self) -> int | None:
        """Descriptor of the file if some of what was written may not be on stable storage yet."""
        return None if self._durable == self._written else self._file.descriptor

    def synced(self, error: OSError | None) -> None:
        """What was written was synced by the caller, or could not be, which is a `StorageError` here too."""
        if error is not None:
            with self._failures("sync the log", passing=False):
                raise error
        self._durable = self._written

    def close(self) -> None:
        """Write and sync what is left, give reserved space back, close."""
        try:
            if self.stopped is None:
                self.write()
                self.sync()
                with contextlib.suppress(OSError):  # who opens it for writing next does it
                    self._file.truncate(self._end)
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close without writing anything."""
        self._file.close()

    def _check(self) -> None:
        if self.stopped is not None:
            raise StorageError(self.path, f"writing ended after an error ({self.stopped}); open the index again")

    def _failures(self, doing: str, *, passing: bool = True) -> _Failures:
        return _Failures(self, doing, passing=passing)


class _Failures:
    """Turns an operating-system error into a `StorageError`, and ends writing unless it may pass."""

    def __init__(self, log: LogWriter, doing: str, *, passing: bool) -> None:
        self._log = log
        self._doing = doing
        self._passing = passing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        problem = StorageError(self._log.path, f"can't {self._doing}: {getattr(error, 'strerror', None) or error!r}")
        if not (self._passing and isinstance(error, OSError) and error.errno in PASSING):
            self._log.stopped = problem
        if isinstance(error, OSError):
            raise problem from error


class LogEnd(NamedTuple):
    """Where a log was read up to, and the number of the record that would come next."""

    offset: int
    next_seq: int


class LogReader:
    """Reads one log, once or again and again as it grows.

    Parameters
    ----------
    folder : path
    wanted : LogHeader
        What the header has to say; its ``first_seq`` is not looked at.
    """

    def __init__(self, folder: Path, wanted: fmt.LogHeader, ops: FileOps = SYSTEM) -> None:
        self.path = folder / log_name(wanted.number)
        self._dim = wanted.dim
        self._place = fmt.place_of(wanted.uid, wanted.number)
        with disk_errors(self.path, "open the log"):
            self._file = ops.open(self.path)
        data = self._read(0, fmt.HEADER_BYTES)
        header = fmt.unpack_header(data, self.path, wanted)
        self.end = LogEnd(fmt.HEADER_BYTES, header.first_seq)

    def records(self) -> Iterator[fmt.PutRecord | fmt.DeleteRecord]:
        """The records behind those that were read before; `end` tells how far it got.

        Raises
        ------
        CorruptError
            A record is damaged that was durable, or says what can't be.
        """
        base, at, data = self.end.offset, 0, self._rest()
        suspect = -1
        while True:
            head = fmt.read_record(data, at, base, self._place)
            if head is None:
                witness = fmt.find_witness(data[at:], self.end.offset, self._place)
                if witness is None:
                    return
                if suspect == self.end.offset:
                    problem = f"damaged record: the one at {witness} says that it was durable"
                    raise CorruptError(self.path, problem, offset=suspect)
                # A writer may have been at it, and at what follows, while this was read: then it is whole now.
                suspect = self.end.offset
                base, at, data = suspect, 0, self._rest()
                continue
            record = fmt.unpack_body(data, head, self._dim) if head.seq == self.end.next_seq else None
            if record is None:
                raise CorruptError(self.path, "record that can't be", offset=self.end.offset)
            at = head.end
            self.end = LogEnd(base + at, head.seq + 1)
            yield record

    def _rest(self) -> memoryview:
        """What is behind the records that were read."""
        base = self.end.offset
        with disk_errors(self.path, "read"):
            size = self._file.size()
        return memoryview(self._read(base, max(size - base, 0)))

    def _read(self, offset: int, length: int) -> bytes:
        with disk_errors(self.path, "read"):
            return read_all(self._file, length, offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
