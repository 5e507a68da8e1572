"""What a changing index holds in memory, and the one place where writes are applied, new ones and those replayed."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.format import MANIFEST, Live, Manifest
from skeg.ann.live.parts import SegmentPart
from skeg.ann.live.rows import Encoded, LiveRows
from skeg.ann.live.view import View
from skeg.ann.params import DEFAULT_LIST_SIZE, GraphParams
from skeg.ann.searcher import GraphSearcher
from skeg.ann.segment import GraphSegment
from skeg.ann.transform import Float32s, RowTransform
from skeg.errors import CorruptError, ParameterError

MERGE_ROWS_MIN = 4096
"""Rows in memory that are merged, at least."""

MERGE_SHARE = 0.06
"""Rows in memory that are merged, as a share of the segment's: a merge reads and writes all of that, a search reads all
of them."""

DEAD_SHARE = 0.06
"""Dead rows of a segment that are worth a merge."""

CHUNK_ROWS = 1024
"""Rows of one record of the log, at most: what is written and synced at once."""

Ids = npt.NDArray[np.uint64]


@attrs.frozen(eq=False)
class Snapshot:
    """What a merge takes together: the index as it was when a new log began.

    segment : with the rows (m,) uint32 of it that were alive; rows : parts in memory, each with the rows (m,) int64 of
    it that were; first_log : number of the log that holds what came after.
    """

    segment: SegmentPart | None
    kept: npt.NDArray[np.uint32]
    rows: tuple[tuple[LiveRows, npt.NDArray[np.int64]], ...]
    first_log: int


class State:
    """The parts of an index, changed under the writer's lock and searched without one.

    Parameters
    ----------
    path : Path
        Folder of the index.
    manifest : Manifest

    Raises
    ------
    CorruptError
        The segment does not agree with the manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        try:
            self.params = GraphParams.of_build(manifest.build)
        except ParameterError as error:
            raise CorruptError(path / MANIFEST, f"build setting out of range ({error})") from error
        self._touched: list[Ids] | None = None
        self.adopt(manifest, self.open_part(manifest), ())

    def open_part(self, manifest: Manifest) -> SegmentPart | None:
        """The manifest's segment, opened; None for an index without rows."""
        if manifest.count == 0:
            return None
        return SegmentPart(GraphSearcher(self.path, manifest, GraphSegment(self.path, manifest)))

    def adopt(self, manifest: Manifest, segment: SegmentPart | None, rows: Sequence[LiveRows]) -> None:
        """Hold this segment and these rows from now on."""
        self.manifest = manifest
        self.view = View.of(self.path, manifest, segment, rows or [self._new_rows(segment)])

    def retune(self, manifest: Manifest) -> None:
        """Take over a manifest that differs in the settings of a search only."""
        segment = self.view.segment
        if segment is not None:
            segment.searcher.retune(manifest)
        self.adopt(manifest, segment, self.view.rows)

    def close(self) -> None:
        """Hold nothing any more, so that who still has the index does not keep it in memory."""
        segment = self.view.segment
        self.view = View.of(self.path, self.manifest, None, ())
        if segment is not None:
            segment.searcher.close()

    def _new_rows(self, segment: SegmentPart | None) -> LiveRows:
        m = self.manifest
        transform = RowTransform.rotating(np.zeros(m.dim, np.float32), m.metric, self.params.seed)
        if segment is not None:
            transform = segment.quantizer.transform
            if m.kind in ("f32", "binary"):  # whose transform does not rotate
                transform = RowTransform.rotating(transform.mean, m.metric, self.params.seed)
        return LiveRows(transform, self.params, 2 * self.merge_rows + CHUNK_ROWS)

    @property
    def merge_rows(self) -> int:
        """Rows in memory that are merged."""
        return max(MERGE_ROWS_MIN, int(MERGE_SHARE * self.manifest.count))

    @property
    def newest(self) -> LiveRows:
        """Where rows are added."""
        return self.view.rows[-1]

    @property
    def room(self) -> int:
        """Rows that can still be added to the newest part; none of a closed one."""
        return self.newest.capacity - self.newest.count if self.view.rows else 0

    @property
    def wants_merge(self) -> bool:
        """Whether there is so much in memory, or so much dead, that a merge pays."""
        segment = self.view.segment
        dead = 0 if segment is None else segment.n_dead
        waiting = sum(rows.count for rows in self.view.rows)
        return waiting >= self.merge_rows or dead > max(DEAD_SHARE * self.manifest.count, CHUNK_ROWS)

    @property
    def is_merged(self) -> bool:
        """Whether a merge would change nothing: all rows are in the segment and alive."""
        segment = self.view.segment
        return (segment is None or not segment.n_dead) and not any(rows.count for rows in self.view.rows)

    def put(self, ids: Ids, vectors: Float32s, encoded: Encoded, payloads: Sequence[bytes]) -> None:
        """Add rows to the newest part, which has room for them, and then bury older ones of the same ids.

        In this order, so that a search finds an old row or a new one, or both, of which the new one counts.
        """
        view = self.view
        view.rows[-1].append(ids, vectors, encoded, payloads)
        self._bury(ids, view.rows[:-1])

    def remove(self, ids: Ids) -> None:
        """Bury the rows of those ids."""
        self._bury(ids, self.view.rows)

    def _bury(self, ids: Ids, rows: Sequence[LiveRows]) -> None:
        some = ids.tolist()
        for part in rows:
            part.remove(some)
        if self.view.segment is not None:
            self.view.segment.remove(ids)
        if self._touched is not None:
            self._touched.append(ids)

    def add_part(self) -> None:
        """Add rows to a new part from now on."""
        view = self.view
        self.view = View.of(self.path, self.manifest, view.segment, [*view.rows, self._new_rows(view.segment)])

    def freeze(self, first_log: int) -> Snapshot:
        """What a merge takes together; from now on rows are added to a new part, and it is noted what changes."""
        view = self.view
        segment = view.segment
        kept = np.zeros(0, np.uint32) if segment is None else np.flatnonzero(segment.alive).astype(np.uint32)
        rows = tuple((part, np.flatnonzero(part.alive[: part.count])) for part in view.rows if part.count)
        if view.rows[-1].count:
            self.add_part()
        self._touched = []
        return Snapshot(segment, kept, rows, first_log)

    def thaw(self) -> None:
        """A merge failed: what it took stays where it was."""
        self._touched = None

    def swap(self, taken: Snapshot, manifest: Manifest, segment: SegmentPart | None) -> None:
        """Replace what a merge took by the segment it made, and repeat in that what happened since."""
        touched, self._touched = self._touched or [], None
        if segment is not None:
            for ids in touched:
                segment.remove(ids)
        merged = [part for part, _ in taken.rows]
        self.adopt(manifest, segment, [part for part in self.view.rows if part.count and part not in merged])


def empty_search() -> dict[str, Any]:
    """Settings of the search of an index that has no segment yet."""
    return {"list_size": DEFAULT_LIST_SIZE, "margins": [], "code_error": 0.0}


def empty_manifest(dim: int, metric: str, kind: str, params: GraphParams) -> Manifest:
    """Manifest of a new index without rows."""
    return Manifest(
        backend="disk", dim=dim, count=0, metric=metric, kind=kind, files={}, build=params.as_dict(),
        search=empty_search(), live=new_live(),
    )  # fmt: skip


def new_live() -> Live:
    """What the manifest of an index says that has never changed yet."""
    return Live(uid=secrets.token_hex(16), generation=1, first_log=1)
