"""Finding the record of a key: the index knows hashes and places, and whose record stands there the log has to tell."""

from __future__ import annotations

from collections.abc import Container, Sequence

from skeg.errors import CorruptError
from skeg.fileops import File
from skeg.kv import format as fmt
from skeg.kv.index import Index
from skeg.kv.log import Log
from skeg.kv.segments import Folder, Segment


class Records:
    """The records of a shard, committed and staged. All methods are called with the shard's lock.

    Parameters
    ----------
    folder : Folder
    index : Index
    log : Log
    large : dict
        Bytes of the records whose locations don't tell.
    """

    def __init__(self, folder: Folder, index: Index, log: Log, large: dict[int, int]) -> None:
        self._folder = folder
        self._index = index
        self._log = log
        self.large = large

    def where(self, location: int) -> tuple[Segment, int, int]:
        """Segment, offset and bytes of a record."""
        number, offset, nbytes = fmt.unpack_location(location)
        return self._folder[number], offset, nbytes or self.large[location]

    def find(self, hashed: int, key: bytes, but: Container[int] = ()) -> int:
        """Location of a key's record, or 0, without reading its value; `but` are locations to pass over."""
        for location in self._index.find_all(hashed):
            if location not in but and self._key_at(location, len(key)) == key:
                return location
        return 0

    def find_many(
        self, keys: Sequence[bytes], hashes: Sequence[int], likely: Sequence[int], but: Container[int]
    ) -> list[int]:
        """As `find`, for many keys, each with the location that it most likely has; never 0."""
        found = []
        number, end = -1, 0
        file: File | None = None
        for key, hashed, location in zip(keys, hashes, likely, strict=True):
            if location >> fmt.SEGMENT_SHIFT != number:
                number = location >> fmt.SEGMENT_SHIFT
                segment = self._folder[number]
                end = segment.committed
                file = self._folder.open(segment) if end else None  # nothing of it was committed: there may be no file
            offset = (location >> fmt.SIZE_BITS & fmt.OFFSET_MASK) << 3
            head = b""
            if file is not None and offset < end and location not in but:
                try:
                    head = file.pread(fmt.RECORD_BYTES + len(key), offset)
                except OSError:
                    head = b""
            if head[fmt.RECORD_BYTES :] != key or not head or fmt.unpack_klen(head) != len(key):
                location = self.find(hashed, key, but)  # noqa: PLW2901 - rarely, and with all precautions
            found.append(location)
        return found

    def _key_at(self, location: int, klen: int) -> bytes | None:
        """The key of a record if it has `klen` bytes, else None."""
        segment, offset, nbytes = self.where(location)
        wanted = fmt.RECORD_BYTES + klen
        if nbytes < wanted:
            return None
        if offset >= segment.committed:
            data = self._log.staged(segment, offset, wanted)[0]
        else:
            data = self._folder.read(segment, offset, wanted)
        if len(data) < wanted:
            raise CorruptError(segment.path, "the file ends in a record", offset=offset)
        return data[fmt.RECORD_BYTES :] if fmt.unpack_klen(data) == klen else None

    def count_dead(self, locations: Sequence[int], sign: int = 1) -> None:
        """Count the bytes of records that no longer count, or do again; 0 is none."""
        folder, large = self._folder, self.large
        for location in locations:
            if location:
                size = location & fmt.SIZE_MASK
                nbytes = large[location] if size == fmt.SIZE_MASK else size << 3
                folder[location >> fmt.SEGMENT_SHIFT].dead += sign * nbytes
