"""The files of one shard: segments and their hints, by id.

Names in the shard's folder: ``<id>.log`` and ``<id>.hint`` with ids of ten decimal digits; ``<name>.tmp`` while one is
being made. Everything else in the folder is left alone.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from skeg.errors import CorruptError
from skeg.fileops import File, FileOps, read_all, write_all
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.hints import Hint, pack_hint, unpack_hint

_NAME = re.compile(r"([0-9]{10})\.(log|hint)")

# Bytes after which a file that is written in the background is synced: whoever waits for the disk then waits for no
# more than that.
SYNC_BYTES = 512 << 10

# Far beyond any segment: all of a closed segment is committed.
CLOSED = 1 << 62


class Segment:
    """One file of the log.

    Parameters
    ----------
    header : SegmentHeader
        Its first 64 bytes.
    path : path
        Where the file is, or will be.
    salt : int
        `Manifest.shard_salt`.
    """

    __slots__ = (
        "committed",
        "damaged",
        "dead",
        "durable",
        "end",
        "file",
        "header",
        "hinted",
        "id",
        "overhead",
        "path",
        "place",
        "reserved",
        "sources",
        "tombstones",
        "torn",
    )

    def __init__(self, header: fmt.SegmentHeader, path: Path, salt: int) -> None:
        self.header = header
        self.id = header.segment
        self.path = path
        self.place = fmt.place_of(salt, header.segment)
        # Offset behind the last record, staged ones included.
        self.end = fmt.HEADER_BYTES
        # Offset below which records are acknowledged, and below which they are known to be on stable storage.
        self.committed = CLOSED
        self.durable = fmt.HEADER_BYTES
        # Size of the file with the space reserved behind the last record.
        self.reserved = 0
        # Bytes of records that no longer count, of tombstones, and of what belongs to no key (batches, lineage).
        self.dead = 0
        self.overhead = 0
        self.tombstones = 0
        # Ids that it stands for, if this process made it by compaction.
        self.sources: frozenset[int] = frozenset()
        # Length of the part that its hint speaks of.
        self.hinted = 0
        # Recovery found its last records not whole, or passed over damage in it.
        self.torn = False
        self.damaged = False
        self.file: File | None = None

    @property
    def compacted(self) -> bool:
        """Whether compaction wrote it."""
        return bool(self.header.flags & fmt.COMPACTED)

    @property
    def live(self) -> int:
        """Bytes of records that count."""
        return self.end - fmt.HEADER_BYTES - self.dead - self.tombstones - self.overhead


class Folder:
    """The segments of a shard and the files that they are in.

    Parameters
    ----------
    path : path
        The shard's folder.
    files : FileOps
        How to reach the disk.
    shard_id, salt : bytes, int
        `Manifest.shard_id` and `Manifest.shard_salt`.
    max_open : int
        Files held open at a time, not counting those in use at the moment.
    """

    def __init__(self, path: Path, files: FileOps, shard_id: bytes, salt: int, max_open: int = 256) -> None:
        self.path = path
        self.files = files
        self.shard_id = shard_id
        self.salt = salt
        self._segments: dict[int, Segment] = {}
        self._opened: deque[Segment] = deque()
        self._max_open = max_open

    def __getitem__(self, segment: int) -> Segment:
        return self._segments[segment]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments.values())

    def __len__(self) -> int:
        return len(self._segments)

    def get(self, segment: int) -> Segment | None:
        """The segment of that id, if there is one."""
        return self._segments.get(segment)

    def add(self, header: fmt.SegmentHeader) -> Segment:
        """Make a segment known; its file may not exist yet."""
        segment = Segment(header, self.log_path(header.segment), self.salt)
        self._segments[segment.id] = segment
        return segment

    def forget(self, segment: Segment) -> None:
        """Make a segment unknown; its file closes when the last reader is done with it."""
        del self._segments[segment.id]
        if segment.file is not None:
            segment.file = None
            self._opened.remove(segment)

    def close(self) -> None:
        """Let go of all files."""
        self._opened.clear()
        for segment in self:
            segment.file = None

    def log_path(self, segment: int) -> Path:
        """Path of a segment."""
        return self.path / f"{segment:010d}.log"

    def hint_path(self, segment: int) -> Path:
        """Path of a segment's hint."""
        return self.path / f"{segment:010d}.hint"

    def listing(self) -> tuple[list[int], list[int], list[Path]]:
        """Ids of the logs and of the hints in the folder, in order, and what was left half made."""
        with disk_errors(self.path, "list the folder"):
            names = self.files.listdir(self.path)
        matches = [match for match in map(_NAME.fullmatch, names) if match]
        ids = {kind: sorted(int(m[1]) for m in matches if m[2] == kind) for kind in ("log", "hint")}
        unfinished = [self.path / name for name in names if name.endswith(".tmp") and _NAME.fullmatch(name[:-4])]
        return ids["log"], ids["hint"], unfinished

    def open(self, segment: Segment) -> File:
        """The open file of a segment. A caller may read it for as long as it holds the reference."""
        file = segment.file
        if file is None:
            with disk_errors(segment.path, "open"):
                file = self.files.open(segment.path, write=segment.committed != CLOSED)
            self.hold(segment, file)
        return file

    def hold(self, segment: Segment, file: File) -> None:
        """Keep a file open; the one that was opened first gives way if there are too many."""
        segment.file = file
        self._opened.append(segment)
        for _ in range(len(self._opened)):
            if len(self._opened) <= self._max_open:
                break
            oldest = self._opened.popleft()
            if oldest.committed == CLOSED:
                oldest.file = None
            else:
                self._opened.append(oldest)  # still written to

    def read(self, segment: Segment, offset: int, length: int) -> bytes:
        """Read a range of a segment's file; fewer bytes at its end."""
        file = self.open(segment)
        try:
            data = file.pread(length, offset)
        except OSError:
            data = b""
        if len(data) == length:
            return data
        with disk_errors(segment.path, "read"):
            return read_all(file, length, offset)  # rarely: then with all precautions

    def read_header(self, segment: int) -> fmt.SegmentHeader:
        """Header of a segment that is not known yet."""
        path = self.log_path(segment)
        with disk_errors(path, "read"):
            data = read_all(self.files.open(path), fmt.HEADER_BYTES, 0)
        return fmt.unpack_header(data, path, shard_id=self.shard_id, segment=segment)

    def size(self, segment: Segment) -> int:
        """Bytes of a segment's file."""
        with disk_errors(segment.path, "look at"):
            return self.open(segment).size()

    def read_hint(self, segment: Segment) -> Hint | None:
        """The hint of a segment, or None if there is none that is sound."""
        path = self.hint_path(segment.id)
        try:
            file = self.files.open(path)
            data = read_all(file, file.size(), 0)
            return unpack_hint(data, path, shard_id=self.shard_id, segment=segment.id)
        except (OSError, CorruptError):
            return None

    def write_hint(self, hint: Hint, pause: Callable[[], None]) -> None:
        """Write or replace the hint of a segment, calling `pause` between pieces. Raises StorageError.

        A crash may leave a hint that is damaged: it is made anew.
        """
        path = self.hint_path(hint.segment)
        temporary = path.with_name(path.name + ".tmp")
        data = memoryview(pack_hint(hint, self.shard_id))
        with disk_errors(path, "write"):
            self.remove([temporary])
            file = self.files.open(temporary, create=True)
            for offset in range(0, len(data), SYNC_BYTES):
                write_all(file, data[offset : offset + SYNC_BYTES], offset)
                file.sync()
                pause()
            file.close()
            self.files.rename(temporary, path)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files; those that are missing are no error, other trouble is (OSError)."""
        for path in paths:
            try:
                self.files.unlink(path)
            except FileNotFoundError:
                continue

    def set_aside(self, path: Path) -> None:
        """Give a damaged file a name under which it is kept and not looked at (OSError)."""
        self.files.rename(path, path.with_name(path.name + ".damaged"))

    def sync(self) -> None:
        """Make the names in the folder durable."""
        with disk_errors(self.path, "sync the folder"):
            self.files.sync_dir(self.path)
