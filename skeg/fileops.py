"""File operations of the key-value log: the few calls that it makes, behind one small interface.

Everything that `skeg.kv` does to a disk goes through a `FileOps`. The library passes `SYSTEM`; tests pass one that
makes any of these calls fail, or that forgets what was never synced. The calls are the system's own, one to one, and
raise OSError; callers say what they were doing (`skeg.files.disk_errors`).
"""

from __future__ import annotations

import errno
import os
import sys
from os import PathLike, fspath
from typing import Protocol

from skeg.binary import Bytes
from skeg.files import WriterLock, fsync_dir, fsync_file

_OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Lock(Protocol):
    """A lock that is held until it is released."""

    def release(self) -> None:
        """Give the lock back."""


class File:
    """An open file, read and written at offsets (bytes) that the caller gives. Closes with its last reference."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._through = hasattr(os, "RWF_DSYNC")

    @property
    def descriptor(self) -> int:
        """For who waits elsewhere for what `sync_data` does with it."""
        return self._descriptor

    def pread(self, length: int, offset: int) -> bytes:
        """Return up to `length` bytes at `offset`; fewer at the end of the file."""
        return os.pread(self._descriptor, length, offset)

    def pwrite(self, data: Bytes, offset: int) -> int:
        """Write at `offset`; return how many bytes of `data` were taken."""
        return os.pwrite(self._descriptor, data, offset)

    def write_through(self, data: Bytes, offset: int) -> int:
        """`pwrite`, then wait until what was taken, and only that, is on stable storage; in one call if possible."""
        if self._through:
            try:
                return os.pwritev(self._descriptor, [data], offset, os.RWF_DSYNC)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self._through = False
        taken = self.pwrite(data, offset)
        self.sync()
        return taken

    def sync(self) -> None:
        """Wait until the contents, and the size that reading them needs, are on stable storage."""
        sync_data(self._descriptor)

    def allocate(self, offset: int, length: int) -> None:
        """Reserve disk space for a range, which extends the file with zeros; does nothing where it can't be done."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, offset, length)

    def truncate(self, size: int) -> None:
        """Cut the file, or extend it with zeros."""
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def sync_data(descriptor: int) -> None:
    """`File.sync` of an open file."""
    if sys.platform == "linux":
        os.fdatasync(descriptor)
    else:
        fsync_file(descriptor)


class FileOps:
    """Operations of the running system."""

    def open(self, path: str | PathLike[str], *, write: bool = False, create: bool = False) -> File:
        """Open a file for reading, or for both; `create` makes it and refuses one that exists."""
        flags = os.O_RDWR if write or create else os.O_RDONLY
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return File(os.open(path, flags | _OPEN_FLAGS, 0o666))

    def listdir(self, path: str | PathLike[str]) -> list[str]:
        """Names in a folder."""
        return os.listdir(path)

    def mkdir(self, path: str | PathLike[str]) -> None:
        """Make a folder."""
        os.mkdir(path)

    def rename(self, source: str | PathLike[str], target: str | PathLike[str]) -> None:
        """Give a file another name, in place of whatever has it."""
        os.replace(source, target)

    def unlink(self, path: str | PathLike[str]) -> None:
        """Remove a file."""
        os.unlink(path)

    def sync_dir(self, path: str | PathLike[str]) -> None:
        """Wait until the names in a folder are on stable storage."""
        fsync_dir(path)

    def lock(self, path: str | PathLike[str]) -> Lock:
        """Take the lock file of the one writer.

        Raises
        ------
        LockedError
            Somebody else has it.
        """
        lock = WriterLock(fspath(path))
        lock.acquire()
        return lock


SYSTEM = FileOps()


def write_all(file: File, data: Bytes, offset: int, *, through: bool = False) -> None:
    """Write all of `data` at `offset`, however little the system takes at a time (raises OSError).

    through : whether to wait until it is on stable storage.
    """
    write = file.write_through if through else file.pwrite
    rest = memoryview(data).cast("B")
    while rest:
        try:
            taken = write(rest[: 1 << 30], offset)
        except InterruptedError:
            continue
        if taken <= 0:
            raise OSError(0, "the system wrote nothing")
        offset += taken
        rest = rest[taken:]


def read_all(file: File, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`, or as many as the file has (raises OSError)."""
    data = _pread(file, length, offset)
    if len(data) in (0, length):
        return data
    parts = [data]
    while data and (length := length - len(data)):
        offset += len(data)
        data = _pread(file, length, offset)
        parts.append(data)
    return b"".join(parts)


def _pread(file: File, length: int, offset: int) -> bytes:
    while True:
        try:
            return file.pread(min(length, 1 << 30), offset)
        except InterruptedError:
            continue
