"""Finding the record of a key: the index knows hashes and places, and whose record stands there the log has to tell."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import numpy as np

from skeg.errors import CorruptError
from skeg.kv import format as fmt
from skeg.kv.batches import I64, U64
from skeg.kv.index import Index
from skeg.kv.log import Log
from skeg.kv.segments import Folder, Segment

# Records below which it is as quick to count one after the other.
_COUNTED_ALONE = 128


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
        self, keys: Sequence[bytes], entries: Sequence[tuple[int, int]], but: Container[int], known: Container[bytes]
    ) -> list[int]:
        """As `find`, for many keys.

        Parameters
        ----------
        keys : sequence of bytes
        entries : sequence of (int, int)
            Hash of each, and its location; that is 0 if the hash has several.
        but : container of int
            Locations to pass over.
        known : container of bytes
            Keys that are known to have a record. If it is the only one of their hash, it need not be read.
        """
        found = []
        number, end = -1, 0
        read: Callable[[int, int], bytes] = _no_file
        for key, (hashed, location) in zip(keys, entries, strict=True):
            if key in known and location:
                found.append(location)
                continue
            if location >> fmt.SEGMENT_SHIFT != number and location:
                number = location >> fmt.SEGMENT_SHIFT
                segment = self._folder[number]
                end = segment.committed
                # Where nothing was committed, there may be no file.
                read = self._folder.open(segment).pread if end else _no_file
            offset = (location >> fmt.SIZE_BITS & fmt.OFFSET_MASK) << 3
            klen = len(key)
            head = b""
            if location and offset < end and location not in but:
                try:  # noqa: SIM105 - costs nothing in this loop
                    head = read(fmt.RECORD_BYTES + klen, offset)
                except OSError:
                    pass
            if not head.endswith(key) or len(head) != fmt.RECORD_BYTES + klen or fmt.unpack_klen(head) != klen:
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

    def note_large(self, locations: U64, sizes: I64) -> None:
        """Remember the sizes (n,) of records that their locations (n,) don't tell."""
        if sizes.max() >= fmt.LARGE_BYTES:
            which = sizes >= fmt.LARGE_BYTES
            self.large.update(zip(locations[which].tolist(), sizes[which].tolist(), strict=True))

    def count_dead(self, location: int, sign: int = 1) -> None:
        """Count the bytes of a record that no longer counts, or does again; 0 is none."""
        if location:
            size = location & fmt.SIZE_MASK
            nbytes = self.large[location] if size == fmt.SIZE_MASK else size << 3
            self._folder[location >> fmt.SEGMENT_SHIFT].dead += sign * nbytes

    def count_dead_many(self, locations: U64) -> None:
        """Count the bytes of records that no longer count; none of the locations (n,) is 0."""
        words = (locations & np.uint64(fmt.SIZE_MASK)).astype(np.int64)
        if len(words) < _COUNTED_ALONE or words.max() == fmt.SIZE_MASK:
            for location in locations.tolist():
                self.count_dead(location)
            return
        numbers, which = np.unique(locations >> np.uint64(fmt.SEGMENT_SHIFT), return_inverse=True)
        sums = np.bincount(which, words << 3)  # as doubles, which are exact for as many bytes as there are
        for number, nbytes in zip(numbers.tolist(), sums.tolist(), strict=True):
            self._folder[number].dead += int(nbytes)


def _no_file(_: int, __: int) -> bytes:
    return b""


def value_in(segment: Segment, offset: int, nbytes: int, data: bytes, key: bytes) -> bytes | None:
    """Value in the bytes of a record, None if it is of another key; CorruptError if they are damaged."""
    try:
        if len(data) == nbytes:
            return fmt.value_of(data, segment.place, offset, key)
    except ValueError:
        pass
    raise CorruptError(segment.path, "record does not match its checksum", offset=offset)
