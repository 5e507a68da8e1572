"""A disk in memory that can forget: file operations, the states that a power cut may leave, and planned failures.

`SimOps` stands in for `skeg.fileops.SYSTEM`. Every change that it makes to its `SimDisk` is also written to a journal,
so that the disk at any moment of a run is the disk at its start plus the first n changes (`replay`). From there

- `SimDisk.copy` is what a killed process leaves: the system still has everything that was done, synced or not.
- `SimDisk.power_loss` is one of the states that a power cut leaves, and `power_losses` lists or samples them. The rules
  are those of LevelDB's fault injection and of ALICE (OSDI '14), which are worse than any one file system:

  * `sync` makes contents and size of a file durable, not its name. `sync_dir` makes the names in a folder durable.
  * Each change of a name (create, rename, unlink, mkdir) since the folder's last sync has happened or not, whatever
    became of the others. A rename is one change: the file has its old name, its new one, never both.
  * Each sector (512 bytes) written since the file's last sync holds any of the contents that it had since then. One
    that the disk never held before may also hold zeros, garbage, or bytes of another file.
  * The size is any of those that the file had since its last sync, whatever became of the sectors.

- After a `sync` or `sync_dir` that failed, later ones of the same file or folder succeed and make nothing durable, as
  on Linux, where a failed sync forgets what it had to write. With the next process (`copy`) the disk is sound again.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from os import PathLike, fspath
from typing import Any

from skeg.binary import Bytes
from skeg.errors import LockedError

SECTOR = 512
SHORT = "short"

GARBAGE = random.Random(512).randbytes(SECTOR)

# One change of a disk: verb, then what it was done to.
Change = tuple[Any, ...]
Pick = Callable[[int], int]


def failure(code: int, path: object = None) -> OSError:
    return OSError(code, os.strerror(code), path)


class _File:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.durable = data
        self.unsynced: list[Change] = []
        self.forgetful = False


class _Folder:
    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.durable: dict[str, int] = {}
        self.unsynced: list[Change] = []
        self.forgetful = False


class SimDisk:
    """Files and folders by number, each with what of it is durable; the root folder is number 0."""

    def __init__(self) -> None:
        self.nodes: dict[int, _File | _Folder] = {0: _Folder()}
        self.locked: set[int] = set()
        # A sector of whichever file was synced last: what a new file may find in the blocks that it gets.
        self.stale = GARBAGE

    def copy(self) -> SimDisk:
        """The same disk after the end of every process: nothing is locked, what was not synced is still not."""
        other = SimDisk()
        other.stale = self.stale
        other.nodes = {}
        for number, node in self.nodes.items():
            twin: Any = _File() if isinstance(node, _File) else _Folder()
            twin.durable, twin.unsynced = node.durable, list(node.unsynced)
            if isinstance(node, _File):
                twin.data = bytearray(node.data)
            else:
                twin.names = dict(node.names)
            other.nodes[number] = twin
        return other

    def apply(self, change: Change) -> None:
        """Make one change, which has to be possible."""
        verb, number, *details = change
        node: Any = self.nodes[number]
        if verb in {"sync", "sync_dir"}:
            if not node.forgetful:
                node.durable = bytes(node.data) if verb == "sync" else dict(node.names)
                node.unsynced.clear()
            if verb == "sync" and node.data:
                self.stale = bytes(node.data[:SECTOR]).ljust(SECTOR, b"\0")
        elif verb == "sync_failed":
            node.forgetful = True
        elif verb in {"write", "resize"}:
            _change_data(node.data, change)
            node.unsynced.append(change)
        else:
            if verb in {"create", "mkdir"}:
                self.nodes[details[1]] = _File() if verb == "create" else _Folder()
            else:
                change = (*change, node.names[details[0]])
            _change_names(node.names, change)
            node.unsynced.append(change)

    def power_loss(self, pick: Pick) -> SimDisk:
        """What a power cut leaves; wherever n things may have happened, ``pick(n)`` says which.

        The number 0 stands for the oldest state, n - 1 for the newest.
        """
        left = SimDisk()
        left.nodes = {}
        left.stale = self.stale
        self._lose(0, pick, left)
        return left

    def _lose(self, number: int, pick: Pick, left: SimDisk) -> None:
        node = self.nodes[number]
        if isinstance(node, _File):
            left.nodes[number] = _File(_lose_data(node, pick, self.stale))
            return
        twin = left.nodes[number] = _Folder()
        names = dict(node.durable)
        for change in node.unsynced:
            if pick(2):
                _change_names(names, change)
        twin.names, twin.durable = names, dict(names)
        for below in names.values():
            if below not in left.nodes:
                self._lose(below, pick, left)

    def walk(self, number: int = 0, path: str = "") -> Iterator[tuple[str, bytes | None]]:
        """Path and contents of everything, None for a folder; in order."""
        node = self.nodes[number]
        assert isinstance(node, _Folder)
        for name, below in sorted(node.names.items()):
            child = self.nodes[below]
            here = f"{path}/{name}"
            yield here, bytes(child.data) if isinstance(child, _File) else None
            if isinstance(child, _Folder):
                yield from self.walk(below, here)

    def image(self) -> dict[str, bytes | None]:
        """Everything that a process can see now."""
        return dict(self.walk())

    def find(self, path: str | PathLike[str]) -> int:
        """Number of a file or folder (raises OSError)."""
        number = 0
        for name in _parts(path):
            folder = self.nodes[number]
            if not isinstance(folder, _Folder):
                raise failure(errno.ENOTDIR, path)
            if name not in folder.names:
                raise failure(errno.ENOENT, path)
            number = folder.names[name]
        return number

    def key(self) -> int:
        """The same for disks that hold the same and may lose the same."""
        return hash(
            tuple(
                (
                    number,
                    bytes(node.data) if isinstance(node, _File) else tuple(node.names.items()),
                    node.durable if isinstance(node, _File) else tuple(node.durable.items()),
                    tuple(node.unsynced),
                )
                for number, node in self.nodes.items()
            )
        )

    def new_number(self) -> int:
        """A number for a new file or folder."""
        return max(self.nodes) + 1

    def size(self) -> int:
        """Bytes in all files that have a name."""
        return sum(len(data) for _, data in self.walk() if data is not None)


def _parts(path: str | PathLike[str]) -> list[str]:
    return [name for name in fspath(path).split("/") if name not in {"", "."}]


def _change_data(data: bytearray, change: Change) -> None:
    if change[0] == "resize":
        size = change[2]
        del data[size:]
        data.extend(bytes(size - len(data)))
    else:
        _, _, offset, new = change
        data.extend(bytes(max(0, offset - len(data))))
        data[offset : offset + len(new)] = new


def _change_names(names: dict[str, int], change: Change) -> None:
    """Make one change of names, on its own if others were lost: the file that it speaks of decides."""
    verb, _, name, *rest = change
    if verb in {"create", "mkdir"}:
        names[name] = rest[0]
    elif verb == "unlink":
        if names.get(name) == rest[0]:
            del names[name]
    else:
        target, number = rest
        for old in [old for old, below in names.items() if below == number]:
            del names[old]
        names[target] = number


def _lose_data(file: _File, pick: Pick, stale: bytes) -> bytes:
    sizes = [len(file.durable)]
    sectors: dict[int, list[bytes]] = {}
    image = bytearray(file.durable)
    for change in file.unsynced:
        before = len(image)
        _change_data(image, change)
        sizes.append(len(image))
        start = min(before, change[2])
        end = change[2] + len(change[3]) if change[0] == "write" else max(before, len(image))
        for sector in range(start // SECTOR, -(-end // SECTOR)):
            at = slice(sector * SECTOR, (sector + 1) * SECTOR)
            if sector not in sectors:
                old = file.durable[at]
                sectors[sector] = [old.ljust(SECTOR, b"\0")] if old else [bytes(SECTOR), GARBAGE, stale]
            sectors[sector].append(bytes(image[at]).ljust(SECTOR, b"\0"))
    sizes = _distinct(sizes)
    size = sizes[pick(len(sizes))]
    left = bytearray(file.durable).ljust(size, b"\0")
    for sector in sorted(sectors):
        if sector * SECTOR < size:
            versions = _distinct(sectors[sector])
            left[sector * SECTOR : (sector + 1) * SECTOR] = versions[pick(len(versions))]
    return bytes(left[:size])


def _distinct(versions: list[Any]) -> list[Any]:
    """Without repetitions, the newest last."""
    return list(dict.fromkeys(reversed(versions)))[::-1]


def replay(start: SimDisk, journal: list[Change]) -> Iterator[SimDisk]:
    """The disk after 0, 1, 2, ... changes; one object, changed between the turns."""
    disk = start.copy()
    yield disk
    for change in journal:
        disk.apply(change)
        yield disk


def oldest(_: int) -> int:
    """Lose whatever can be lost."""
    return 0


def newest(n: int) -> int:
    """Lose nothing."""
    return n - 1


def power_losses(disk: SimDisk, rng: random.Random, *, exhaustive: int = 64, samples: int = 16) -> Iterator[SimDisk]:
    """Every state that a power cut may leave, when they are at most `exhaustive`, else some of them.

    The samples are the state in which nothing is lost, the one in which everything is, and random ones between.
    """
    states = []
    path: list[list[int]] = []  # decisions of the state to come: what is picked, and of how many
    while len(states) <= exhaustive:
        states.append(disk.power_loss(_follow(path)))
        while path and path[-1][0] == path[-1][1] - 1:
            path.pop()
        if not path:
            yield from states
            return
        path[-1][0] += 1
    yield disk.power_loss(oldest)
    yield disk.power_loss(newest)
    for _ in range(samples - 2):
        yield disk.power_loss(_between(rng, rng.choice((0.1, 0.5, 0.9))))


def _follow(path: list[list[int]]) -> Pick:
    """Take the decisions of `path`, then add the first way of each further one."""
    position = 0

    def pick(n: int) -> int:
        nonlocal position
        if position == len(path):
            path.append([0, n])
        position += 1
        return path[position - 1][0]

    return pick


def _between(rng: random.Random, new: float) -> Pick:
    """The newest with probability `new`, else any."""
    return lambda n: n - 1 if rng.random() < new else rng.randrange(n)


class SimFile:
    """The `skeg.fileops.File` of a `SimOps`."""

    def __init__(self, ops: SimOps, number: int, *, write: bool) -> None:
        self._ops = ops
        self._number = number
        self._write = write
        self._open = True

    def _begin(self, verb: str, denied: int = 0) -> tuple[bytearray, bool]:
        short = self._ops.begin(verb, self._number)
        if not self._open or (denied and not self._write):
            raise failure(denied if self._open else errno.EBADF)
        node = self._ops.disk.nodes[self._number]
        assert isinstance(node, _File)
        return node.data, short

    def pread(self, length: int, offset: int) -> bytes:
        data, short = self._begin("pread")
        return bytes(data[offset : offset + (-(-length // 2) if short else length)])

    def pwrite(self, data: Bytes, offset: int) -> int:
        old, short = self._begin("pwrite", errno.EBADF)
        new = bytes(data)
        if short:
            new = new[: -(-len(new) // 2)]
        if new:
            room = self._ops.room()
            new = new[: max(0, len(old) + room - offset)]
            if not new:
                raise failure(errno.ENOSPC)
            self._ops.change("write", self._number, offset, new)
        return len(new)

    def write_through(self, data: Bytes, offset: int) -> int:
        taken = self.pwrite(data, offset)
        self.sync()
        return taken

    def sync(self) -> None:
        self._begin("sync")
        self._ops.change("sync", self._number)

    def allocate(self, offset: int, length: int) -> None:
        data, _ = self._begin("allocate", errno.EBADF)
        if offset + length > len(data):
            if offset + length - len(data) > self._ops.room():
                raise failure(errno.ENOSPC)
            self._ops.change("resize", self._number, offset + length)

    def truncate(self, size: int) -> None:
        data, _ = self._begin("truncate", errno.EINVAL)
        if size != len(data):
            self._ops.change("resize", self._number, size)

    def size(self) -> int:
        return len(self._begin("size")[0])

    def close(self) -> None:
        if self._open:
            self._open = False
            self._ops.begin("close")


class _Lock:
    def __init__(self, locked: set[int], number: int) -> None:
        self._locked = locked
        self._number = number

    def release(self) -> None:
        self._locked.discard(self._number)


class SimOps:
    """The `skeg.fileops.FileOps` of a disk in memory.

    Parameters
    ----------
    disk : SimDisk
        What it works on.
    faults : dict of int to int or SHORT
        What goes wrong at the n-th call, 1 and up: the code of an OSError, or a read or write of half the bytes.
    space : int
        Bytes that the files of the disk may hold together; what is beyond raises ENOSPC.
    """

    def __init__(self, disk: SimDisk, *, faults: dict[int, Any] | None = None, space: int = 1 << 60) -> None:
        self.disk = disk
        self.faults = faults or {}
        self.space = space
        self.calls: list[str] = []
        self.journal: list[Change] = []

    def begin(self, verb: str, number: int = 0) -> bool:
        """Count a call and let it fail if that is planned; return whether it is to do half of its work."""
        self.calls.append(verb)
        fault = self.faults.get(len(self.calls), 0)
        if fault and fault != SHORT:
            if verb in {"sync", "sync_dir"}:
                self.change("sync_failed", number)
            raise failure(fault)
        return fault == SHORT

    def change(self, *change: Any) -> None:
        """Write a change to the journal and make it."""
        self.journal.append(change)
        self.disk.apply(change)

    def room(self) -> int:
        """Bytes that can still be taken."""
        return max(0, self.space - self.disk.size())

    def open(self, path: str | PathLike[str], *, write: bool = False, create: bool = False) -> SimFile:
        self.begin("create" if create else "open")
        if create:
            folder, name = self._place(path)
            self._refuse_existing(folder, name, path)
            number = self.disk.new_number()
            self.change("create", folder, name, number)
            return SimFile(self, number, write=True)
        number = self.disk.find(path)
        if isinstance(self.disk.nodes[number], _Folder):
            raise failure(errno.EISDIR, path)
        return SimFile(self, number, write=write)

    def listdir(self, path: str | PathLike[str]) -> list[str]:
        self.begin("listdir")
        return sorted(self._folder(self.disk.find(path), path).names, reverse=True)

    def mkdir(self, path: str | PathLike[str]) -> None:
        self.begin("mkdir")
        folder, name = self._place(path)
        self._refuse_existing(folder, name, path)
        self.change("mkdir", folder, name, self.disk.new_number())

    def rename(self, source: str | PathLike[str], target: str | PathLike[str]) -> None:
        self.begin("rename")
        number = self.disk.find(source)
        folder, new = self._place(target)
        assert folder == self._place(source)[0], "a rename to another folder is not one change"
        there = self.disk.nodes.get(self._folder(folder, target).names.get(new, -1))
        moves_folder = isinstance(self.disk.nodes[number], _Folder)
        if isinstance(there, _Folder) and not moves_folder:
            raise failure(errno.EISDIR, target)
        if isinstance(there, _File) and moves_folder:
            raise failure(errno.ENOTDIR, target)
        if isinstance(there, _Folder) and there.names and there is not self.disk.nodes[number]:
            raise failure(errno.ENOTEMPTY, target)
        if there is not self.disk.nodes[number]:
            self.change("rename", folder, _parts(source)[-1], new)

    def unlink(self, path: str | PathLike[str]) -> None:
        self.begin("unlink")
        folder, name = self._place(path)
        if isinstance(self.disk.nodes[self.disk.find(path)], _Folder):
            raise failure(errno.EISDIR, path)
        self.change("unlink", folder, name)

    def sync_dir(self, path: str | PathLike[str]) -> None:
        number = self.disk.find(path)
        self.begin("sync_dir", number)
        self._folder(number, path)
        self.change("sync_dir", number)

    def lock(self, path: str | PathLike[str]) -> _Lock:
        self.begin("lock")
        folder, name = self._place(path)
        names = self._folder(folder, path).names
        if name not in names:
            self.change("create", folder, name, self.disk.new_number())
        number = names[name]
        if number in self.disk.locked:
            raise LockedError(path, "already open for writing: pid 1 on host sim")
        self.disk.locked.add(number)
        return _Lock(self.disk.locked, number)

    def _folder(self, number: int, path: object) -> _Folder:
        node = self.disk.nodes[number]
        if not isinstance(node, _Folder):
            raise failure(errno.ENOTDIR, path)
        return node

    def _place(self, path: str | PathLike[str]) -> tuple[int, str]:
        """Folder and name of a path that need not exist."""
        *above, name = _parts(path)
        folder = self.disk.find("/".join(above))
        self._folder(folder, path)
        return folder, name

    def _refuse_existing(self, folder: int, name: str, path: object) -> None:
        if name in self._folder(folder, path).names:
            raise failure(errno.EEXIST, path)
