"""What is committed together: the records of a round, and what they did to the index."""

from __future__ import annotations

from array import array

from skeg.durability import Durability
from skeg.errors import StorageError
from skeg.kv.batches import U64
from skeg.kv.cache import Written
from skeg.kv.segments import Segment


class Extent:
    """Staged records that stand one behind the other in one segment."""

    __slots__ = ("attempted", "end", "offsets", "overhead", "records", "segment", "start", "tombstones")

    def __init__(self, segment: Segment, start: int) -> None:
        self.segment = segment
        self.start = self.end = start
        self.tombstones = self.overhead = 0
        # Whether some of it may be in the file.
        self.attempted = False
        self.records: list[bytes] = []
        self.offsets: list[int] = []


class Round:
    """Records that are committed together, and how to take them back.

    Three arrays say what the records did to the index: the slot of `hashes[i]` that was `olds[i]` (0: none) became
    `news[i]` (0: none).
    """

    __slots__ = (
        "acknowledged",
        "deleted",
        "done",
        "error",
        "extents",
        "hashes",
        "last_seq",
        "level",
        "nbytes",
        "news",
        "olds",
        "written",
    )

    def __init__(self) -> None:
        self.extents: list[Extent] = []
        self.hashes, self.olds, self.news = array("Q"), array("Q"), array("Q")
        # Hashes of keys that it deletes.
        self.deleted: set[int] = set()
        # What was withdrawn from the cache until this is committed.
        self.written: Written = {}
        self.level = Durability.NONE
        # Whether some of its records were acknowledged already.
        self.acknowledged = False
        self.nbytes = 0
        self.last_seq = 0
        self.done = False
        self.error: StorageError | None = None

    def is_done(self) -> bool:
        """Whether it was committed or has failed."""
        return self.done

    def finish(self, error: StorageError | None = None) -> None:
        """It was committed or has failed: let go of all but that."""
        self.extents = []
        self.hashes, self.olds, self.news = array("Q"), array("Q"), array("Q")
        self.deleted, self.written = set(), {}
        self.error = error
        self.done = True

    def add(self, hashed: int, old: int, new: int) -> None:
        """Remember a change of the index."""
        self.hashes.append(hashed)
        self.olds.append(old)
        self.news.append(new)

    def add_many(self, hashes: U64, olds: U64, news: U64) -> None:
        """Remember changes of the index, arrays (n,)."""
        self.hashes.frombytes(hashes.tobytes())
        self.olds.frombytes(olds.tobytes())
        self.news.frombytes(news.tobytes())

    def write(self, written: Written) -> None:
        """Remember what was withdrawn from the cache; a key that is written again counts once."""
        for key in self.written.keys() & written.keys() if self.written else ():
            entry = written[key][0]
            if entry is self.written[key][0]:
                entry.writes -= 1
        self.written |= written
