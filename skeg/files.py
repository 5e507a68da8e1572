"""The only door to the disk for writes: durable files, folders that appear whole, and the lock of the one writer.

What is being made gets a temporary name beside its target, ``NAME.building-<pid>-<random>``, and the last step
renames it: readers see the old thing, or the new one, never a part. The first half of ``<random>`` stands for the
host, so that what a dead process of this host left behind can be told from what a live process of another
machine is making on a shared disk; only the first is removed, when the same target is made again.

Each operating-system error leaves this module as a `StorageError` that names the path and the reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from xxhash import xxh3_64_hexdigest

from skeg.binary import Bytes
from skeg.errors import LockedError, SkegError, StorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

AnyPath = str | PathLike[str]

# Bytes of the target's name kept in a temporary one; the rest of it takes at most 36 more, and 143 is the shortest
# limit in use (encrypted home folders; 255 elsewhere).
_STEM_BYTES = 96

# Windows keeps others from reading a locked byte, so lock one far beyond the text of the lock file.
_LOCKED_BYTE = 1 << 30

# Temporary paths that this process is making; a leftover may carry our own pid (pid 1 of a restarted container).
_in_progress: set[Path] = set()


@contextlib.contextmanager
def disk_errors(path: AnyPath, doing: str) -> Iterator[None]:
    """Turn an operating-system error inside the block into a `StorageError`: "PATH: can't DOING: reason"."""
    try:
        yield
    except SkegError:
        raise
    except OSError as error:
        raise StorageError(path, f"can't {doing}: {error.strerror or error}") from error


def fsync_file(descriptor: int) -> None:
    """Wait until everything written to an open file is on stable storage (raises OSError)."""
    if sys.platform == "darwin":
        # Plain fsync stops at the cache of the drive there; file systems without the request fall through to it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def fsync_dir(path: AnyPath) -> None:
    """Wait until the names in a folder are on stable storage; Windows, which has no such call, does it on its own."""
    if sys.platform == "win32":
        return
    with disk_errors(path, "sync the folder"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fsync_file(descriptor)
        finally:
            os.close(descriptor)


def preallocate(descriptor: int, size: int) -> None:
    """Give an open file at least `size` bytes of real space, so that later writes can't find the disk full.

    What the file holds stays; what is new reads as zeros. Raises OSError.
    """
    if hasattr(os, "posix_fallocate"):
        if size:
            os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(1 << 20)
    position = os.lseek(descriptor, 0, os.SEEK_END)
    while position < size:
        position += os.write(descriptor, zeros[: size - position])


class OutputFile:
    """A new file, written front to back; refuses to touch one that exists.

    Errors are `StorageError` and name `path`, or `called` for a file that has another name until it is whole.
    """

    def __init__(self, path: AnyPath, *, called: AnyPath | None = None) -> None:
        self.path = Path(path if called is None else called)
        with disk_errors(self.path, "create"):
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - `close` is ours

    def write(self, data: Bytes) -> None:
        """Write all of a contiguous buffer at the current position."""
        with disk_errors(self.path, "write"):
            _write_all(self._file.fileno(), data)

    def seek(self, offset: int) -> None:
        """Go to `offset` bytes from the start; what is skipped reads as zeros."""
        with disk_errors(self.path, "write"):
            self._file.seek(offset)

    def sync(self) -> None:
        """Wait until the contents are on stable storage."""
        with disk_errors(self.path, "sync"):
            fsync_file(self._file.fileno())

    def close(self) -> None:
        """Close the file without syncing it; closing twice is allowed."""
        with disk_errors(self.path, "close"):
            self._file.close()


@contextlib.contextmanager
def atomic_output(path: AnyPath) -> Iterator[OutputFile]:
    """A file to write that takes the name `path`, durably, when the block ends without an error.

    A reader or a crash sees the old contents or the new ones. An error in the block leaves the old file untouched.

    Raises
    ------
    StorageError
        The folder is missing, read-only or full.
    """
    target = _absolute(path)
    with contextlib.ExitStack() as cleanup:
        with disk_errors(target, "write"):
            _clear_leftovers(target)
            temporary = cleanup.enter_context(_temporary_name(target, "building"))
            cleanup.callback(_remove, temporary)
        with contextlib.closing(OutputFile(temporary, called=target)) as file:
            yield file
            file.sync()
        with disk_errors(target, "write"):
            os.replace(temporary, target)
        fsync_dir(target.parent)


def atomic_write_bytes(path: AnyPath, data: Bytes) -> None:
    """Make `data` the whole contents of the file `path`; see `atomic_output`."""
    with atomic_output(path) as file:
        file.write(data)


def make_folder(path: AnyPath) -> None:
    """Make the folder `path`, whose parent exists. `StorageError` if it can't be done."""
    with disk_errors(path, "make the folder"):
        os.mkdir(path)


def remove_tree(path: AnyPath) -> None:
    """Remove a file, or a folder with all that is in it, as far as it can be done; no matter if it is not there."""
    _remove(Path(path))


class BuildFolder:
    """A folder that is filled beside its target and takes the target's name as the last step.

    Use it in a ``with`` block: fill the folder `path`, then call `publish`. Leaving the block without `publish`,
    by an exception or otherwise, removes everything.

    Parameters
    ----------
    target : path
        The folder to make; its parent must exist.
    replace : bool
        Allow `target` to exist: its contents are removed once the new folder has its place.

    Raises
    ------
    StorageError
        On entry and in `publish`: `target` exists and `replace` is False, or the disk refused.
    """

    def __init__(self, target: AnyPath, *, replace: bool = False) -> None:
        self.target = _absolute(target)
        self.replace = replace
        self._cleanup = contextlib.ExitStack()
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where the folder is: the temporary place, and the target after `publish`."""
        assert self._path is not None, "BuildFolder used outside its with block"
        return self._path

    def __enter__(self) -> Self:
        with disk_errors(self.target, "make the folder"):
            _clear_leftovers(self.target)
            self._check_target()
            with contextlib.ExitStack() as cleanup:
                self._path = cleanup.enter_context(_temporary_name(self.target, "building"))
                cleanup.callback(_remove, self._path)
                os.mkdir(self._path)
                self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def publish(self) -> None:
        """Sync everything in the folder and rename it to the target, durably.

        The file system has no call that swaps two folders everywhere, so replacing takes two renames. After a crash
        exactly between them the old folder is kept under a temporary name, and the next `BuildFolder` puts it back.
        """
        with disk_errors(self.target, "publish"):
            _sync_tree(self.path)
            self._check_target()
            with _temporary_name(self.target, "replaced") as old:
                try:
                    if _exists(self.target):
                        os.rename(self.target, old)
                    os.rename(self.path, self.target)
                except BaseException:
                    if _exists(old) and not _exists(self.target):
                        os.rename(old, self.target)
                    raise
                self._path = self.target
                fsync_dir(self.target.parent)
                _remove(old)

    def _check_target(self) -> None:
        if _exists(self.target) and not self.replace:
            raise StorageError(self.target, "already exists")


class WriterLock:
    """The lock file of the one writing process; the system drops the lock when the process ends, however it ends.

    The file itself stays: removing it would let two processes lock two files of one name.

    Parameters
    ----------
    path : path
        The lock file, made when missing. It holds the pid and the host of the last writer.

    Raises
    ------
    LockedError
        On `acquire`: someone else (or another `WriterLock` of this process) has the lock.
    StorageError
        On `acquire`: the file can't be opened or written.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None
        self._owner = 0

    def acquire(self) -> None:
        """Take the lock at once, or raise."""
        assert self._descriptor is None, "lock taken twice"
        with contextlib.ExitStack() as undo, disk_errors(self.path, "lock"):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            undo.callback(os.close, descriptor)
            try:
                _lock(descriptor)
            except (BlockingIOError, PermissionError) as error:
                holder = os.read(descriptor, 1024).decode(errors="replace").strip() or "unknown"
                raise LockedError(self.path, f"already open for writing: {holder}") from error
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"pid {os.getpid()} on host {socket.gethostname()}\n".encode())
            undo.pop_all()
            self._descriptor, self._owner = descriptor, os.getpid()

    def release(self) -> None:
        """Give the lock back; doing so twice is allowed. In the child of a fork: let go of the parent's lock."""
        if self._descriptor is not None:
            if self._owner == os.getpid():
                _unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _write_all(descriptor: int, data: Bytes) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[_write(descriptor, rest) :]


def _write(descriptor: int, data: memoryview) -> int:
    """Write a part of `data`, at most what every system takes in one call; return the bytes written."""
    return os.write(descriptor, data[: 1 << 30])


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    """Give a lock back now: else it would last until a child that was forked has closed its copy too."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _absolute(path: AnyPath) -> Path:
    """Pin a path to the current folder; ``..`` stays, since behind a symlink it means something else."""
    if Path(path).name in ("", ".."):  # pathlib drops "." and a slash at the end
        raise StorageError(path, "does not end in a name")
    with disk_errors(path, "find"):
        return Path(path).absolute()


def _exists(path: Path) -> bool:
    """Whether the name is taken, if only by a dangling link; raises OSError for a name that can't exist (too long)."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _stem(name: str) -> str:
    """The target's name in temporary names: cut and marked with a hash when it is long."""
    encoded = os.fsencode(name)
    if len(encoded) <= _STEM_BYTES:
        return name
    return encoded[: _STEM_BYTES - 9].decode(errors="ignore") + "~" + xxh3_64_hexdigest(encoded)[:8]


def _host_tag() -> str:
    return xxh3_64_hexdigest(socket.gethostname().encode())[:8]


@contextlib.contextmanager
def _temporary_name(target: Path, state: Literal["building", "replaced"]) -> Iterator[Path]:
    """A fresh name beside `target` that `_clear_leftovers` leaves alone during the block."""
    name = f"{_stem(target.name)}.{state}-{os.getpid()}-{_host_tag()}{secrets.token_hex(4)}"
    temporary = target.with_name(name)
    _in_progress.add(temporary)
    try:
        yield temporary
    finally:
        _in_progress.discard(temporary)


def _clear_leftovers(target: Path) -> None:
    """Remove what dead processes of this host left beside `target`; put back a target caught in mid-replacement."""
    pattern = re.compile(
        rf"{re.escape(_stem(target.name))}\.(building|replaced)-(\d{{1,9}})-{_host_tag()}[0-9a-f]{{8}}"
    )
    for name in os.listdir(target.parent):
        match = pattern.fullmatch(name)
        leftover = target.with_name(name)
        if match is None or leftover in _in_progress or _is_running(int(match[2])):
            continue
        if match[1] == "replaced" and not _exists(target):
            os.rename(leftover, target)
        else:
            _remove(leftover)


def _is_running(pid: int) -> bool:
    """Whether a process of this host other than this one has the number `pid`."""
    if pid == os.getpid():
        return False
    if sys.platform == "win32":
        return True  # asking there would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file or folder if it can be done: what stays costs space only, and the next build tries again."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sync_tree(folder: Path) -> None:
    mode = os.O_RDWR if sys.platform == "win32" else os.O_RDONLY  # Windows syncs only what it may write
    for here, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(here, name), mode)
            try:
                fsync_file(descriptor)
            finally:
                os.close(descriptor)
        fsync_dir(here)
