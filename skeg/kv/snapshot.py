"""Reading all records of shards as they are at one moment, while they go on changing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from skeg.errors import CorruptError, StorageError
from skeg.kv import format as fmt
from skeg.kv.index import Frozen
from skeg.kv.locking import with_locks
from skeg.kv.retirement import unpin
from skeg.kv.rounds import Round
from skeg.kv.segments import Segment
from skeg.kv.shard import Shard

# Bytes read at a time.
_WINDOW_BYTES = 1 << 20


class Snapshot:
    """The keys and values of shards when it was entered. Use it in a ``with`` block.

    While it is open, compaction leaves the files that it reads.

    Parameters
    ----------
    shards : sequence of Shard
        What to read.

    Attributes
    ----------
    frozen : list of Frozen
        The index of each shard.
    segments : list of dict
        For each shard, by id, its segments and how far their records go.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self.frozen: list[Frozen] = []
        self.segments: list[dict[int, tuple[Segment, int]]] = []

    def __enter__(self) -> Self:
        while True:
            # All locks at once: what one shard shows does not depend on what another one doesn't show yet.
            rounds = with_locks(self.shards, self._freeze)
            try:
                # What is seen must be committed, so that it can be read from files and can't be undone any more.
                for shard, round_ in zip(self.shards, rounds, strict=True):
                    if shard.writable:
                        shard.log.commit(round_)
            except StorageError:  # and taken back: look again
                self._unpin()
                continue
            except BaseException:
                self._unpin()
                raise
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unpin()

    def _freeze(self) -> list[Round]:
        """With the locks: what is to be read, and what has to be committed before."""
        for shard in self.shards:
            shard.check_open()
        self.frozen = [shard.index.freeze() for shard in self.shards]
        self.segments = [{segment.id: (segment, segment.end) for segment in shard.folder} for shard in self.shards]
        for shard in self.shards:
            shard.pins.add(self)
        return [shard.log.pending[-1] for shard in self.shards]

    def _unpin(self) -> None:
        for shard in self.shards:
            unpin(shard, self)

    def records(self, number: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes, int]]:
        """Records of the shard `number` whose keys start with `prefix`, in the order of the log.

        Takes 8 bytes of memory for each key of the shard.

        Yields
        ------
        key, value, location
            Two bytes objects and an int.

        Raises
        ------
        CorruptError
            A record does not check out.
        StorageError
            The disk refused.
        """
        shard, segments = self.shards[number], self.segments[number]
        locations = np.sort(self.frozen[number].locations())
        window, base, segment = b"", 0, None
        for location in locations.tolist():
            which, offset, nbytes = fmt.unpack_location(location)
            nbytes = nbytes or shard.records.large[location]
            if segment is None or which != segment.id or offset + nbytes > base + len(window):
                segment = segments[which][0]
                base = offset
                window = shard.read(segment, offset, max(_WINDOW_BYTES, nbytes))
            if shard.closed:
                shard.check_open()
            start = offset - base
            record = window[start : start + nbytes]
            head = fmt.read_record(memoryview(record), 0, segment.place, offset)
            if head is None:
                raise CorruptError(segment.path, "record does not match its checksum", offset=offset)
            end = fmt.RECORD_BYTES + head.klen
            key = record[fmt.RECORD_BYTES : end]
            if key.startswith(prefix):
                yield key, record[end : end + head.vlen], location
