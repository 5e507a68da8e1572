"""The end of a process or of a machine at any of its calls that change the disk, and what each leaves in a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

CHANGING = (
    "write",
    "pwrite",
    "ftruncate",
    "posix_fallocate",
    "fsync",
    "fdatasync",
    "replace",
    "rename",
    "mkdir",
    "rmdir",
    "unlink",
)
WRITING = {"write", "pwrite"}
PWRITEV = os.pwritev
NAMES = ("synced", "files", "all")


def _write_through(descriptor, buffers, offset, flags):
    """A write that is durable when it returns, as the two calls that it stands for: it may end between them."""
    assert (1, os.RWF_DSYNC) == (len(buffers), flags)
    taken = os.pwrite(descriptor, buffers[0], offset)
    os.fdatasync(descriptor)
    return taken


class Dead(BaseException):
    """The process ended here: whatever would clean up after an error finds that it can't do anything either."""


class Machine:
    """Counts the calls that change the disk, and ends with call number ``last``.

    Parameters
    ----------
    folder : Path
        Where everything happens; what is in it when `running` begins is on stable storage.
    last : int or None
        The call that is not done any more, from 1; of a write the first half is still done if ``torn``.
    """

    def __init__(self, folder: Path, last: int | None = None, *, torn: bool = False) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.last = last
        self.torn = torn
        self._kept: list[int] = []
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}

    @property
    def is_dead(self) -> bool:
        return self.last is not None and len(self.calls) >= self.last

    @contextlib.contextmanager
    def running(self):
        """Until the block ends, calls count."""
        for here, folders, files in os.walk(self.folder):
            self._sync(here)
            for name in (*folders, *files):
                self._sync(os.path.join(here, name))
        real = {name: getattr(os, name) for name in CHANGING if hasattr(os, name)}
        try:
            for name, call in real.items():
                setattr(os, name, self._counted(name, call))
            os.pwritev = _write_through
            yield self
        finally:
            for name, call in real.items():
                setattr(os, name, call)
            os.pwritev = PWRITEV

    def _counted(self, name, call):
        def counted(*args, **options):
            self.calls.append(name)
            if self.is_dead:
                if self.torn and len(self.calls) == self.last and name in WRITING:
                    call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                raise Dead(name)
            result = call(*args, **options)
            if name in {"fsync", "fdatasync"}:
                self._synced(args[0])
            return result

        return counted

    def _sync(self, path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        self._synced(descriptor)
        os.close(descriptor)

    def _synced(self, descriptor) -> None:
        """Remember what is in a file or folder now; the copy of its descriptor keeps its number from being reused."""
        self._kept.append(os.dup(descriptor))
        number = os.fstat(descriptor).st_ino
        place = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(place):
            self._names[number] = _numbers(place)
        else:
            self._bytes[number] = Path(place).read_bytes()

    def close(self) -> None:
        for descriptor in self._kept:
            os.close(descriptor)
        self._kept.clear()

    def killed(self, target: Path) -> Path:
        """What a process leaves: the system still does what it was asked to."""
        return Path(shutil.copytree(self.folder, target))

    def power_cut(self, target: Path, *, names: str) -> Path:
        """What a power cut leaves: of files what was synced; of names too ("synced"), or all, or all of "files"."""
        self._restore(self.folder, os.stat(self.folder).st_ino, target, names)
        return target

    def _restore(self, folder, number, target, names) -> None:
        target.mkdir()
        now = _numbers(folder) if folder is not None and folder.exists() else {}
        synced = self._names.get(number, {})
        if names == "files":
            now_files = {name: below for name, below in now.items() if not (folder / name).is_dir()}
            there = {name: below for name, below in synced.items() if below in self._names} | now_files
        else:
            there = now if names == "all" else synced
        for name, below in there.items():
            source = folder / name if now.get(name) == below else None
            if below in self._names or (source is not None and source.is_dir()):
                self._restore(source, below, target / name, names)
            else:
                (target / name).write_bytes(self._bytes.get(below, b""))


def _numbers(folder) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in entries}
